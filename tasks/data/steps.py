"""The steps of preprocessing, which all datasets share: read, clean, drop duplicates, split, add the inbox, check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from llm.errors import UserError
from tasks.data.cleaning.personal import mask_rows
from tasks.data.cleaning.record import RULES, Record
from tasks.data.cleaning.rules import HALF, shares_before, within_lengths, without_repetition
from tasks.data.dataset import Dataset, Table
from tasks.data.duplicates import DUPLICATES, near_rows, overlap
from tasks.data.inbox import IN_INBOX, files_below
from tasks.data.join import join_inbox
from tasks.data.quality import (
    Check,
    Counts,
    Validation,
    label_expectations,
    summary_expectations,
    summary_of,
    validate,
)
from tasks.data.rows import Rows, part_of_rows
from tasks.data.shingles import shingles
from tasks.data.splits import Split, check_train_only, draw_splits, is_train_only
from tasks.data.table_parts import write_part


@dataclass(frozen=True)
class Preprocessing:
    """A dataset with its parameters, and where its rows are."""

    name: str
    dataset: Dataset
    params: Split
    raw: Path
    work: Path
    """The folder of its parts."""
    inbox: Path

    @property
    def labels(self) -> Sequence[str]:
        """The values of the column `label`, if the dataset has one."""
        return self.dataset.labels(self.params) if self.dataset.labels else ()


def check_sources(table: Table, params: Split, folder: Path) -> None:
    """Raise UserError if no row was read, or if `train_only` names no source of the rows.

    It comes before de-duplication, which may remove all rows of a source.
    """
    if table.empty:
        raise UserError(f"{folder}: there is not one row in its files; `threestage data check` says what is in a file")
    check_train_only(table, params)


def clean(table: Table, dataset: Dataset, params: Split) -> Table:
    """Mask personal data if it is masked in all rows, and drop rows whose text no model should learn from."""
    if params.mask_personal_data == "all":
        table = mask_rows(table)
    table = within_lengths(table, dataset.text(table), dataset.lengths)
    return without_repetition(table, dataset.text(table)).reset_index(drop=True)


def read_rows(job: Preprocessing, mask: Callable[[str], str]) -> Rows:
    """Read and clean the raw rows. Raises UserError if there are none.

    An interrupted call for a dataset with many parts goes on with the next part.
    """
    if job.dataset.parts:
        parts = job.dataset.parts(job.raw, job.params, job.work, mask=mask)
    else:
        table = job.dataset.read(job.raw, job.params)
        check_sources(table, job.params, job.raw)
        table = clean(table, job.dataset, job.params)
        parts = [job.work / "rows.arrow"]
        job.work.mkdir(parents=True, exist_ok=True)
        # Its record is empty: the rules reported to the current one.
        part = part_of_rows(table, job.dataset, job.params.near_duplicate, record=Record())
        write_part(parts[0], part)
    return Rows.of(job.dataset, job.work, parts)


def read_inbox(job: Preprocessing) -> Table | None:
    """Read and clean the rows in the inbox; None if there are no files."""
    if not files_below(job.inbox):
        return None
    read = job.dataset.read_inbox or job.dataset.read
    table = read(job.inbox, job.params)
    prefixed = {column: IN_INBOX + table[column] for column in ("id", "source") if column in table}
    return clean(table.assign(**prefixed), job.dataset, job.params)


def split_rows(rows: Rows, params: Split) -> Rows:
    """Give every row its split.

    Rows that share their group with rows of a `train_only` source, or most of their long lines with earlier splits,
    leave validation and test.
    """
    splits = pd.Series(
        draw_splits(
            units=rows.hashes("unit"),
            params=params,
            train_only=is_train_only(rows.facts, params),
            labels=rows.facts["label"] if rows.dataset.labels else None,
        ),
        rows.positions,
    )
    reasons = pd.Series("its group has rows of a source that is learned from only", splits.index).where(splits.isna())
    rows = rows.without("train_only", reasons)
    rows = replace(rows, facts=rows.facts.assign(split=splits))
    return without_shared_lines(rows)


def without_shared_lines(rows: Rows) -> Rows:
    """The rows without those of validation and test that have half of their long `lines` in earlier splits."""
    lines = rows.dataset.lines
    if lines is None:
        return rows
    table = rows.read(rows.positions).assign(split=rows.facts["split"])
    shares = shares_before(table, lines(table))
    reasons = shares.map(lambda share: f"{share:.0%} of its long lines stand in splits before").where(shares >= HALF)
    return rows.without("long_lines", reasons, lines)


def add_inbox(rows: Rows, inbox: Table | None, params: Split) -> Rows:
    """Add the inbox's rows to the train split alone: no test contains them."""
    if inbox is None or inbox.empty:
        return rows
    positions = rows.positions
    if rows.dataset.parts:  # too many to compare them all: those that are no near duplicates don't matter
        sets = [shingles(text) for text in rows.dataset.text(inbox)]
        near = [pairs[:, 1] for pairs in near_rows(rows, sets, params.near_duplicate)]
        positions = np.unique(np.concatenate(near))
    table = rows.read(positions).assign(split=rows.facts["split"], position=positions)
    joined = join_inbox(table, inbox, dataset=rows.dataset, params=params)
    is_new = joined["position"].isna()
    replaced = positions[~np.isin(positions, joined["position"])]
    new_rows = joined[is_new].drop(columns=["split", "position"]).reset_index(drop=True)
    if params.mask_personal_data == "feedback":  # compared with other rows first: masks make equal rows differ
        new_rows = mask_rows(new_rows)
    rows = replace(rows, facts=rows.facts.drop(index=pd.Index(replaced)))
    return rows.with_train_rows(new_rows, params.near_duplicate)


def summarise(job: Preprocessing, rows: Rows, record: Record) -> Table:
    """The numbers of rows read, dropped and split, in one row."""
    left_out = sum(count for rule, count in record.dropped.items() if RULES[rule].counts and rule != DUPLICATES)
    counts = Counts(
        duplicates=record.dropped[DUPLICATES],
        left_out=left_out,
        overlapping=overlap(rows, job.params.near_duplicate, job.params.seed),
    )
    return summary_of(rows.facts, counts, groups=job.dataset.groups, labels=job.labels)


def check(job: Preprocessing, rows: Rows, summary: Table) -> Validation:
    """Check rows and their summary against their expectations."""
    row_expectations = [*job.dataset.expectations(), *label_expectations(job.labels)]
    checks = [
        Check("rows", rows.batches(), row_expectations),
        Check("summary", [summary], summary_expectations(job.labels, job.params.gates)),
    ]
    return validate(job.name, checks)
