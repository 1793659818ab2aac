"""Labelled emails: messages and mailboxes, labelled by their paths, and tables with a column of labels."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from llm.errors import UserError
from tasks.data.formats.columns import columns_of
from tasks.data.formats.labelled import LabelledText
from tasks.data.formats.labels import Labels
from tasks.data.formats.messages import message_bytes, message_of_apple, messages
from tasks.data.formats.tables import READERS as TABLES
from tasks.data.formats.tables import Row, place_of, read_rows
from tasks.data.mail import RowError as MailError
from tasks.data.mail import clean_mail, parse_message
from tasks.data.problems import Problem, RowError, check_form
from tasks.data.sniff import is_message, sniff, suffix_of
from tasks.data.textfiles import read_bytes, read_text

COLUMNS = {
    "label": (
        *("label", "labels", "class", "category", "target", "spam/ham", "is_spam", "spam", "label_num", "type", "v1"),
    ),
    "subject": ("subject", "title"),
    "body": ("body", "text", "message", "content", "email", "mail", "sms", "email_text", "message_body", "v2"),
}
Cells = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """A file of emails, and how to read it."""

    path: Path
    name: PurePath
    """Its name in the dataset, which may say the label."""
    labels: Labels
    columns: Mapping[str, str]
    """The names that the parameters give for our columns."""


def mails(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[LabelledText | Problem]:
    """The emails of a file, whose name in its dataset is `name`.

    A message that no parser can read is a Problem that is left out. Raises UserError, naming file, row and reason, if
    the rest of the file can't be read.
    """
    form = sniff(path)
    if form == "empty":
        return
    check_form(path, form, READERS, reason=f"no email, and no table of them; they are read from {', '.join(READERS)}")
    yield from READERS[form](File(path=path, name=name, labels=labels, columns=columns))


def _label_of_path(file: File, label: str | None) -> str:
    if label is None:
        labels = ", ".join(file.labels.names)
        raise UserError(
            f"{file.path}: no file or folder name says which of {labels} it is; the `name` of its source may"
        )
    return label


def _message(file: File, content: bytes, *, label: str, number: int | None = None) -> LabelledText | Problem:
    """A raw message."""
    try:
        subject, body = parse_message(content)
    except MailError as error:
        return Problem(place_of(file.path, number), str(error), left_out=True)
    return LabelledText(label=label, texts={"subject": subject, "body": body}, number=number)


def _eml(file: File) -> Iterator[LabelledText | Problem]:
    """One message, as a mail program or a Maildir keeps it."""
    label = _label_of_path(file, file.labels.of_message(file.name))
    content = message_bytes(read_bytes(file.path))
    if b"\0" in content[:2]:
        raise UserError(f"{file.path}, row 1: holds NUL, as UTF-16 without its mark does; save the file as UTF-8")
    if suffix_of(file.path) == ".emlx":
        content = message_of_apple(file.path, content)
    yield _message(file, content, label=label)


def _mbox(file: File) -> Iterator[LabelledText | Problem]:
    """Messages one after another, each behind a line `From …` with its time."""
    label = _label_of_path(file, file.labels.of_path(file.name))
    for number, content in enumerate(messages(file.path), 1):
        yield _message(file, content, label=label, number=number)


def _text(file: File) -> Iterator[LabelledText | Problem]:
    """A body, perhaps below a line with its subject, as in the Enron-Spam folders."""
    label = _label_of_path(file, file.labels.of_message(file.name))
    text = read_text(file.path)
    first, _, later_lines = text.partition("\n")
    line = re.match(r"subject:(.*)", first, re.IGNORECASE)
    try:
        subject, body = clean_mail(line[1], later_lines) if line else clean_mail("", text)
    except MailError as error:
        yield Problem(str(file.path), str(error), left_out=True)
        return
    yield LabelledText(label=label, texts={"subject": subject, "body": body})


def _table(file: File, form: str) -> Iterator[LabelledText | Problem]:
    return _of_rows(file, TABLES[form](file.path))


def _of_rows(file: File, rows: Iterator[Row | Problem]) -> Iterator[LabelledText | Problem]:
    path_label = file.labels.of_path(file.name)

    def read(number: int | None, cells: Any) -> LabelledText:
        if not isinstance(cells, Mapping):
            raise RowError(f"{str(cells)[:50]!r} is no row with columns")
        if _is_spam_assassin(cells, file.columns):
            label = _label_of_group(cells, file.labels)
            subject, body = parse_message(cells["text"])
        else:
            columns = columns_of(cells, COLUMNS, file.columns)
            label = _label(cells, columns, path_label)
            subject, body = _subject_and_body(cells, columns)
            label = file.labels.of(label)
        return LabelledText(label=label, texts={"subject": subject, "body": body}, number=number, cells=cells)

    return read_rows(file.path, rows, read, left_out=(MailError,))


def _label(cells: Cells, columns: Mapping[str, str], path_label: str | None) -> Any:
    """A row's label as it is written."""
    label = cells[columns["label"]] if "label" in columns else path_label
    if label is None:
        usual = ", ".join(COLUMNS["label"])
        names = ", ".join(map(str, cells))
        way_out = f"`columns: {{label: …}}` under preprocess may name one of {names}"
        raise RowError(f"no label; it is looked for under {usual} and in the file's path, and {way_out}")
    return label


def _subject_and_body(cells: Cells, columns: Mapping[str, str]) -> tuple[str, str]:
    body = _text_under(cells, columns, "body")
    if "subject" in columns:
        return clean_mail(_text_under(cells, columns, "subject"), body)
    if is_message(body):
        return parse_message(body)
    return clean_mail("", body)


def _text_under(cells: Cells, columns: Mapping[str, str], ours: str) -> str:
    text = cells[columns[ours]] if ours in columns else None
    if ours in columns and text is None:
        return ""  # as a cell of CSV that is empty
    if not isinstance(text, str):
        raise RowError(f"no text under {ours!r}; columns are {', '.join(map(str, cells))}")
    return text


def _is_spam_assassin(cells: Cells, columns: Mapping[str, str]) -> bool:
    """Whether a row comes from the package of that name, and not from a table with another meaning of `group`."""
    if not {"group", "text"} <= cells.keys() or set(columns.values()) & cells.keys():
        return False
    return "checksum" in cells or not set(COLUMNS["label"]) & {name.strip().casefold() for name in cells}


def _label_of_group(cells: Cells, labels: Labels) -> str:
    """The label of a raw message as the package of SpamAssassin's corpus keeps it, by its group."""
    group = cells["group"]
    if not isinstance(group, str) or not isinstance(cells["text"], str):
        raise RowError("no text under 'group' or 'text'")
    return labels.of_path(PurePath(group)) or labels.of(group)


READERS: dict[str, Callable[[File], Iterator[LabelledText | Problem]]] = {
    "eml": _eml,
    "mbox": _mbox,
    "text": _text,
    "csv": partial(_table, form="csv"),
    "json": partial(_table, form="json"),
    "jsonl": partial(_table, form="jsonl"),
    "parquet": partial(_table, form="parquet"),
}
