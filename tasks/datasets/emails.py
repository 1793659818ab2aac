"""Labelled emails: raw messages and people's own tables, as subject and body."""

import csv
import io
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field, field_validator
from tqdm import tqdm

from llm.errors import UserError
from tasks.data.inbox import FEEDBACK
from tasks.data.mail import clean_mail, parse_message
from tasks.data.splits import Split
from tasks.data.textfiles import parse_json, raw_files, read_json_lines, read_text
from tasks.datasets import Dataset

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "subject", "body", "label"]
LENGTHS = {"subject": (0, 2_000), "body": (0, 1_000_000)}
logger = logging.getLogger(__name__)


class Params(Split):
    """How emails are cleaned and split, and what they may be."""

    labels: tuple[str, ...] = Field(("ham", "spam"), min_length=2)
    """What an email may be: words of letters, digits, `_`, `.` and `-`; each is in every split."""

    @field_validator("labels", mode="after")
    @classmethod
    def _each_label_is_a_name_and_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        for label in labels:  # they become names of metrics
            if not re.fullmatch(r"[\w.-]+( [\w.-]+)*", label):
                raise ValueError(f"{label!r} is no word of letters, digits, _, . and -, nor several of them")
        if twice := [label for label in labels if labels.count(label) > 1]:
            raise ValueError(f"{twice[0]!r} stands here twice")
        return labels


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


def _email(cells: Any, place: str, labels: Sequence[str], *, raw: bool) -> tuple[str, str, str]:
    """Subject, body and label of one row."""
    if raw:
        group, message = _texts(cells, ["group", "text"], place)
        label = next((label for label in labels if label in group.split("-")), group)
        subject, body = parse_message(message)
    else:
        label, subject, body = _texts(cells, ["label", "subject", "body"], place)
        subject, body = clean_mail(subject, body)
    if label not in labels:
        raise UserError(f"{place}: label {label!r} is not one of {', '.join(labels)}")
    return subject, body, label


def read_emails(folder: Path, params: Params) -> pd.DataFrame:
    """Read all emails under `folder`, in the order of their paths: id, source, subject, body, label.

    A file is one SpamAssassin message (.json with `group` and the raw `text`), or a table with label, subject and body
    (.csv or .jsonl). Emails without any text are left out, and so are equal ones that have several labels. In feedback
    a client's last word on a mail counts; clients who disagree are several labels. Against a label of the dataset's own
    that of the inbox counts, where the mail is learned from (tasks/data/inbox.py). Raises UserError with file, row and
    reason.
    """
    paths = raw_files(folder)
    emails = []
    for path in tqdm(paths, desc="emails", unit="file", disable=None):
        name, raw = path.relative_to(folder), path.suffix == ".json"
        for place, cells in _rows(path):
            identity = f"{name.as_posix()}{place.replace(', row ', '#')}"
            source = (name.parent if raw else name).as_posix()
            email = _email(cells, f"{path}{place}", params.labels, raw=raw)
            client = str(cells.get("client")) if name.name == FEEDBACK else identity
            emails.append((identity, source, *email, client))
    table = pd.DataFrame(emails, columns=[*COLUMNS, "client"])
    blank = row_text(table).str.isspace()
    logger.info("%d emails in %d files, %d of them without any text left out", len(table), len(paths), blank.sum())
    said_again = table.duplicated(["client", "subject", "body"], keep="last")
    return _without_contradictions(table.loc[~blank & ~said_again, COLUMNS].reset_index(drop=True))


def _without_contradictions(table: pd.DataFrame) -> pd.DataFrame:
    """Drop equal emails that have several labels: nobody knows which is right."""
    text = row_text(table)
    contradicted = table.groupby(text)["label"].transform("nunique") > 1
    if contradicted.any():
        equal = table[text == text[contradicted.idxmax()]].drop_duplicates("label")
        named = " and ".join(equal["id"] + " (" + equal["label"] + ")")
        logger.warning("%d emails left out: equal ones have several labels, such as %s", contradicted.sum(), named)
    return table[~contradicted].reset_index(drop=True)


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
        *(gxe.ExpectColumnValueLengthsToBeBetween(column=name, max_value=most) for name, (_, most) in LENGTHS.items()),
    ]


DATASET = Dataset(
    params=Params,
    read=read_emails,
    text=row_text,
    stratify="label",
    expectations=email_expectations,
    labels=lambda params: params.labels,
    feedback=LENGTHS,
)
