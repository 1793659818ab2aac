"""The datasets: one file each, which says how it is read, what makes two rows the same, and what must hold.

A dataset is a module here with a `DATASET`, a block under `datasets` in params.yaml, and a test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
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
    """What is a dataset's own."""

    params: type[Split]
    """Its `preprocess` section in params.yaml."""
    read: Callable[[Path, Any], Table]
    """All rows below `data/raw/<dataset>/`, with a column `id`, from the folder and the parameters.

    Below `data/inbox/<dataset>/`, too, where `read_inbox` is None."""
    text: Callable[[Table], pd.Series]
    """What makes two rows the same."""
    expectations: Callable[[], list]
    """What Great Expectations holds the rows against."""
    write: Callable[[Any, Path, Any], object] = write_parquet
    """Write the splits, of the folder and the parameters: a table each by its name, or the stream with all."""
    groups: str | None = None
    """The column whose equal values stay in one split, of which a hash decides; without it that of `text` does.

    A row's value must come from that row alone, so that no other row moves it to another split. It is not written, but
    for its hash, as the column `unit`."""
    labels: Callable[[Any], Sequence[str]] | None = None
    """The values of the column `label`, of the parameters; every split must have each of them."""
    read_inbox: Callable[[Path, Any], Table] | None = None
    """What people left, where `read` would add rows of its own to it."""
    forms: Callable[[Table], pd.Series] | None = None
    """All texts by which a row is known again in the inbox, with its index; without it, `text`."""
    check: Callable[[Path, Any, list[Problem]], Table] | None = None
    """As `read_inbox` or `read`, but what can't be read is put into the list: for `threestage data check`."""
    lengths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Columns and the least and most characters that a row has in them; any other is left out."""
    lines: Callable[[Table], pd.Series] | None = None
    """The text whose long lines are looked for in other splits, where `groups` can't keep all such rows together."""
    stream: Callable[[Path, Any, Path, Callable[[str], str]], "Stream"] | None = None
    """As `read`, without rows that are no text to learn from, where rows may be too many for memory.

    Of the folder, the parameters, a folder for its parts, and what masks an example."""
    feedback: Mapping[str, tuple[int, int]] | None = None
    """Columns of a row of feedback and their least and greatest lengths; None where the dataset can't read any."""
    answer: str = ""
    """The column in which feedback says what is right; the rest of `text` is what it is about."""


def find(name: str) -> Dataset:
    """The dataset in `tasks/datasets/<name>.py`. Raises ModuleNotFoundError without that file."""
    return import_module(f"{__name__}.{name}").DATASET
