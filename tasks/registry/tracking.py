"""MLflow: where runs are kept, and the run that a stage logs to."""

import hashlib
import logging
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from getpass import getuser
from pathlib import Path
from platform import node
from typing import TypeVar

import mlflow
import pandas as pd
from mlflow import ActiveRun, MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from llm.errors import UserError
from tasks.registry.lineage import lineage
from tasks.registry.server import check_server, is_server, place, server_errors, tracking_uri
from tasks.stages.hashes import PREFIX, Hashes, current, flatten
from tasks.stages.libraries import LIBRARIES
from tasks.stages.lock import exclusive, workspace

FINGERPRINT = f"{PREFIX}.fingerprint"
METRICS_A_CALL, PARAMETERS_A_CALL = 1000, 100  # MLflow takes no more
SPLITS = ("train", "validation", "test")
LOCKED_FOR = 30  # seconds that another writer of a SQLite store may take
PLACES = {  # where a SQLite store keeps the paths of its artifacts
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}

BEHIND_A_SERVER = "mlflow-artifacts:"  # how addresses of files begin that a server alone gives out
NO_NAMESPACE = r"[^A-Za-z0-9._]"

T = TypeVar("T")
Parameters = BaseModel | Sequence[BaseModel]


def namespace() -> str:
    """What the experiment is called, and what every registered model's name begins with, a dash after it.

    THREESTAGE_NAMESPACE, or `threestage` in a store of one's own. On a server, which others use too, it is this user's
    and machine's own, so that nobody's run moves the aliases of the team's models without a word. It holds no dash:
    `threestage-classifier` is the team's and of no namespace that begins like it. Raises UserError for one that does.
    """
    if name := os.environ.get("THREESTAGE_NAMESPACE"):
        if re.search(NO_NAMESPACE, name):
            raise UserError(f"THREESTAGE_NAMESPACE={name}: only letters, digits, . and _, such as {PREFIX}_2")
        return name
    if tracking_uri().startswith("sqlite:"):
        return PREFIX
    try:
        user = getuser()
    except (KeyError, OSError):  # a container's user has no name
        raise UserError("nobody knows who you are: set THREESTAGE_NAMESPACE, such as threestage") from None
    return ".".join([PREFIX, *(re.sub(NO_NAMESPACE, "_", name) for name in (user, node().partition(".")[0]))])


def configure_tracking() -> None:
    """Point MLflow at its store and choose the project's experiment.

    A SQLite store keeps its artifacts in mlartifacts/ beside it, also when the folder has moved; a server decides for
    itself. Raises UserError for a server that doesn't answer or refuses, and for a file that is no store, or one whose
    artifacts only a server reads.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # half a minute; by itself it tries for minutes
    mlflow.telemetry.set_telemetry_client()
    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    if is_server(uri):
        check_server(uri)
    artifacts = None
    with exclusive("mlflow"):  # two processes that both make the schema get in each other's way
        if uri.startswith("sqlite:///"):
            database = Path(uri.removeprefix("sqlite:///")).absolute()
            artifacts = database.with_name("mlartifacts")
            _move_artifacts(database, artifacts)
        try:
            with server_errors():
                client, name = MlflowClient(), namespace()
                if client.get_experiment_by_name(name) is None:
                    _create_experiment(client, name, artifacts)
                kept = mlflow.set_experiment(name).artifact_location
        except MlflowException as error:  # such as an experiment that somebody deleted
            raise UserError(f"{place(uri)}: {' '.join(str(error).split())}") from error
    if kept.startswith(BEHIND_A_SERVER) and not is_server(uri):
        raise UserError(f"{place(uri)}: its files are behind an MLflow server; start that, and set MLFLOW_TRACKING_URI")


def _create_experiment(client: MlflowClient, name: str, artifacts: Path | None) -> None:
    try:
        client.create_experiment(name, artifact_location=artifacts and str(artifacts))
    except MlflowException as error:  # by another machine, meanwhile
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def is_missing(error: MlflowException) -> bool:
    """Whether a store says that it holds nothing of that name; any other error says nothing about that."""
    return error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def if_there(ask: Callable[[], T]) -> T | None:
    """What a store answers; None where it holds nothing of that name."""
    try:
        return ask()
    except MlflowException as error:
        if is_missing(error):
            return None
        raise


def _move_artifacts(database: Path, artifacts: Path) -> None:
    """Where a store and its artifacts were moved or copied together, tell the store, which keeps absolute paths."""
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database, timeout=LOCKED_FOR)) as store, store:
            known = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "experiments" not in known or not artifacts.is_dir():
                return
            found = {place for (place,) in store.execute("SELECT artifact_location FROM experiments") if place}
            for before in {place for place in found if place.startswith("/") and place.endswith("/mlartifacts")} - {
                str(artifacts)
            }:
                for table, columns in PLACES.items():
                    for column in columns if table in known else ():
                        store.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                            f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                            (str(artifacts), len(before) + 1, before, len(before) + 1, f"{before}/"),
                        )
    except sqlite3.OperationalError as error:  # locked, or not to be written
        raise UserError(f"{database}: {error}; try again when nobody else writes to it") from None
    except sqlite3.DatabaseError as error:
        raise UserError(f"{database}: not a store of MLflow's ({error}); move it away to begin a new one") from None


def _log_dataset(path: Path, context: str) -> None:
    """Name a dataset's file as an input of the active run, under the MD5 that DVC knows it by.

    Where it is the first shard of a split the MD5 is that of all of them, as if they were one file.
    """
    shards = sorted(path.parent.glob(f"{context}.*{path.suffix}"))
    md5 = hashlib.md5(usedforsecurity=False)
    for each in shards or [path]:
        with each.open("rb") as file:
            while part := file.read(2**20):
                md5.update(part)
    with warnings.catch_warnings():  # of integers that could be missing, and of a source registered twice
        warnings.simplefilter("ignore")
        source, name = resolve_dataset_source(str(path.parent if shards else path)), path.parent.name
        if path.suffix == ".parquet":
            dataset = mlflow.data.from_pandas(pd.read_parquet(path), source=source, name=name, digest=md5.hexdigest())
        else:
            dataset = MetaDataset(source, name=name, digest=md5.hexdigest())
        mlflow.log_input(dataset, context=context)


def _unfinished(fingerprint: str) -> Run | None:
    """The latest run of this workspace that started from the same fingerprint and did not finish."""
    unfinished = f"tags.`{FINGERPRINT}` = '{fingerprint}' AND attributes.status != 'FINISHED'"
    runs = mlflow.search_runs(filter_string=unfinished, output_format="list")
    return next((run for run in runs if run.data.tags.get(f"{PREFIX}.workspace") == workspace()), None)


def made_by(stage: str, outs: Mapping[str, str]) -> Run | None:
    """The latest run of a stage that made these very outs, MD5 by path; None where another store has it."""
    made = [f"tags.`{PREFIX}.dvc.out.{path}` = '{md5}'" for path, md5 in outs.items()]
    filters = " AND ".join([f"tags.`{PREFIX}.dvc.stage` = '{stage}'", *made])
    # In any experiment: bytes that were pushed may be another namespace's.
    runs = mlflow.search_runs(filter_string=filters, max_results=1, search_all_experiments=True, output_format="list")
    return runs[0] if runs else None


def log_inputs(training: Hashes, evaluation: Hashes) -> None:
    """Log to the active run, a version's own, what MLflow compares between versions: parameters and datasets.

    All versions of a model have the same names: `train.steps`, `evaluate.batch_size`, `libraries.torch`.
    """
    values = training.params | evaluation.params
    sections = {name.rpartition(".")[2]: value for name, value in values.items() if name not in LIBRARIES}
    libraries = {"libraries": {name: value for name, value in values.items() if name in LIBRARIES}}
    parameters = list(flatten(sections | libraries).items())
    for start in range(0, len(parameters), PARAMETERS_A_CALL):
        mlflow.log_params(dict(parameters[start : start + PARAMETERS_A_CALL]))
    for folder in (Path(path) for path in training.deps if path.startswith("data/processed/")):
        for split in sorted(SPLITS):
            for path in sorted(folder.glob(f"{split}.*"))[:1]:
                _log_dataset(path, split)


@contextmanager
def stage_run(
    params: Parameters | None = None,
    datasets: Mapping[str, Path] | None = None,
    fingerprint: str | None = None,
    *,
    resume: bool = True,
) -> Iterator[ActiveRun]:
    """The MLflow run of the DVC stage that this process runs, for `mlflow.log_*` inside the block.

    It holds the parameters, the lineage, the machine's load and, for each context (`train`, `validation`, `test`),
    the dataset file used, or the first of its shards; at its end, the hashes of the stage's outs, which must then be
    written. With the stage's `fingerprint`, an unfinished run of the same goes on, unless `resume` is False. A block
    that raises leaves a FAILED run, one that is interrupted or terminated a KILLED one.
    """
    with server_errors():
        yield from _stage_run(params, datasets, fingerprint, resume)


def _stage_run(
    params: Parameters | None, datasets: Mapping[str, Path] | None, fingerprint: str | None, resume: bool
) -> Iterator[ActiveRun]:
    configure_tracking()
    stage = os.environ.get("DVC_STAGE")
    tags = lineage(stage)
    before = _unfinished(fingerprint) if fingerprint and resume else None
    if fingerprint:
        tags[FINGERPRINT] = fingerprint
    if (seed := getattr(params, "seed", None)) is not None:
        tags[f"{PREFIX}.seed"] = str(seed)
    run = mlflow.start_run(before and before.info.run_id, run_name=stage, log_system_metrics=True)
    status = "KILLED"
    try:
        mlflow.set_tags(tags)
        mlflow.log_params(flatten(to_jsonable_python(params or {})))
        for context, path in (datasets or {}).items():
            _log_dataset(path, context)
        yield run
        if stage:
            mlflow.set_tags(current(stage).tags())
        status = "FINISHED"
    except InterruptedError:
        raise
    except Exception:
        status = "FAILED"
        raise
    finally:
        mlflow.end_run(status)


def log_steps(run_id: str, rows: Sequence[Mapping[str, float | None]], step_key: str = "step") -> None:
    """Log one row of metrics a step to a run, many rows in a call; None means not measured at that step.

    A row's `timestamp` (ms; without it, now) is when it was measured: one that is sent again then stays one point.
    """
    now = int(time.time() * 1000)
    metrics = [
        Metric(name, value, int(row.get("timestamp", now)), int(row[step_key]))
        for row in rows
        for name, value in row.items()
        if name not in (step_key, "timestamp") and value is not None
    ]
    for start in range(0, len(metrics), METRICS_A_CALL):
        MlflowClient().log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])
