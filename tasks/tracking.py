"""MLflow: where runs are kept, and the run that a stage logs to."""

import fcntl
import hashlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import ActiveRun, MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Run
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from tasks.lineage import PREFIX, current, flatten, lineage

EXPERIMENT = "threestage"
FINGERPRINT = f"{PREFIX}.fingerprint"
METRICS_A_CALL = 1000  # MLflow takes no more

Parameters = BaseModel | Sequence[BaseModel]


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Wait until no other process of this project is inside `exclusive(name)`."""
    path = Path(".threestage", f"{name}.lock")
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def configure_tracking() -> None:
    """Point MLflow at MLFLOW_TRACKING_URI, or at mlflow.db here, and choose the project's experiment.

    A SQLite store keeps its artifacts in mlartifacts/ beside it; a server decides for itself.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    mlflow.telemetry.set_telemetry_client()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"
    database = uri.removeprefix("sqlite:///")
    artifacts = None if database == uri else str(Path(database).absolute().with_name("mlartifacts"))
    mlflow.set_tracking_uri(uri)
    with exclusive("mlflow"):  # two processes that both make the schema get in each other's way
        client = MlflowClient()
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    mlflow.set_experiment(EXPERIMENT)


def _log_dataset(path: Path, context: str) -> None:
    """Name a dataset's file as an input of the run, under the MD5 that DVC knows it by."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    with warnings.catch_warnings():  # of integers that could be missing, and of a source registered twice
        warnings.simplefilter("ignore")
        source, name = resolve_dataset_source(str(path)), path.parent.name
        if path.suffix == ".parquet":
            dataset = mlflow.data.from_pandas(pd.read_parquet(path), source=source, name=name, digest=md5)
        else:
            dataset = MetaDataset(source, name=name, digest=md5)
        mlflow.log_input(dataset, context=context)


def _unfinished(fingerprint: str) -> Run | None:
    """The latest run of this workspace that started from the same fingerprint and did not finish."""
    unfinished = f"tags.`{FINGERPRINT}` = '{fingerprint}' AND attributes.status != 'FINISHED'"
    runs = mlflow.search_runs(filter_string=unfinished, output_format="list")
    workspace = lineage(None)[f"{PREFIX}.workspace"]
    return next((run for run in runs if run.data.tags.get(f"{PREFIX}.workspace") == workspace), None)


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
    the dataset file used; at its end, the hashes of the stage's outs, which must then be written. With the stage's
    `fingerprint`, an unfinished run of the same goes on, unless `resume` is False. A block that raises leaves
    a FAILED run, one that is interrupted or terminated a KILLED one.
    """
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
