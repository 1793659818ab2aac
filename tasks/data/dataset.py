"""What a dataset says about itself: how it is read, which rows are equal, and what to expect of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks.data.problems import Problem
from tasks.data.splits import Split

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

    from tasks.data.rows import Rows

Table = pd.DataFrame
Texts = pd.Series
Lengths = Mapping[str, tuple[int, int]]
"""The least and most characters of a row, by column."""


def write_parquet(rows: "Rows", folder: Path, params: Split) -> None:
    """Write each split as a table, `folder/<split>.parquet`."""
    for split, table in rows.split_tables():
        table.to_parquet(folder / f"{split}.parquet", index=False)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The parts in which datasets differ."""

    params: type[Split]
    """Its `preprocess` section in params.yaml."""
    read: Callable[[Path, Any], Table]
    """`read(folder, params)` returns all rows below `data/raw/<dataset>/`, with a column `id`.

    It also reads `data/inbox/<dataset>/` if `read_inbox` is None.
    """
    text: Callable[[Table], Texts]
    """The text of each row, by which rows are compared for near duplicates."""
    expectations: Callable[[], "list[Expectation]"]
    """The expectations of Great Expectations on the rows."""
    write: Callable[["Rows", Path, Any], None] = write_parquet
    """`write(rows, folder, params)` writes the splits."""
    groups: str | None = None
    """The column whose equal values stay in one split. A hash of its value decides which; without a column, a hash of
    `text`.

    A row's value must depend on that row alone, so that no other row moves it to another split. Only its hash is
    written, as the column `unit`.
    """
    labels: Callable[[Any], Sequence[str]] | None = None
    """`labels(params)` returns the values of the column `label`; every split must have each of them."""
    read_inbox: Callable[[Path, Any], Table] | None = None
    """Reads the inbox alone, if `read` would add other rows to it."""
    forms: Callable[[Table], Texts] | None = None
    """All texts by which a row is recognised in the inbox, with its index; by default `text`."""
    check: Callable[[Path, Any, list[Problem]], Table] | None = None
    """Like `read_inbox` or `read`, but adds problems to the list: for `threestage data check`."""
    lengths: Lengths = field(default_factory=dict)
    """The least and most characters of a row by column; other rows are dropped."""
    lines: Callable[[Table], Texts] | None = None
    """The text whose long lines are searched in other splits, if `groups` can't keep all such rows together."""
    parts: Callable[..., list[Path]] | None = None
    """Like `read`, for rows that may be too many for memory: `parts(folder, params, work, mask=mask)` returns parts of
    cleaned rows, made by `part_of_rows` below the folder `work`.

    `mask` masks an example in a report. Such rows have no `groups`, `labels` or `forms`, and no feedback.
    """
    feedback: Lengths | None = None
    """The least and most characters of a row of feedback by column; None if the dataset can't read feedback."""
    answer: str = ""
    """The column that holds the right answer of feedback; the rest of `text` is its question."""
