"""Labelled emails: raw messages and people's own tables, as subject and body."""

import csv
import email
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from email import policy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftfy
import pandas as pd
from bs4 import BeautifulSoup
from tqdm import tqdm

from tasks.textfiles import parse_json, raw_files, read_json_lines, read_text

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "subject", "body", "label"]
LABELS = ["ham", "spam"]
BLOCKS = ["address", "blockquote", "br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "p", "table", "tr"]

LOST = "\N{REPLACEMENT CHARACTER}"

logger = logging.getLogger(__name__)


def _html_text(html: str) -> str:
    """The text that a person sees, link texts included, with a new line where a block ends."""
    with warnings.catch_warnings(action="ignore"):
        soup = BeautifulSoup(html, "lxml")
    for tag in soup(["script", "style", "title"]):
        tag.decompose()
    for tag in soup(BLOCKS):
        tag.append("\n")
    for tag in soup(["td", "th"]):
        tag.append(" ")
    return soup.get_text()


def _mend(text: str) -> str:
    """Broken characters mended, lines with single spaces."""
    # ftfy looks at each line by itself, which is half of the time of it all and gains nothing on ASCII.
    text = (ftfy.fix_text_segment if text.isascii() else ftfy.fix_text)(text)
    return "\n".join(" ".join(line.split()) for line in text.replace(LOST, "").splitlines())


def _body_text(content: str, subtype: str = "plain") -> str:
    is_html = subtype == "html" or re.match(r"\s*<(!doctype|html)\b", content, re.IGNORECASE)
    return _mend(_html_text(content) if is_html else content).strip()


def _clean(subject: str, body: str) -> tuple[str, str]:
    """The subject as one line, the body without empty lines in a row."""
    return " ".join(_mend(subject).split()), re.sub(r"\n{3,}", "\n\n", body).strip()


def _decode(content: bytes, charset: str | None) -> str:
    """Decode a part; what is valid UTF-8 is taken for it, whatever charset the header claims."""
    for name in ([] if content.isascii() else ["utf-8"]) + [charset or "ascii"]:
        try:
            return content.decode(name)
        except (LookupError, UnicodeError):
            continue
    return content.decode("latin-1")


def parse_message(raw: str) -> tuple[str, str]:
    """Give the subject and the body of a raw message as tidy text: its plain part, else its HTML; no attachments."""
    # The archive was decoded with losses: which character it was is gone, and U+FFFD would only mark old charsets.
    message = email.message_from_bytes(raw.replace(LOST, "").encode(), policy=policy.default)
    parts = [part for kind in ("plain", "html") if (part := message.get_body((kind,))) is not None]
    if not parts:  # broken boundaries or types leave the content as it came
        parts = [part for part in message.walk() if not part.is_multipart()][:1]
    bodies = (
        _body_text(_decode(part.get_payload(decode=True), part.get_content_charset()), part.get_content_subtype())
        for part in parts
    )
    return _clean(str(message["subject"] or ""), next(filter(None, bodies), ""))


def _csv(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield the rows below the header, numbered as a spreadsheet does."""
    row = 1
    csv.field_size_limit(2**31 - 1)  # the default refuses bodies over 128 KB
    try:
        for row, cells in enumerate(csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True), 2):
            if None in cells:
                raise ValueError(f"{path}, row {row}: more cells than columns; quote cells that hold commas")
            yield row, cells
    except csv.Error as error:
        raise ValueError(f"{path}, row {row + 1}: {error}") from None


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
            raise ValueError(f"{path}: emails are read from .csv, .jsonl and SpamAssassin's .json files")


def _texts(cells: Any, keys: Sequence[str], place: str) -> list[str]:
    for key in keys:
        if not isinstance(cells, dict) or not isinstance(cells.get(key), str):
            raise ValueError(f"{place}: no text under {key!r}; needed are {', '.join(keys)}")
    return [cells[key] for key in keys]


def _email(cells: Any, place: str, *, raw: bool) -> tuple[str, str, str]:
    """Subject, body and label of one row."""
    if raw:
        group, message = _texts(cells, ["group", "text"], place)
        label = next((label for label in LABELS if label in group.split("-")), group)
        subject, body = parse_message(message)
    else:
        label, subject, body = _texts(cells, ["label", "subject", "body"], place)
        subject, body = _clean(subject, _body_text(body))
    if label not in LABELS:
        raise ValueError(f"{place}: label {label!r} is not one of {', '.join(LABELS)}")
    return subject, body, label


def read_emails(folder: Path) -> pd.DataFrame:
    """Read all emails under `folder`, in the order of their paths: id, source, subject, body, label (ham or spam).

    A file is one SpamAssassin message (.json with `group` and the raw `text`), or a table with label, subject and body
    (.csv or .jsonl). Emails without any text are left out. Raises ValueError with file, row and reason.
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
    blank = email_text(table).str.isspace()
    logger.info("%d emails in %d files, %d of them without any text left out", len(table), len(paths), blank.sum())
    return table[~blank].reset_index(drop=True)


def email_text(table: pd.DataFrame) -> pd.Series:
    """What a classifier reads of each email: subject, new line, body."""
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
