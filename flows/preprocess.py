"""Clean, de-duplicate, split and check a raw dataset, and write it to `data/processed/<dataset>/`. Rows from
`data/inbox/<dataset>/` join its train split.

    python -m flows.preprocess emails
"""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.command import run_stage
from llm.files import atomic_folder, write_atomic
from llm.formats.tokenizer_json import save_tokenizer
from tasks.data import corpus
from tasks.data import preprocess as tables
from tasks.data.duplicates import first_of_groups
from tasks.data.findings import Findings
from tasks.data.inbox import open_inbox
from tasks.data.personal import mask
from tasks.data.quality import Validation, summarise, summary_expectations, validate
from tasks.data.splits import Split
from tasks.data.tokens import texts_to_learn, write_tokens
from tasks.params import find_dataset, load_dataset
from tasks.registry.tracking import stage_run
from tasks.stages.names import dataset_names
from tasks.stages.prefect import leave_artifact
from tasks.stages.process import current_stage, state_folder
from tasks.stages.process_pool import pool

step = partial(task, cache_policy=NO_CACHE, persist_result=False)


@flow(flow_run_name="preprocess-{name}")
def preprocess(name: str, params: Split) -> None:
    """Clean, de-duplicate, split and check a raw dataset; write nothing unless every check passes."""
    dataset = find_dataset(name)
    raw = Path("data/raw") / name
    inbox = open_inbox(name)
    with (
        stage_run(params),
        atomic_folder(Path("data/processed") / name) as folder,
        atomic_folder(Path("reports/quality") / name) as report,
    ):
        if isinstance(params, corpus.Params):
            preprocess_corpus(name, dataset, params, raw=raw, inbox=inbox, folder=folder, report=report)
        else:
            preprocess_table(name, dataset, params, raw=raw, inbox=inbox, folder=folder, report=report)


def preprocess_table(
    name: str, dataset: tables.Dataset, params: Split, *, raw: Path, inbox: Path, folder: Path, report: Path
) -> None:
    """The way of a dataset that fits in memory."""
    findings = Findings()
    table = step(tables.read)(dataset, raw, params=params, findings=findings)
    inbox_table = step(tables.read_inbox)(dataset, inbox, params=params, findings=findings)
    table = step(tables.drop_duplicates)(table, dataset, params=params, findings=findings)
    table = step(tables.split)(table, dataset, params=params, findings=findings)
    if lines := getattr(dataset, "LINES", ""):
        table = step(tables.drop_shared_lines)(table, lines, findings)
    table = step(tables.add_inbox)(table, inbox_table, dataset, params=params, findings=findings)
    text = tables.compared_text(table, list(dataset.TEXTS))
    near = step(first_of_groups)(text.tolist(), params.near_duplicate)
    check(name, dataset, params, table=table, near=near, rows=table, findings=findings, report=report)
    step(tables.write_splits)(table, folder)


def preprocess_corpus(
    name: str, dataset: Any, params: corpus.Params, *, raw: Path, inbox: Path, folder: Path, report: Path
) -> None:
    """The way of a dataset that may be larger than memory."""
    findings = Findings()
    work = state_folder(current_stage()) / "rows"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with pool():
        table, texts = step(dataset.read_clean)(raw, inbox, params=params, findings=findings, work=work)
        table = step(dataset.drop_duplicates)(table, texts, params=params, findings=findings)
        table = step(dataset.split)(table, texts, params)
        sample = dataset.sample(table, texts, params.seed)
        check(name, dataset, params, table=table, near=table.index, rows=sample, findings=findings, report=report)
        encoding = step(dataset.choose_encoding)(params, texts_to_learn(table, texts, params.seed))
        save_tokenizer(encoding, folder / "tokenizer.json")
        step(write_tokens)(encoding, table, texts, folder=folder)
    shutil.rmtree(work)


@step
def check(
    name: str,
    dataset: tables.Dataset,
    params: Split,
    *,
    table: pd.DataFrame,
    near: Sequence[int],
    rows: pd.DataFrame,
    findings: Findings,
    report: Path,
) -> None:
    """Check the rows and their numbers, and publish the report. Raises UserError if a check fails."""
    labels = list(getattr(params, "labels", ()))
    summary = summarise(table, findings, near=near, labels=labels)
    columns = [column for column in rows if column not in ("unit", "split")]
    validation = validate(
        name,
        rows=(rows[columns], dataset.expectations(params)),
        summary=(summary, summary_expectations(labels, params.gates)),
    )
    shown = str if params.mask_personal_data == "none" else mask
    findings.write(report / "dropped.parquet", shown)
    publish(name, validation, summary, findings=findings, report=report)
    validation.require_success()


def publish(name: str, validation: Validation, summary: pd.DataFrame, *, findings: Findings, report: Path) -> None:
    """Write the report below `report`, and log it to MLflow and Prefect."""
    numbers = summary.drop(columns="id").iloc[0].to_dict()
    dropped = findings.counts()
    write_atomic(report / "summary.json", json.dumps({**numbers, "dropped": dropped}, indent=2, default=float) + "\n")
    validation.write(report / "validation.json")
    mlflow.log_metrics(numbers | {f"dropped.{rule}": count for rule, count in dropped.items()})
    mlflow.log_metric("quality.warnings", len(validation.failed("warn")))
    mlflow.log_artifact(str(report / "summary.json"))
    mlflow.log_artifact(str(report / "validation.json"))
    with TemporaryDirectory() as pages:
        validation.write_pages(Path(pages))
        mlflow.log_artifacts(pages, artifact_path="data_docs")
    table = [{"number": key, "value": str(value)} for key, value in (numbers | dropped).items()]
    leave_artifact(create_table_artifact, f"preprocess-{name}", table=table, description=f"The rows of {name}")


def _load(name: str) -> dict[str, Any]:
    return {"name": name, "params": load_dataset(name).preprocess}


def main() -> None:
    """Run the stage of the dataset that the command line names."""
    run_stage(preprocess, "preprocess@{}".format, _load, names=dataset_names)


if __name__ == "__main__":
    main()
