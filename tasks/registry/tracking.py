"""The MLflow run that a stage logs to, and what is logged there."""

import hashlib
import os
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import ActiveRun, MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import DatasetInput, Metric, Run
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from tasks.registry.record import Record, current_facts, read_record, readable, write_record
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.stages.hashes import PREFIX, Hashes, current, digest, flatten, inputs
from tasks.stages.libraries import LIBRARIES
from tasks.stages.lock import workspace

OUTS = f"{PREFIX}.outs"
"""One digest over the outs that a run made."""
PARENT_RUN = "THREESTAGE_PARENT_RUN"
"""The variable that holds the id of a retraining's MLflow run, the parent of its stages' runs."""
UNFINISHED = f"{PREFIX}.unfinished"
"""Tag of a training that did not complete: its fingerprint and workspace."""
STAGE, WORKSPACE = f"{PREFIX}.stage", f"{PREFIX}.workspace"
"""Tags of a stage's run: its name in dvc.yaml, and its machine and folder."""
SPLITS = ("test", "train", "validation")
Parameters = BaseModel | Sequence[BaseModel]


def _log_dataset(path: Path, context: str) -> None:
    """Name a dataset's file as an input of the active run, by its MD5."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    with warnings.catch_warnings():  # about integer columns that could lack values, and a source registered twice
        warnings.simplefilter("ignore")
        source = resolve_dataset_source(str(path))
        about = {"source": source, "name": path.parent.name, "digest": md5.hexdigest()}
        if path.suffix == ".parquet":
            mlflow.log_input(from_pandas(pd.read_parquet(path), **about), context)
        else:
            mlflow.log_input(MetaDataset(**about), context)


def _unfinished(key: str) -> Run | None:
    """The latest unfinished run with the same key."""
    runs = mlflow.search_runs(filter_string=f"tags.`{UNFINISHED}` = '{key}'", max_results=1, output_format="list")
    return runs[0] if runs else None


def made_by(stage: str, outs: Mapping[str, str]) -> Run | None:
    """The latest run of a stage that made all these outs, MD5 by path; None if it is in another store."""
    filters = f"tags.`{STAGE}` = '{stage}' AND tags.`{OUTS}` = '{digest(dict(outs))}'"
    # In any experiment: the bytes may come from another namespace.
    runs = mlflow.search_runs(filter_string=filters, max_results=1, search_all_experiments=True, output_format="list")
    return runs[0] if runs else None


def _write(run_id: str, record: Record) -> None:
    """Write a run's record, and its tags: the few facts that people read."""
    write_record(run_id, record)
    mlflow.set_tags({f"{PREFIX}.{name}": value for name, value in readable(record).items()})


def active_run_id() -> str:
    """The id of the active run, which `stage_run` or a registration began."""
    run = mlflow.active_run()
    assert run is not None
    return run.info.run_id


def add_facts(**facts: str) -> None:
    """Add facts to the record of the active run, which `stage_run` began."""
    run_id = active_run_id()
    record = _own_record(run_id)
    _write(run_id, replace(record, facts=record.facts | facts))


def _own_record(run_id: str) -> Record:
    """The record that `stage_run` wrote to its run."""
    record = read_record(run_id)
    assert record is not None
    return record


def log_measured(metrics: Mapping[str, float], split: str, model_id: str | None = None) -> None:
    """Log metrics to the active run, linked to its dataset of one split, and to a logged model if there is one."""
    run_id = active_run_id()
    run_inputs = MlflowClient().get_run(run_id).inputs
    dataset_inputs = run_inputs.dataset_inputs if run_inputs else []
    datasets = [logged.dataset for logged in dataset_inputs if _is_of_split(logged, split)]
    dataset = datasets[0] if datasets else None
    mlflow.log_metrics(dict(metrics), run_id=run_id, model_id=model_id, dataset=dataset)


def _is_of_split(logged: DatasetInput, split: str) -> bool:
    return any(tag.value == split for tag in logged.tags)


def log_inputs(training: Hashes, evaluation: Hashes) -> None:
    """Log parameters and datasets to the active run of a version: MLflow compares them between versions.

    All versions of a model have the same names: `train.steps`, `evaluate.batch_size`, `libraries.torch`.
    """
    values = training.params | evaluation.params
    sections = {name.rpartition(".")[2]: value for name, value in values.items() if name not in LIBRARIES}
    libraries = {name: value for name, value in values.items() if name in LIBRARIES}
    mlflow.log_params(flatten(sections | {"libraries": libraries}))
    for folder in (Path(path) for path in training.deps if path.startswith("data/processed/")):
        for split in SPLITS:
            for path in sorted(folder.glob(f"{split}.*"))[:1]:
                _log_dataset(path, split)


@contextmanager
def stage_run(
    params: Parameters | None = None,
    datasets: Mapping[str, Path] | None = None,
    fingerprint: str | None = None,
) -> Generator[ActiveRun]:
    """The MLflow run of the DVC stage that this process runs, for `mlflow.log_*` inside the block.

    It holds the parameters, the lineage, the machine's load and, for each context (`train`, `validation`, `test`), the
    dataset file used. At its end it gets the hashes of the stage's outs, which must then be
    written. With the stage's `fingerprint`, an unfinished run with the same one is continued.
    If the block raises, the run ends as FAILED; if it is interrupted or terminated, as KILLED.
    """
    with server_errors():
        configure_tracking()
        stage = os.environ.get("DVC_STAGE")
        key = digest([fingerprint, workspace()]) if fingerprint else None
        before = _unfinished(key) if key else None
        seed = getattr(params, "seed", None)
        facts = current_facts() | ({} if seed is None else {"seed": str(seed)})
        record = Record(stage or "", inputs(stage) if stage else Hashes({}, {}, {}), facts)
        if stage:  # this process has the stage's lock in this folder
            close_open_runs(f"tags.`{STAGE}` = '{stage}' AND tags.`{WORKSPACE}` = '{workspace()}'")
        with mlflow.start_run(
            before.info.run_id if before else None,
            run_name=stage,
            parent_run_id=os.environ.get(PARENT_RUN),
            description=_flow_description(),
            log_system_metrics=True,
            tags={WORKSPACE: workspace()} | ({STAGE: stage} if stage else {}),
        ) as run:
            try:
                if key:
                    mlflow.set_tag(UNFINISHED, key)
                _write(run.info.run_id, record)
                mlflow.log_params(flatten(to_jsonable_python(params or {})))
                for context, path in (datasets or {}).items():
                    _log_dataset(path, context)
                yield run
                if stage:
                    made = current(stage)
                    write_record(run.info.run_id, replace(_own_record(run.info.run_id), hashes=made))
                    mlflow.set_tag(OUTS, digest(made.outs))
                if key:
                    mlflow.delete_tag(UNFINISHED)
            except BaseException as error:
                if is_stop(error):
                    mlflow.end_run("KILLED")
                raise


def close_open_runs(having: str) -> None:
    """End the runs that this filter finds and that killed processes left open."""
    for run in mlflow.search_runs(filter_string=f"{having} AND attributes.status = 'RUNNING'", output_format="list"):
        MlflowClient().set_terminated(run.info.run_id, "KILLED")


def is_stop(error: BaseException) -> bool:
    """Whether a process was stopped, rather than that it failed."""
    return isinstance(error, InterruptedError) or not isinstance(error, Exception)


def _flow_description() -> str | None:
    """The description of the Prefect flow of this process."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return context.flow.description if context and context.flow else None


def log_steps(run_id: str, rows: Sequence[Mapping[str, float | None]]) -> None:
    """Log rows of metrics to a run, one a step; None means not measured at that step.

    A row's `timestamp` (ms, by default now) is the time of its measurement: with it, a row that is logged twice stays
    one point.
    """
    now = int(time.time() * 1000)
    metrics = []
    for row in rows:
        timestamp = int(row.get("timestamp") or now)
        for name, value in row.items():
            if name not in ("step", "timestamp") and value is not None:
                metrics.append(Metric(key=name, value=value, timestamp=timestamp, step=int(row["step"] or 0)))
    MlflowClient().log_batch(run_id, metrics=metrics)
