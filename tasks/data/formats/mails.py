"""Labelled emails: messages and mailboxes, labelled by where they lie, and tables with a column of labels."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from llm.errors import UserError
from tasks.data.cleaning.record import changed
from tasks.data.formats import Problem, RowError, columns_of
from tasks.data.formats.sniff import POSTMARK, is_message, sniff
from tasks.data.formats.tables import READERS as TABLES
from tasks.data.formats.tables import Row, each_row, named_rows, place_of
from tasks.data.mail import RowError as MailError
from tasks.data.mail import clean_mail, parse_message
from tasks.data.textfiles import LARGEST, byte_lines, read_bytes, read_text

COLUMNS = {
    "label": (
        "label",
        "labels",
        "class",
        "category",
        "target",
        "spam/ham",
        "is_spam",
        "spam",
        "label_num",
        "type",
        "v1",
    ),
    "subject": ("subject", "title"),
    "body": ("body", "text", "message", "content", "email", "mail", "sms", "email_text", "message_body", "v2"),
}


@dataclass(frozen=True)
class Labels:
    """What an email may be, and how files call that."""

    names: tuple[str, ...]
    label_map: Mapping[str, str] = field(default_factory=dict)
    """What files write instead, such as 1 for spam; case does not count."""

    @cached_property
    def _known(self) -> dict[str, str]:
        cases = Counter(name.casefold() for name in self.names)
        return {
            **{name.casefold(): name for name in self.names if cases[name.casefold()] == 1},
            **{other.casefold(): name for other, name in self.label_map.items()},
        }

    def of(self, value: Any) -> str:
        """The label that a file's value means. Raises RowError where it is none."""
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        label = text if text in self.names else self._known.get(text.strip().casefold())
        if label is None:
            raise RowError(f"label {text!r} is not one of {', '.join(self.names)}")
        return label

    def knows(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return str(value) in self.names or str(value).strip().casefold() in self._known

    def of_path(self, path: PurePath) -> str | None:
        """The label that a file's name or the nearest folder's says, as a word: `easy-ham-1/3.eml` is ham."""
        for part in reversed(path.parts):
            said = {label for word, label in self._known.items() if _says(part, word)}
            if len(said) == 1:
                return said.pop()
        return None


def _says(name: str, label: str) -> bool:
    """Whether a label is among the words of a name, and not denied; numbers name files, too."""
    words, wanted = (" ".join(re.findall(r"[^\W_]+", text.casefold())) for text in (name, label))
    return not wanted.isdigit() and bool(re.search(rf"(?<!\bnot )(?<!\bnon )\b{re.escape(wanted)}\b", words))


class Mail(NamedTuple):
    """An email, and where it stands."""

    number: int | None
    """Its row, where its file has several."""
    label: str
    subject: str
    body: str
    cells: Mapping[str, Any]
    """What else its row says."""


def mails(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """The emails of a file, which is called `name` in its dataset.

    A message that no parser can read is a Problem that is left out. Raises UserError, naming file, row and reason, for
    a file that can't be read on.
    """
    form = sniff(path)
    if form == "empty":
        return
    if form not in READERS:
        raise UserError(f"{path}: no email, and no table of them; they are read from {', '.join(READERS)}")
    yield from READERS[form](path, name, labels, columns)


def _label_of_path(path: Path, name: PurePath, labels: Labels) -> str:
    label = labels.of_path(name)
    if label is None:
        raise UserError(f"{path}: no file or folder name says which of {', '.join(labels.names)} it is")
    return label


def _message(
    place: str, number: int | None, label: str, clean: Callable[..., tuple[str, str]], *content: Any
) -> Mail | Problem:
    try:
        return Mail(number, label, *clean(*content, changed), {})
    except MailError as error:
        return Problem(place, str(error), left_out=True)


def _eml(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """One message, as a mail program or a Maildir keeps it."""
    label = _label_of_path(path, name, labels)
    yield _message(str(path), None, label, parse_message, read_bytes(path))


def _mbox(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """Messages one after another, each behind a line `From …` with its time."""
    label = _label_of_path(path, name, labels)
    for number, content in enumerate(messages(path), 1):
        yield _message(place_of(path, number), number, label, parse_message, content)


def messages(path: Path) -> Iterator[bytes]:
    """The messages of an mbox file, without the lines before them. Raises UserError for one that is too large."""
    found: list[bytes] = []
    size, blank, begun = 0, True, False
    for row, line in byte_lines(path):
        if blank and line.startswith(b"From ") and POSTMARK.match(line.decode("latin-1")):
            if begun or any(map(bytes.strip, found)):  # blank lines before the first are no message
                yield b"".join(found)
            found, size, begun = [], 0, True
        else:
            found.append(line[1:] if re.match(rb">+From ", line) else line)
            size += len(line)
        if size > LARGEST:
            raise UserError(f"{path}, row {row}: a message of over {LARGEST:,} bytes")
        blank = not line.strip()
    yield b"".join(found)


def _text(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """A body, perhaps below one line with its subject, as the Enron-Spam folders have them."""
    label = _label_of_path(path, name, labels)
    text = read_text(path)
    first, _, rest = text.partition("\n")
    found = re.match(r"subject:(.*)", first, re.IGNORECASE)
    yield _message(str(path), None, label, clean_mail, *((found[1], rest) if found else ("", text)))


def _csv(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """A table; without a header where the first row has a label in it, as the SMS Spam Collection."""

    def names_without_header(cells: list[str]) -> list[str] | None:
        found = columns_of(cells, COLUMNS, {})
        if "body" in found or {*columns.values()} & {*cells}:
            return None
        if "label" in found and not any(" " in cell.strip() for cell in cells):  # `spam` may be a label, too
            return None
        marked = [number for number, cell in enumerate(cells) if labels.knows(cell)]
        others = [number for number, _ in enumerate(cells) if number not in marked]
        if len(marked) != 1 or not others:
            return None
        body = max(others, key=lambda number: len(cells[number]))
        return ["label" if n == marked[0] else "body" if n == body else f"column {n + 1}" for n, _ in enumerate(cells)]

    return _of_rows(path, name, labels, columns, named_rows(path, names_without_header))


def _table(
    path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str], form: str
) -> Iterator[Mail | Problem]:
    return _of_rows(path, name, labels, columns, TABLES[form](path))


def _of_rows(
    path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str], rows: Iterator[Row | Problem]
) -> Iterator[Mail | Problem]:
    of_path = labels.of_path(name)
    return each_row(path, rows, lambda number, cells: _mail(number, cells, labels, columns, of_path), (MailError,))


def _mail(number: int | None, cells: Any, labels: Labels, columns: Mapping[str, str], of_path: str | None) -> Mail:
    if not isinstance(cells, Mapping):
        raise RowError(f"{str(cells)[:50]!r} is no row with columns")
    if {"group", "text"} <= cells.keys() and not {"label", *columns.values()} & cells.keys():
        return _spam_assassin(number, cells, labels)
    found = columns_of(cells, COLUMNS, columns)
    label = cells[found["label"]] if "label" in found else of_path
    if label is None:
        raise RowError(f"no label; it is looked for under {', '.join(COLUMNS['label'])} and in the file's path")
    body = _text_under(cells, found, "body")
    if "subject" not in found and is_message(body):
        subject, body = parse_message(body, changed)
    else:
        subject, body = clean_mail(_text_under(cells, found, "subject", ""), body, changed)
    return Mail(number, labels.of(label), subject, body, cells)


def _text_under(cells: Mapping[str, Any], found: Mapping[str, str], ours: str, missing: str | None = None) -> str:
    value = cells[found[ours]] if ours in found else missing
    value = missing if value is None else value
    if not isinstance(value, str):
        raise RowError(f"no text under {ours!r}; columns are {', '.join(map(str, cells))}")
    return value


def _spam_assassin(number: int | None, cells: Mapping[str, Any], labels: Labels) -> Mail:
    """A raw message as the package of SpamAssassin's corpus keeps it, labelled by its group."""
    group, text = cells["group"], cells["text"]
    if not isinstance(group, str) or not isinstance(text, str):
        raise RowError("no text under 'group' or 'text'")
    label = labels.of_path(PurePath(group)) or labels.of(group)
    return Mail(number, label, *parse_message(text, changed), cells)


READERS: dict[str, Callable[..., Iterator[Mail | Problem]]] = {
    "eml": _eml,
    "mbox": _mbox,
    "text": _text,
    "csv": _csv,
    "json": lambda *arguments: _table(*arguments, "json"),
    "jsonl": lambda *arguments: _table(*arguments, "jsonl"),
    "parquet": lambda *arguments: _table(*arguments, "parquet"),
}
