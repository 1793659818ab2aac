"""Labelled texts, such as emails and requests, from all files of a dataset to one table."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Protocol

import pandas as pd

from tasks.data.cleaning.record import drop
from tasks.data.feedback import FEEDBACK, VOTE_COLUMNS
from tasks.data.problems import Problem, rows_of_file, without_problems
from tasks.data.textfiles import raw_files
from tasks.stages.progress_bar import ProgressBar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledText:
    """The texts of one row, and their label."""

    label: str
    texts: Mapping[str, str]
    """By column."""
    number: int | None = None
    """Its row, if its file has several."""
    cells: Mapping[str, Any] = field(default_factory=dict)
    """The cells of its row as they are written."""


class ReadFile(Protocol):
    """Reads the rows of a file, whose name in its dataset is `name`."""

    def __call__(self, path: Path, name: PurePath) -> Iterator[LabelledText | Problem]: ...


def read_labelled(
    folder: Path, read: ReadFile, *, columns: Sequence[str], problems: list[Problem] | None
) -> pd.DataFrame:
    """Read all files below `folder`, in the order of their paths: id, source, these columns, label, VOTE_COLUMNS.

    The latter are those of feedback, and None in other rows. Files and rows that can't be read are added to `problems`;
    without that list they raise UserError with file, row and reason.
    """
    paths = raw_files(folder)
    rows: list[dict[str, Any]] = []
    for path in ProgressBar(paths, desc="reading", unit="file"):
        name = path.relative_to(folder)
        file_rows = rows_of_file(partial(read, name=name), path)
        for row in without_problems(file_rows, problems):
            number = f"#{row.number}" if row.number else ""
            source = name if row.number else name.parent
            cells = row.cells if name.as_posix() == FEEDBACK else {}
            votes = {column: cells.get(column) for column in VOTE_COLUMNS}
            names = {"id": name.as_posix() + number, "source": source.as_posix(), "label": row.label}
            rows.append({**names, **row.texts, **votes})
    logger.info("%d rows in %d files", len(rows), len(paths))
    return pd.DataFrame(rows, columns=["id", "source", *columns, "label", *VOTE_COLUMNS])


def without_contradictions(table: pd.DataFrame, text: pd.Series) -> pd.DataFrame:
    """Drop rows of equal `text` with different labels: it is not clear which is right."""
    contradicted = table.groupby(text)["label"].transform("nunique") > 1
    if contradicted.any():
        equal = table[text == text[contradicted.idxmax()]].drop_duplicates("label")
        names = " and ".join(equal["id"] + " (" + equal["label"] + ")")
        logger.warning("%d rows left out: equal ones have several labels, such as %s", contradicted.sum(), names)
    reasons = ("equal ones have other labels than " + table["label"]).where(contradicted)
    return drop("contradictions", table, reasons=reasons, text=text).reset_index(drop=True)
