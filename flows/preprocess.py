"""Clean, de-duplicate, split and check a raw dataset, and write it to `data/processed/<dataset>/`. Rows from
`data/inbox/<dataset>/` join its train split.

threestage preprocess emails
"""

import shutil
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from llm.files import atomic_folder
from tasks.data import steps
from tasks.data.cleaning.personal import mask
from tasks.data.cleaning.record import Record, recorded
from tasks.data.duplicates import without_duplicates
from tasks.data.inbox import open_inbox
from tasks.data.quality import Validation
from tasks.data.splits import Split
from tasks.data.steps import Preprocessing
from tasks.params.slices import find_dataset
from tasks.registry.tracking import stage_run
from tasks.stages.hashes import fingerprint, inputs
from tasks.stages.prefect import leave_artifact
from tasks.stages.process import current_stage, state_folder
from tasks.stages.process_pool import pool

step = partial(task, cache_policy=NO_CACHE, persist_result=False)
read = step(steps.read_rows)
read_inbox = step(steps.read_inbox)
drop_duplicates = step(without_duplicates)
split_rows = step(steps.split_rows)
add_inbox = step(steps.add_inbox)
summarise = step(steps.summarise)
check = step(steps.check)


@step
def show_cleaning(name: str, record: Record, report: Path) -> None:
    """Publish the report of the cleaning, and its counts as metrics."""
    record.write(report, name)
    for page in ("cleaning.md", "cleaning.json"):
        mlflow.log_artifact(str(report / page))
    mlflow.log_metrics({f"cleaning.{rule}": count for rule, count in record.counts().items()})
    leave_artifact(create_markdown_artifact, f"cleaning-{name}", markdown=(report / "cleaning.md").read_text())


@step
def show_validation(validation: Validation, report: Path) -> None:
    """Publish the results of the checks, and Great Expectations' pages."""
    validation.write(report)
    mlflow.log_artifact(str(report / "validation.json"))
    mlflow.log_metric("quality.warnings", len(validation.missed("warn")))
    with TemporaryDirectory() as folder:
        validation.write_pages(Path(folder))
        mlflow.log_artifacts(folder, artifact_path="data_docs")


@step
def show_summary(name: str, summary: pd.DataFrame) -> None:
    """Publish the numbers of rows."""
    mlflow.log_metrics(summary.drop(columns="id").iloc[0].to_dict())
    table = summary.to_dict("records")
    leave_artifact(create_table_artifact, f"preprocess-{name}", table=table, description=f"The rows of {name}")


def work_folder() -> Path:
    """The folder of this stage's parts, keyed by its params, deps and code. Removes those of other keys."""
    stage = current_stage()
    folder = state_folder(stage) / fingerprint(inputs(stage))
    for outdated in state_folder(stage).glob("*/"):
        if outdated != folder:
            shutil.rmtree(outdated)
    return folder


@flow(flow_run_name="preprocess-{name}")
def preprocess(name: str, params: Split) -> None:
    """Clean, de-duplicate, split and check a raw dataset; write nothing unless every check passes.

    Rows are kept in parts on disk. An interrupted run of a dataset with many parts goes on with the next part.
    """
    dataset = find_dataset(name)
    job = Preprocessing(
        name=name,
        dataset=dataset,
        params=params,
        raw=Path("data/raw") / name,
        work=work_folder(),
        inbox=open_inbox(name),
    )
    shown = str if params.mask_personal_data == "none" else mask
    with (
        stage_run(params),
        atomic_folder(Path("data/processed") / name) as folder,
        atomic_folder(Path("reports/quality") / name) as report,
        recorded(shown, report) as record,
        pool(),
    ):
        rows = read(job, shown)
        inbox_rows = read_inbox(job)
        rows = drop_duplicates(rows, params.near_duplicate)
        rows = split_rows(rows, params)
        rows = add_inbox(rows, inbox_rows, params)
        show_cleaning(name, record, report)
        summary = summarise(job, rows, record)
        validation = check(job, rows, summary)
        show_validation(validation, report)
        validation.require_success()
        step(dataset.write, name="write")(rows, folder, params)
        show_summary(name, summary)
    shutil.rmtree(job.work)
