"""Clean, de-duplicate, split and check a raw dataset, and write it to `data/processed/<dataset>/`. Rows from
`data/inbox/<dataset>/` join its train split.

threestage preprocess emails
"""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from llm.errors import UserError
from llm.files import atomic_folder
from tasks.data.cleaning.personal import mask, mask_rows
from tasks.data.cleaning.record import RULES, Record, recorded
from tasks.data.cleaning.rules import in_languages, within_lengths, without_known_lines, without_repetition
from tasks.data.inbox import IN_INBOX, join_inbox, open_inbox
from tasks.data.quality import label_expectations, summarise, summary_expectations, validate
from tasks.data.shingles import text_hashes
from tasks.data.splits import DUPLICATES, SPLITS, Split, check_train_only, deduplicate, overlap, split
from tasks.data.stream import Stream, overlap_of_stream, with_inbox, without_duplicates
from tasks.data.textfiles import files_below
from tasks.datasets import Dataset, Table
from tasks.params.slices import find_dataset
from tasks.registry.tracking import stage_run
from tasks.stages.command import current_stage, state_folder
from tasks.stages.hashes import fingerprint, inputs
from tasks.stages.ray_cluster import same_processes
from tasks.stages.server import leave_artifact

NO_ROWS = "there is not one row in its files; `threestage data check` says what is in a file"

step = partial(task, cache_policy=NO_CACHE, persist_result=False)


@step
def read(name: str, dataset: Dataset, params: Split) -> Table:
    """Read the raw files. Raises UserError if they hold no rows."""
    folder = Path("data/raw") / name
    table = dataset.read(folder, params)
    if table.empty:
        raise UserError(f"{folder}: {NO_ROWS}")
    check_train_only(table, params)  # before de-duplication may remove all rows of a source
    return mask_rows(table) if params.mask_personal_data == "all" else table


@step
def read_stream(name: str, dataset: Dataset, params: Split, work: Path, shown: Callable[[str], str]) -> Stream:
    """Like `read` and `leave_out`, for rows that may be too many for memory; an interrupted call goes on."""
    folder = Path("data/raw") / name
    stream = dataset.stream(folder, params, work, shown)
    if stream.facts.empty:
        raise UserError(f"{folder}: {NO_ROWS}")
    return stream


@step
def read_inbox(dataset: Dataset, params: Split, folder: Path) -> Table | None:
    """Read the rows in the inbox; None if there are none."""
    if not files_below(folder):
        return None
    left = (dataset.read_inbox or dataset.read)(folder, params)
    left = left.assign(**{name: IN_INBOX + left[name] for name in ("id", "source") if name in left})
    left = leave_out.fn(left, dataset, params)
    return mask_rows(left) if params.mask_personal_data == "all" else left


@step
def leave_out(table: Table, dataset: Dataset, params: Split) -> Table:
    """Drop rows whose text no model should learn from."""
    table = in_languages(table, dataset.text(table), params.languages)
    table = within_lengths(table, dataset.text(table), dataset.lengths)
    return without_repetition(table, dataset.text(table)).reset_index(drop=True)


@step
def drop_duplicates(table: Table | Stream, dataset: Dataset, params: Split) -> Table | Stream:
    """Keep one row of each group of near duplicates."""
    if isinstance(table, Stream):
        return without_duplicates(table, params.near_duplicate)
    return deduplicate(table, dataset.text(table), params.near_duplicate)


def units_of(table: Table, dataset: Dataset) -> np.ndarray:
    """The hash of each row's group, which stays in one split; uint64 [rows]."""
    return text_hashes(table[dataset.groups] if dataset.groups else dataset.text(table))


@step
def split_rows(table: Table | Stream, dataset: Dataset, params: Split) -> Table | Stream:
    """Give every row its split."""
    if isinstance(table, Stream):
        return replace(table, facts=split(table.facts, table.units, params))
    text = dataset.text(table)
    drawn = split(table, units_of(table, dataset), params, label="label" if dataset.labels else None, text=text)
    drawn = without_known_lines(drawn, dataset.lines(drawn)) if dataset.lines else drawn
    return drawn.reset_index(drop=True)


@step
def add_inbox(table: Table | Stream, left: Table | None, dataset: Dataset, params: Split) -> Table | Stream:
    """Add the inbox's rows to the train split alone: no test contains them."""
    if left is None or left.empty:
        return table
    feedback = params.mask_personal_data == "feedback"
    if isinstance(table, Stream):
        return with_inbox(table, left, params.near_duplicate, dataset.text, mask_rows if feedback else Table.copy)
    forms = dataset.forms or dataset.text
    joined = join_inbox(
        table,
        left,
        params.near_duplicate,
        text=dataset.text,
        forms=forms,
        groups=dataset.groups,
        lines=dataset.lines,
        weight=params.feedback_weight,
    )
    # Compare with the test rows before masks make equal rows differ.
    return mask_rows(joined, joined["id"].str.startswith(IN_INBOX)) if feedback else joined


@step
def show_cleaning(name: str, record: Record, report: Path) -> None:
    """Publish the report of the cleaning, and its counts as metrics."""
    record.write(report, name)
    for page in ("cleaning.md", "cleaning.json"):
        mlflow.log_artifact(str(report / page))
    mlflow.log_metrics({f"cleaning.{rule}": count for rule, count in record.counts().items()})
    leave_artifact(create_markdown_artifact, f"cleaning-{name}", markdown=(report / "cleaning.md").read_text())


@step
def check(name: str, record: Record, table: Table | Stream, dataset: Dataset, params: Split, report: Path) -> Table:
    """Check rows and splits against their expectations. Returns the summary."""
    labels = dataset.labels(params) if dataset.labels else ()
    rules = Counter({rule: count for rule, count in record.dropped.items() if RULES[rule].counts})
    counts = {"duplicates": rules.pop(DUPLICATES, 0), "left_out": rules.total()}
    if isinstance(table, Stream):
        overlapping = overlap_of_stream(table, params.near_duplicate, params.seed)
        facts, rows = table.facts, table.batches()
    else:
        overlapping = overlap(table, dataset.text(table), params.near_duplicate)
        facts, rows = table, table.drop(columns="split")
    summary = summarise(facts, overlapping, **counts, groups=dataset.groups, labels=labels)
    checks = {
        "rows": (rows, [*dataset.expectations(), *label_expectations(labels)]),
        "summary": (summary, summary_expectations(labels, params.gates)),
    }
    validate(name, checks, report)
    return summary


@step
def write(table: Table | Stream, dataset: Dataset, params: Split, folder: Path) -> None:
    """Write the splits in the form that training and evaluation read.

    Tables get a column `unit`: by it a review knows which of its test rows another version trained on.
    """
    if isinstance(table, Stream):
        return dataset.write(table, folder, params)
    kept = table.drop(columns=["split", dataset.groups] if dataset.groups else "split")
    kept = kept.assign(unit=units_of(table, dataset).view(np.int64))  # MLflow has no uint64
    splits = {name: kept[table["split"] == name] for name in SPLITS}
    dataset.write(splits, folder, params)


@step
def show_drift(name: str, folder: Path) -> None:
    """Publish how far the rows are from those of the last commit. It is in no out: outs must not depend on commits."""
    from dvc.exceptions import DvcException

    from tasks.data.drift import FETCH, moved
    from tasks.registry.trained_on import committed, rows_before, rows_in

    try:
        before = committed(name)
        rows = before and rows_before(before)
    except (UserError, DvcException) as error:
        get_run_logger().warning("drift: %s", error)
        return
    if before is None:
        said = ["No commit has this dataset."]
    elif rows is None:
        said = [f"The committed rows ({before.md5}) are not in DVC's cache: {FETCH}."]
    elif (now := rows_in(folder)).equals(rows):
        said = ["The same rows."]
    else:
        found = moved(rows, now, sources=True)
        said = ["| what | stability index | |", "|---|--:|---|"]
        said += [f"| {each.name} | {each.index:.3f} | {each.said} |" for each in found]
        mlflow.log_metrics({f"drift.{each.name}": each.index for each in found})
    page = "\n".join([f"# How far {name} is from the committed rows", "", *said]) + "\n"
    mlflow.log_text(page, "drift.md")
    leave_artifact(create_markdown_artifact, f"drift-{name}", markdown=page)


def work_folder() -> Path:
    """The folder of this stage's parts, keyed by its params, deps and code. Removes those of other keys."""
    stage = current_stage()
    folder = state_folder(stage) / fingerprint(inputs(stage))
    for other in state_folder(stage).glob("*/"):
        if other != folder:
            shutil.rmtree(other)
    return folder


@flow(flow_run_name="preprocess-{name}")
def preprocess(name: str, params: Split) -> None:
    """Clean, de-duplicate, split and check a raw dataset; write nothing unless every check passes.

    Rows that may be too many for memory are kept in parts on disk, and an interrupted run goes on with the next part.
    """
    dataset, inbox = find_dataset(name), open_inbox(name)
    processed, quality = Path("data/processed") / name, Path("reports/quality") / name
    shown = str if params.mask_personal_data == "none" else mask
    work = work_folder() if dataset.stream else None
    with (
        stage_run(params),
        atomic_folder(processed) as folder,
        atomic_folder(quality) as report,
        recorded(shown, report) as record,
        same_processes(),
    ):
        if work:
            raw = read_stream(name, dataset, params, work, shown)
        else:
            raw = leave_out(read(name, dataset, params), dataset, params)
        left = read_inbox(dataset, params, inbox)
        drawn = split_rows(drop_duplicates(raw, dataset, params), dataset, params)
        table = add_inbox(drawn, left, dataset, params)
        show_cleaning(name, record, report)
        summary = check(name, record, table, dataset, params, report)
        write(table, dataset, params, folder)
        show_drift(name, folder)
        mlflow.log_metrics(summary.drop(columns="id").iloc[0].to_dict())
        table, description = summary.to_dict("records"), f"The rows of {name}"
        leave_artifact(create_table_artifact, f"preprocess-{name}", table=table, description=description)
    if work:
        shutil.rmtree(work)
