"""The datasets: one file each, which says how to read it, which rows are equal, and what to expect of it.

A dataset is a module here with a `DATASET`, a block under `datasets` in params.yaml, and a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks.data.formats import Problem
from tasks.data.splits import Split

if TYPE_CHECKING:
    from tasks.data.stream import Stream

Table = pd.DataFrame


def write_parquet(splits: dict[str, Table], folder: Path, params: Split) -> None:
    """Each split as a table, `folder/<split>.parquet`."""
    for name, table in splits.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)


@dataclass(frozen=True)
class Dataset:
    """The parts in which datasets differ."""

    params: type[Split]
    """Its `preprocess` section in params.yaml."""
    read: Callable[[Path, Any], Table]
    """`read(folder, params)` returns all rows below `data/raw/<dataset>/`, with a column `id`.

    It also reads `data/inbox/<dataset>/` if `read_inbox` is None.
    """
    text: Callable[[Table], pd.Series]
    """The text of each row, by which rows are compared for near duplicates."""
    expectations: Callable[[], list]
    """The expectations of Great Expectations on the rows."""
    write: Callable[[Any, Path, Any], object] = write_parquet
    """`write(splits, folder, params)` writes the splits: tables by name, or the stream that holds them all."""
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
    forms: Callable[[Table], pd.Series] | None = None
    """All texts by which a row is recognised in the inbox, with its index; by default `text`."""
    check: Callable[[Path, Any, list[Problem]], Table] | None = None
    """Like `read_inbox` or `read`, but adds problems to the list: for `threestage data check`."""
    lengths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The least and most characters of a row by column; other rows are dropped."""
    lines: Callable[[Table], pd.Series] | None = None
    """The text whose long lines are searched in other splits, if `groups` can't keep all such rows together."""
    stream: Callable[[Path, Any, Path, Callable[[str], str]], "Stream"] | None = None
    """Like `read`, for rows that may be too many for memory, and without rows that no model should learn from.

    Its arguments: the folder, the parameters, a folder for its parts, and a function that masks an example.
    """
    feedback: Mapping[str, tuple[int, int]] | None = None
    """The least and most characters of a row of feedback by column; None if the dataset can't read feedback."""
    answer: str = ""
    """The column that holds the right answer of feedback; the rest of `text` is its question."""
