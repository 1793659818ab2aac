"""MLflow's store as this project uses it: the experiment and names that are our own, and a store that has moved."""

import logging
import os
import re
import sqlite3
from contextlib import closing, suppress
from getpass import getuser
from pathlib import Path
from platform import node

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llm.errors import UserError
from tasks.registry.server import check_server, is_server, server_errors, shown_address, tracking_uri
from tasks.stages.hashes import PREFIX
from tasks.stages.lock import exclusive

LOCKED_FOR = 30  # seconds to wait for another writer of a SQLite store
ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of a SQLite store that hold paths of artifacts."""
KIND, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""Tag of an experiment: MLflow then opens it as trainings, not as chats."""
NO_NAMESPACE = r"[^A-Za-z0-9._]"


def namespace() -> str:
    """The name of the experiment, and the prefix, before a dash, of every registered model's name.

    THREESTAGE_NAMESPACE, or `threestage` in a SQLite store. On a shared server it holds the names of user and machine,
    so that nobody moves the aliases of the team's models by accident. Raises UserError for a dash in it:
    `threestage-classifier` would belong to two namespaces.
    """
    if name := os.environ.get("THREESTAGE_NAMESPACE"):
        if re.search(NO_NAMESPACE, name):
            raise UserError(f"THREESTAGE_NAMESPACE={name}: only letters, digits, . and _, such as {PREFIX}_2")
        return name
    if tracking_uri().startswith("sqlite:"):
        return PREFIX
    try:
        user = getuser()
    except (KeyError, OSError):  # a container's user may have no name
        raise UserError("nobody knows who you are: set THREESTAGE_NAMESPACE, such as threestage") from None
    machine = node().partition(".")[0]
    return ".".join([PREFIX, re.sub(NO_NAMESPACE, "_", user), re.sub(NO_NAMESPACE, "_", machine)])


def configure_tracking() -> str:
    """Point MLflow at its store and choose the project's experiment. Returns the experiment's id.

    A SQLite store keeps its artifacts in mlartifacts/ next to it, also after the folder has moved; a server keeps them
    elsewhere. Raises UserError for a server that doesn't answer or refuses, and for a file that is no store.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # half a minute; MLflow's default is minutes
    mlflow.telemetry.set_telemetry_client()
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    if is_server(uri):
        check_server(uri)
    with exclusive("mlflow"):  # two processes that create the schema at once fail
        artifacts = _move_artifacts(Path(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:///") else None
        try:
            with server_errors():
                client = MlflowClient()
                name = namespace()
                if client.get_experiment_by_name(name) is None:
                    with suppress(MlflowException):  # another machine created it meanwhile, or the next line raises
                        client.create_experiment(name, artifact_location=artifacts)
                experiment = mlflow.set_experiment(name)
                if KIND not in experiment.tags:
                    client.set_experiment_tag(experiment.experiment_id, KIND, MODEL_TRAINING)
                return experiment.experiment_id
        except MlflowException as error:  # a deleted experiment, for example
            raise UserError(f"{shown_address(uri)}: {' '.join(str(error).split())}") from error


def _move_artifacts(database: Path) -> str:
    """Update the absolute paths of a store that was moved or copied with its artifacts. Returns the artifacts' folder.

    They moved if the artifacts of this experiment were in another folder `mlartifacts`. Only paths in that one change.
    """
    artifacts = database.absolute().with_name("mlartifacts")
    if not database.exists():
        return str(artifacts)
    try:
        with closing(sqlite3.connect(database, timeout=LOCKED_FOR)) as store, store:
            has_schema = store.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone()
            if not has_schema or not artifacts.is_dir():
                return str(artifacts)
            query = "SELECT artifact_location FROM experiments WHERE name = ?"
            (before,) = store.execute(query, (namespace(),)).fetchone() or ("",)
            if before != str(artifacts) and before.startswith("/") and before.endswith(f"/{artifacts.name}"):
                length = len(before) + 1
                for table, column in ARTIFACT_COLUMNS:
                    is_inside = f"substr({column} || '/', 1, ?) = ?"
                    update = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {is_inside}"
                    store.execute(update, (str(artifacts), length, length, f"{before}/"))
    except sqlite3.DatabaseError as error:
        raise UserError(f"{database}: {error}; is it a store of MLflow's, to which nobody else writes now?") from None
    return str(artifacts)
