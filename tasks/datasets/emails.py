"""Labelled emails: raw messages and people's own tables, as subject and body."""

import csv
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from llm.errors import UserError
from tasks.data.mail import clean_mail, parse_message
from tasks.data.splits import Split
from tasks.data.textfiles import parse_json, raw_files, read_json_lines, read_text
from tasks.datasets import Dataset

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "subject", "body", "label"]
LABELS = ["ham", "spam"]
logger = logging.getLogger(__name__)


def _csv(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield the rows below the header, numbered as a spreadsheet does."""
    row = 1
    csv.field_size_limit(2**31 - 1)  # the default refuses bodies over 128 KB
    try:
        for row, cells in enumerate(csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True), 2):
            if None in cells:
                raise UserError(f"{path}, row {row}: more cells than columns; quote cells that hold commas")
            yield row, cells
    except csv.Error as error:
        raise UserError(f"{path}, row {row + 1}: {error}") from None


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a file holds, row by row, each with its place in it."""
    match path.suffix:
        case ".json":
            yield "", parse_json(read_text(path), path)
        case ".jsonl":
            yield from ((f", row {row}", cells) for row, cells in read_json_lines(path))
        case ".csv":
            yield from ((f", row {row}", cells) for row, cells in _csv(path))
        case _:
            raise UserError(f"{path}: emails are read from .csv, .jsonl and SpamAssassin's .json files")


def _texts(cells: Any, keys: Sequence[str], place: str) -> list[str]:
    for key in keys:
        if not isinstance(cells, dict) or not isinstance(cells.get(key), str):
            raise UserError(f"{place}: no text under {key!r}; needed are {', '.join(keys)}")
    return [cells[key] for key in keys]


def _email(cells: Any, place: str, *, raw: bool) -> tuple[str, str, str]:
    """Subject, body and label of one row."""
    if raw:
        group, message = _texts(cells, ["group", "text"], place)
        label = next((label for label in LABELS if label in group.split("-")), group)
        subject, body = parse_message(message)
    else:
        label, subject, body = _texts(cells, ["label", "subject", "body"], place)
        subject, body = clean_mail(subject, body)
    if label not in LABELS:
        raise UserError(f"{place}: label {label!r} is not one of {', '.join(LABELS)}")
    return subject, body, label


def read_emails(folder: Path, params: Split | None = None) -> pd.DataFrame:
    """Read all emails under `folder`, in the order of their paths: id, source, subject, body, label (ham or spam).

    A file is one SpamAssassin message (.json with `group` and the raw `text`), or a table with label, subject and body
    (.csv or .jsonl). Emails without any text are left out. Raises UserError with file, row and reason.
    """
    paths = raw_files(folder)
    emails = []
    for path in tqdm(paths, desc="emails", unit="file", disable=None):
        name, raw = path.relative_to(folder), path.suffix == ".json"
        for place, cells in _rows(path):
            identity = f"{name.as_posix()}{place.replace(', row ', '#')}"
            emails.append(
                (identity, (name.parent if raw else name).as_posix(), *_email(cells, f"{path}{place}", raw=raw))
            )
    table = pd.DataFrame(emails, columns=COLUMNS)
    blank = row_text(table).str.isspace()
    logger.info("%d emails in %d files, %d of them without any text left out", len(table), len(paths), blank.sum())
    return table[~blank].reset_index(drop=True)


def row_text(table: pd.DataFrame) -> pd.Series:
    """What makes two emails the same: subject and body."""
    return table["subject"] + "\n" + table["body"]


def email_expectations() -> list["Expectation"]:
    """What a table of emails must be like."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=COLUMNS),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in COLUMNS),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=LABELS),
        gxe.ExpectColumnValueLengthsToBeBetween(column="subject", max_value=2_000),
        gxe.ExpectColumnValueLengthsToBeBetween(column="body", max_value=1_000_000),
    ]


DATASET = Dataset(
    params=Split,
    read=read_emails,
    text=row_text,
    stratify="label",
    expectations=email_expectations,
    labels=tuple(LABELS),
)
