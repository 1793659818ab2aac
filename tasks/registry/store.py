"""MLflow's store: its address, the experiment and names that are our own, and its errors on one line."""

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from getpass import getuser
from pathlib import Path
from platform import node
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_TIMEOUT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking._tracking_service.utils import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response
from requests import RequestException
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from llm.errors import UserError
from tasks.stages.hashes import PREFIX
from tasks.stages.lock import exclusive
from tasks.stages.ui import address

ANSWERS_WITHIN = 20
"""Seconds for the first answer of a tracking server, unless MLFLOW_HTTP_REQUEST_TIMEOUT is set; MLflow itself tries for
minutes."""
REASON_LENGTH = 300
TOO_MANY_REQUESTS, SERVER_ERRORS = 429, 500
PASSING = ("locked", "full")  # in what SQLite says of a store that may serve again
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

P = ParamSpec("P")
T = TypeVar("T")


class ServerAwayError(UserError):
    """The tracking server does not answer now; a retry may work."""


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or mlflow.db in this folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def is_server(uri: str) -> bool:
    """Whether an address is a tracking server's, which is shared."""
    return uri.startswith(("http:", "https:"))


def without_secret(text: str, uri: str) -> str:
    """A text without the user and password of a server's address."""
    secret = urlsplit(uri).netloc.rpartition("@")[0]
    return text.replace(f"{secret}@", "") if secret else text


def shown_address(uri: str) -> str:
    """The address for people."""
    return f"MLFLOW_TRACKING_URI={without_secret(uri, uri)}"


def mlflow_pages() -> str:
    """The address of MLflow's pages, on the tracking server or the one that `make ui` starts."""
    uri = tracking_uri()
    return without_secret(uri, uri).rstrip("/") if is_server(uri) else address("mlflow")


def is_missing(error: MlflowException) -> bool:
    """Whether an error of a store means that the name is unknown."""
    return error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def if_there(ask: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T | None:
    """The result of `ask` with these arguments; None if the store does not know the name."""
    try:
        return ask(*arguments, **options)
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


@contextmanager
def server_errors() -> Generator[None]:
    """Raise UserError, on one line, if a tracking server or a store fails, and ServerAwayError if a retry may help.

    It may if a server is away, if another program holds the SQLite store, or if that store's disk is full.
    """
    try:
        yield
    except OperationalError as error:  # MLflow opens the store
        raise _store_error(tracking_uri(), error.orig) from error
    except (MlflowException, RequestException) as error:  # downloads of artifacts raise the second
        uri = tracking_uri()
        if isinstance(error.__cause__, OperationalError) and not is_server(uri):
            raise _store_error(uri, error.__cause__.orig) from error
        if not is_server(uri):
            raise
        line = without_secret(" ".join(str(error).split()), uri)[:REASON_LENGTH]
        if _may_pass(error):
            raise ServerAwayError(f"{shown_address(uri)}: {line}; try again when it answers") from error
        raise UserError(f"{shown_address(uri)}: {line}") from error


def _store_error(uri: str, reason: BaseException | None) -> UserError:
    """An error that names the store's file, and says if a retry may help."""
    line = f"{uri.removeprefix('sqlite:///')}: {reason}"
    if any(word in str(reason) for word in PASSING):
        return ServerAwayError(f"{line}; the same command goes on once that is over")
    return UserError(line)


def _may_pass(error: MlflowException | RequestException) -> bool:
    """Whether a server is away, fails or has too much to do."""
    if isinstance(error.__cause__, MlflowException):  # such as one that a model may have been deleted
        return _may_pass(error.__cause__)
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    else:
        status = SERVER_ERRORS if error.response is None else error.response.status_code
    return status >= SERVER_ERRORS or status == TOO_MANY_REQUESTS


def check_server(uri: str) -> None:
    """Send one request, without retries and with a short timeout. Raises as `server_errors`."""
    path = "/api/2.0/mlflow/experiments/search"
    with server_errors():
        answer = http_request(
            get_default_host_creds(uri),
            path,
            "GET",
            max_retries=0,
            timeout=MLFLOW_HTTP_REQUEST_TIMEOUT.get() if MLFLOW_HTTP_REQUEST_TIMEOUT.is_set() else ANSWERS_WITHIN,
            raise_on_status=False,
            params={"max_results": 1},
        )
        verify_rest_response(answer, path)


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

    A SQLite store keeps its artifacts in mlartifacts/ next to it, also after the folder was moved or copied; a server
    keeps them elsewhere. Raises UserError for a
    server that doesn't answer or refuses, and for a file that is no store.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of errors that are raised, too
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
        except (MlflowException, SQLAlchemyError) as error:  # such as a deleted experiment, or a file that is no store
            raise UserError(f"{shown_address(uri)}: {' '.join(str(error).split())[:REASON_LENGTH]}") from error
    return experiment.experiment_id


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
    except sqlite3.OperationalError as error:
        raise _store_error(str(database), error) from None
    except sqlite3.DatabaseError as error:
        raise UserError(f"{database}: {error}; is it a store of MLflow's?") from None
    return str(artifacts)
