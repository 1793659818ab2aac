"""The MLflow run that a stage logs to, and what is logged there."""

import importlib.metadata
import os
import platform
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
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

from tasks.registry.git import git_text
from tasks.registry.store import configure_tracking, server_errors
from tasks.stages.hashes import LOCK, PREFIX, digest, flatten, md5_of
from tasks.stages.lock import workspace
from tasks.stages.names import PARAMS_FILE
from tasks.stages.process import STAGE as STAGE_VARIABLE

UNFINISHED = f"{PREFIX}.unfinished"
"""Tag of a training that did not complete: its fingerprint and workspace."""
STAGE, WORKSPACE = f"{PREFIX}.stage", f"{PREFIX}.workspace"
"""Tags of a stage's run: its name in dvc.yaml, and its machine and folder."""
COMMIT, UNCOMMITTED = f"{PREFIX}.commit", f"{PREFIX}.uncommitted"
"""Tags of a run: the commit of its code, and the files of it that had other content."""
NO_COMMIT = "none"
SOURCES = ("app", "cli", "data/*.jsonl", "data/behavioural", "dvc.yaml", "flows", "llm", "params.yaml", "tasks")
"""What makes models, as git's patterns."""
Parameters = BaseModel | Sequence[BaseModel]


def origin() -> dict[str, str]:
    """Tags that say where a run comes from: commit, uncommitted files, folder, machine, Prefect's flow run."""
    from prefect.runtime import flow_run

    changes = git_text("status --porcelain --untracked-files=all --", *SOURCES, ":(exclude)*.md")
    files = [line.split(maxsplit=1)[-1] for line in (changes or "").splitlines()]
    return {
        COMMIT: git_text("rev-parse HEAD") or NO_COMMIT,
        UNCOMMITTED: ", ".join(files)[:1000],
        WORKSPACE: workspace(),
        f"{PREFIX}.machine": f"{_cpu_model()}, {os.cpu_count()} cores, torch {importlib.metadata.version('torch')}",
        f"{PREFIX}.prefect": str(flow_run.id or ""),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


@contextmanager
def stage_run(
    params: Parameters | None = None,
    datasets: Mapping[str, Path] | None = None,
    fingerprint: str | None = None,
) -> Generator[ActiveRun]:
    """The MLflow run of the DVC stage that this process runs, for `mlflow.log_*` inside the block.

    It holds the parameters, params.yaml and dvc.lock, where it comes from, the machine's load and, for each context
    (`train`, `validation`, `test`), the dataset file used. With the stage's `fingerprint`, an unfinished run with the
    same one is continued. If the block raises, the run ends as FAILED; if it is interrupted or terminated, as KILLED.
    """
    with server_errors():
        configure_tracking()
        stage = os.environ.get(STAGE_VARIABLE, "")
        key = digest([fingerprint, workspace()]) if fingerprint else None
        before = _unfinished(key) if key else None
        if stage:  # this process has the stage's lock in this folder, so nobody writes to those that are open
            end_left_runs(stage)
        tags = origin() | ({STAGE: stage} if stage else {}) | ({UNFINISHED: key} if key else {})
        with mlflow.start_run(
            before.info.run_id if before else None,
            run_name=stage or None,
            description=_flow_description(),
            log_system_metrics=True,
            tags=tags,
        ) as run:
            try:
                mlflow.log_params(flatten(to_jsonable_python(params or {})))
                log_project_files()
                for context, path in (datasets or {}).items():
                    log_dataset(path, context)
                yield run
                if key:
                    mlflow.delete_tag(UNFINISHED)
            except BaseException as error:
                if isinstance(error, InterruptedError) or not isinstance(error, Exception):
                    mlflow.end_run("KILLED")
                raise


def _unfinished(key: str) -> Run | None:
    """The latest unfinished run with the same key."""
    runs = mlflow.search_runs(filter_string=f"tags.`{UNFINISHED}` = '{key}'", max_results=1, output_format="list")
    return runs[0] if runs else None


def end_left_runs(stage: str) -> None:
    """End the runs of a stage that killed processes of this folder left open."""
    left = f"tags.`{STAGE}` = '{stage}' AND tags.`{WORKSPACE}` = '{workspace()}' AND attributes.status = 'RUNNING'"
    for run in mlflow.search_runs(filter_string=left, output_format="list"):
        MlflowClient().set_terminated(run.info.run_id, "KILLED")


def _flow_description() -> str | None:
    """The description of the Prefect flow of this process."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    return context.flow.description if context and context.flow else None


def log_project_files() -> None:
    """Log params.yaml and dvc.lock to the active run."""
    for path in (PARAMS_FILE, LOCK):
        if path.exists():
            mlflow.log_artifact(str(path))


def log_dataset(path: Path, context: str) -> None:
    """Name a dataset's file as an input of the active run, by its MD5."""
    with warnings.catch_warnings():  # about integer columns that could lack values, and a source registered twice
        warnings.simplefilter("ignore")
        about = {"source": resolve_dataset_source(str(path)), "name": path.parent.name, "digest": md5_of(path)}
        if path.suffix == ".parquet":
            mlflow.log_input(from_pandas(pd.read_parquet(path), **about), context)
        else:
            mlflow.log_input(MetaDataset(**about), context)


def active_run_id() -> str:
    """The id of the active run, which `stage_run` or a registration began."""
    run = mlflow.active_run()
    assert run is not None
    return run.info.run_id


def add_facts(**facts: str) -> None:
    """Add tags to the active run, which `stage_run` began: such as the device that it computes on."""
    mlflow.set_tags({f"{PREFIX}.{name}": value for name, value in facts.items()})


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
