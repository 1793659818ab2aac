"""Labelled emails: messages and mailboxes, labelled by their paths, and tables with a column of labels."""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from llm.errors import UserError
from tasks.data.cleaning.record import changed
from tasks.data.formats import Problem, RowError, check_form, columns_of
from tasks.data.formats.tables import READERS as TABLES
from tasks.data.formats.tables import Row, each_row, named_rows, place_of
from tasks.data.mail import RowError as MailError
from tasks.data.mail import clean_mail, parse_message
from tasks.data.sniff import POSTMARK, is_message, sniff, suffix_of
from tasks.data.textfiles import LARGEST, byte_lines, read_bytes, read_text

SAMPLE = 1000
"""Rows of a table in which its column of labels is looked for."""
COLUMNS = {
    "label": (
        *("label", "labels", "class", "category", "target", "spam/ham", "is_spam", "spam", "label_num", "type", "v1"),
    ),
    "subject": ("subject", "title"),
    "body": ("body", "text", "message", "content", "email", "mail", "sms", "email_text", "message_body", "v2"),
}

DENIALS = ("no", "non", "not")
TOPICS = ("corpus", "data", "dataset", "datasets")  # a folder's name with such a word is a topic, not a label
LONGEST_POSTMARK = 400  # bytes
DATED = re.compile(rb"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b.*\b\d{4}\s*$")  # the end of a line between messages
HEADER_LINE = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:[ \t]*\S")


@dataclass(frozen=True)
class Labels:
    """The labels of emails, and the names that files use for them."""

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
        """The label that a file's value means. Raises RowError if it means none."""
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        label = text if text in self.names else self._known.get(text.strip().casefold())
        if label is None:
            raise RowError(f"label {text!r} is not one of {', '.join(self.names)}")
        return label

    def knows(self, value: Any) -> bool:
        """Whether a value is one of them."""
        return str(value) in self.names or str(value).strip().casefold() in self._known

    def of_path(self, path: PurePath) -> str | None:
        """The label that is a word of the file's name, else of the nearest folder's: `easy-ham-1/3.eml` is ham.

        A name that denies a label, as `not-spam` does, ends the search for this label.
        """
        return self._first([path.name, *self._folders(path)])

    def of_message(self, path: PurePath) -> str | None:
        """Like `of_path`, for a file with one message: programs name it by its subject, so its folders count first.

        A label between dots, as in `0001.farmer.ham.txt`, counts before both.
        """
        between = [part for part in path.name.split(".")[1:-1] if part.casefold() in self._known]
        return self._first([*between, *self._folders(path), path.name])

    def _first(self, names: Sequence[str]) -> str | None:
        denied: set[str] = set()
        for name in names:
            said = {label for word, label in self._known.items() if _says(name, word)} - denied
            if len(said) == 1:
                return said.pop()
            denied |= {label for word, label in self._known.items() if _denies(name, word)}
        return None

    def _folders(self, path: PurePath) -> list[str]:
        """The folders of a file, the nearest first. The outermost is the source's own.

        It may be named after its topic: mails in `spam-data/legit/` are not spam because of it.
        """
        *inner, own = [*reversed(path.parts[:-1])] or [""]
        return inner if inner and {*_words(own).split()} & {*TOPICS} else [*inner, own]


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def _says(name: str, label: str) -> bool:
    """Whether a label is among the words of a name, and not denied; numbers name files, too."""
    words, wanted = _words(name), _words(label)
    denied = "".join(rf"(?<!\b{no} )" for no in DENIALS)
    return not wanted.isdigit() and bool(re.search(rf"{denied}\b{re.escape(wanted)}\b", words))


def _denies(name: str, label: str) -> bool:
    words, wanted = _words(name), _words(label)
    return not wanted.isdigit() and bool(re.search(rf"\b(?:{'|'.join(DENIALS)}) ?{re.escape(wanted)}\b", words))


class Mail(NamedTuple):
    """An email, and where it stands."""

    number: int | None
    """Its row, if its file has several."""
    label: str
    subject: str
    body: str
    cells: Mapping[str, Any]
    """The cells of its row."""


def mails(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """The emails of a file, whose name in its dataset is `name`.

    A message that no parser can read is a Problem that is left out. Raises UserError, naming file, row and reason, if
    the rest of the file can't be read.
    """
    form = sniff(path)
    if form == "empty":
        return
    check_form(path, form, READERS, f"no email, and no table of them; they are read from {', '.join(READERS)}")
    yield from READERS[form](path, name, labels, columns)


def _said(path: Path, label: str | None, labels: Labels) -> str:
    if label is None:
        which = ", ".join(labels.names)
        raise UserError(f"{path}: no file or folder name says which of {which} it is; the `name` of its source may")
    return label


def _message(
    place: str, number: int | None, label: str, clean: Callable[..., tuple[str, str]], *content: Any
) -> Mail | Problem:
    try:
        return Mail(number, label, *clean(*content, changed), {})
    except MailError as error:
        return Problem(place, str(error), left_out=True)


def _eml(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """One message, as a mail program or a Maildir keeps it; several if the file is an mbox file with this suffix."""
    label = _said(path, labels.of_message(name), labels)
    content = message_bytes(read_bytes(path))
    if b"\0" in content[:2]:
        raise UserError(f"{path}, row 1: holds NUL, as UTF-16 without its mark does; save the file as UTF-8")
    if _is_postmark(content[: 2 * LONGEST_POSTMARK].lstrip().partition(b"\n")[0]):
        yield from _messages(path, label)
        return
    if suffix_of(path) == ".emlx":
        content = _of_apple(path, content)
    yield _message(str(path), None, label, parse_message, content)


def message_bytes(content: bytes) -> bytes:
    """A message for a parser: without a byte order mark before its first header, and in UTF-8 if it is UTF-16.

    Its other bytes stay as they are, as its headers declare their charset.
    """
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").encode(errors="ignore")
    return content.removeprefix(BOM_UTF8)


def _of_apple(path: Path, content: bytes) -> bytes:
    """The message in an .emlx file, between a line with its length and a list of properties."""
    count, _, rest = content.partition(b"\n")
    if not count.strip().isdigit() or int(count) > len(rest):
        raise UserError(f"{path}, row 1: not the length of the message that an .emlx has; export it as .eml")
    return rest[: int(count)]


def _mbox(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """Messages one after another, each behind a line `From …` with its time."""
    return _messages(path, _said(path, labels.of_path(name), labels))


def _messages(path: Path, label: str) -> Iterator[Mail | Problem]:
    for number, content in enumerate(messages(path), 1):
        yield _message(place_of(path, number), number, label, parse_message, content)


def messages(path: Path) -> Iterator[bytes]:
    """The messages of an mbox file, without the lines before them. Raises UserError for one that is too large.

    Some programs leave out the blank line before the next message: then a header must follow.
    """
    found: list[bytes] = []
    size, blank, begun = 0, True, False
    for (row, line), (_, after) in pairwise(chain(_message_lines(path), [(0, b"")])):
        if _is_postmark(line) and (blank or (DATED.search(line) and HEADER_LINE.match(after))):
            if begun or any(map(bytes.strip, found)):  # blank lines before the first message are none
                yield b"".join(found)
            found, size, begun = [], 0, True
        else:
            found.append(line[1:] if re.match(rb">+From ", line) else line)
            size += len(line)
        if size > LARGEST:
            raise UserError(f"{path}, row {row}: a message of over {LARGEST:,} bytes")
        blank = not line.strip()
    yield b"".join(found)


def _is_postmark(line: bytes) -> bool:
    return line.startswith(b"From ") and POSTMARK.match(line[:LONGEST_POSTMARK].decode("latin-1")) is not None


def _message_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Like `byte_lines`, without a byte order mark."""
    for row, line in byte_lines(path):
        yield row, line.removeprefix(BOM_UTF8) if row == 1 else line


def _text(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """A body, perhaps below a line with its subject, as in the Enron-Spam folders."""
    label = _said(path, labels.of_message(name), labels)
    text = read_text(path)
    first, _, rest = text.partition("\n")
    found = re.match(r"subject:(.*)", first, re.IGNORECASE)
    yield _message(str(path), None, label, clean_mail, *((found[1], rest) if found else ("", text)))


def _csv(path: Path, name: PurePath, labels: Labels, columns: Mapping[str, str]) -> Iterator[Mail | Problem]:
    """A table. It has no header if its first row holds a label, as in the SMS Spam Collection."""

    def names_without_header(cells: list[str]) -> list[str] | None:
        try:
            found = columns_of(cells, COLUMNS, {})
        except RowError:  # a header with a name twice
            return None
        if "body" in found or {*columns.values()} & {*cells}:
            return None
        if "label" in found and not any(" " in cell.strip() for cell in cells):  # `spam` may be a label, too
            return None
        marked = [number for number, cell in enumerate(cells) if labels.knows(cell)]
        others = [number for number, _ in enumerate(cells) if number not in marked]
        if len(marked) != 1 or not others:
            return None
        worded = [number for number in others if re.search(r"[^\W\d_]{2}", cells[number])]  # no dates or numbers
        if len(worded) > 1:
            which = " or ".join(str(number + 1) for number in worded)
            raise UserError(f"{path}, row 1: no header says whether column {which} is the body; add one")
        body = max(worded or others, key=lambda number: len(cells[number]))
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
    if _is_spam_assassin(cells, columns):
        return _spam_assassin(number, cells, labels)
    found = columns_of(cells, COLUMNS, columns)
    label = cells[found["label"]] if "label" in found else of_path
    if label is None:
        usual, there = ", ".join(COLUMNS["label"]), ", ".join(map(str, cells))
        way_out = f"`columns: {{label: …}}` under preprocess may name one of {there}"
        raise RowError(f"no label; it is looked for under {usual} and in the file's path, and {way_out}")
    body = _text_under(cells, found, "body")
    if "subject" not in found and is_message(body):
        subject, body = parse_message(body, changed)
    else:
        subject, body = clean_mail(_text_under(cells, found, "subject", ""), body, changed)
    return Mail(number, labels.of(label), subject, body, cells)


def likely_label(path: Path) -> tuple[str, Counter[str]] | None:
    """The column of a table that may hold the labels, with the count of each value; None if there is no such column.

    The table has a subject and a body, and no column with a usual name for labels. Of its other columns this one has
    the fewest values, each in two rows or more on average. Raises UserError for a table that can't be read.
    """
    form = sniff(path)
    if form not in TABLES:
        return None
    read = (row[1] for row in islice(TABLES[form](path), SAMPLE) if not isinstance(row, Problem))
    rows = [cells for cells in read if isinstance(cells, Mapping)]
    names = list(rows[0]) if rows else []
    usual = columns_of(names, COLUMNS, {})
    if "label" in usual or not {"subject", "body"} <= usual.keys():
        return None
    counts = {name: Counter(str(row.get(name)).strip() for row in rows) for name in names if name not in usual.values()}
    repeated = [name for name, count in counts.items() if 2 <= len(count) <= len(rows) / 2]
    best = min(repeated, key=lambda name: len(counts[name]), default=None)
    return None if best is None else (best, counts[best])


def _text_under(cells: Mapping[str, Any], found: Mapping[str, str], ours: str, missing: str | None = None) -> str:
    value = cells[found[ours]] if ours in found else missing
    value = "" if ours in found and value is None else value  # as a cell of CSV that is empty
    if not isinstance(value, str):
        raise RowError(f"no text under {ours!r}; columns are {', '.join(map(str, cells))}")
    return value


def _is_spam_assassin(cells: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    """Whether a row comes from the package of that name, and not from a table with another meaning of `group`."""
    if not {"group", "text"} <= cells.keys() or {*columns.values()} & cells.keys():
        return False
    return "checksum" in cells or not {*COLUMNS["label"]} & {name.strip().casefold() for name in cells}


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
