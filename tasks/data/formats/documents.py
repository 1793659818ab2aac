"""The corpus: documents from texts, HTML pages, and tables with a column of texts."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tasks.data.cleaning.record import changed, left_out
from tasks.data.formats.columns import columns_of
from tasks.data.formats.tables import READERS as TABLES
from tasks.data.formats.tables import Row, read_rows
from tasks.data.mail.html import html_text
from tasks.data.problems import Problem, RowError, check_form
from tasks.data.sniff import PROSE, sniff, suffix_of
from tasks.data.textfiles import lines, mend, read_text

COLUMNS = {"text": ("text", "content", "body", "document", "article", "story", "passage", "markdown")}
PART = 16 * 2**20  # characters; a longer text is several documents


@dataclass(frozen=True)
class Document:
    """A text of a file."""

    suffix: str
    """It tells the text from the file's other documents."""
    text: str


Columns = Mapping[str, str]
"""The names that the parameters give for our columns."""


def documents(path: Path, columns: Columns) -> Iterator[Document | Problem]:
    """The documents of a file, tidied by `tidy_document`. Raises as `raw_documents` does."""
    for document in raw_documents(path, columns):
        if isinstance(document, Problem):
            yield document
        else:
            yield replace(document, text=tidy_document(document.text))


def raw_documents(path: Path, columns: Columns) -> Iterator[Document | Problem]:
    """The documents of a file as they are written.

    Raises UserError, naming file, row and reason, if the rest of the file can't be read.
    """
    form = sniff(path)
    if suffix_of(path) in PROSE and form in ("eml", "mbox"):
        form = "text"
    if form == "empty":
        return
    check_form(path, form, READERS, reason=f"no text, and none of {', '.join(READERS)}")
    yield from READERS[form](path, columns)


def tidy_document(text: str) -> str:
    """A document with broken characters mended, no two blank lines in a row and no space around it."""
    return re.sub(r"\n([ \t]*\n)+", "\n\n", mend(text)).strip()


def _text(path: Path, columns: Columns) -> Iterator[Document]:
    """A file as one document, or a large one as several, cut at ends of lines."""
    parts: list[str] = []
    size = 0
    number = 1
    for _, line in lines(path):
        if parts and size + len(line) > PART:
            yield Document(f"#{number}", "".join(parts))
            number += 1
            parts = []
            size = 0
        parts.append(line)
        size += len(line)
    yield Document(f"#{number}" if number > 1 else "", "".join(parts))


def _html(path: Path, columns: Columns) -> Iterator[Document]:
    html = read_text(path)
    text = html_text(html)
    changed("markup", html, text)
    text_lines = [" ".join(line.split()) for line in text.splitlines()]
    yield Document("", "\n".join(text_lines))


def _table(path: Path, columns: Columns, form: str) -> Iterator[Document | Problem]:
    return _of_rows(path, TABLES[form](path), columns)


def _of_rows(path: Path, rows: Iterable[Row | Problem], columns: Columns) -> Iterator[Document | Problem]:
    def read(number: int | None, cells: Any) -> Document:
        return Document(f"#{number}" if number else "", _text_of(cells, columns))

    return read_rows(path, rows, read)


def _text_of(cells: Any, columns: Columns) -> str:
    text = cells
    names = ""
    if isinstance(cells, Mapping):
        column = columns_of(cells, COLUMNS, columns).get("text")
        text = cells[column] if column else None
        if column and text is None:
            return ""  # as a cell of CSV that is empty
        names = "" if column else f", only {', '.join(map(str, cells))}"
    if not isinstance(text, str) or not isinstance(cells, Mapping):
        raise RowError(f'no string under "text"{names}')
    return text


def _json(path: Path, columns: Columns) -> Iterator[Document | Problem]:
    """Rows with a text, or chats of two as chitchat-dataset keeps them."""
    rows = TABLES["json"](path)
    first = list(islice(rows, 1))
    chats = _chats_in(first[0]) if first else None
    if chats is None:
        yield from _of_rows(path, chain(first, rows), columns)
    else:
        yield from _chats(path, chats)


def _chats_in(row: Row | Problem) -> Mapping[str, Any] | None:
    """The chats of a file's one object; None if it has another content."""
    if isinstance(row, Problem) or row.number or not isinstance(row.cells, Mapping):
        return None
    return row.cells if all(isinstance(chat, Mapping) for chat in row.cells.values()) else None


def _chats(path: Path, chats: Mapping[str, Any]) -> Iterator[Document | Problem]:
    """`{id: {"messages": [[{"sender", "text"}]]}}`: a chat is one document, a message one line, `A: …` or `B: …`.

    Chats that nobody answered are left out.
    """
    for name, chat in chats.items():
        try:
            messages = list(chain.from_iterable(chat["messages"]))
            senders = [message["sender"] for message in messages]
            texts = [" ".join(message["text"].split()) for message in messages]
            letters = {sender: "" for sender, text in zip(senders, texts, strict=True) if text}
        except (KeyError, TypeError, AttributeError) as error:
            yield Problem(f"{path}, chat {name}", f"no messages with sender and text ({error})")
            continue
        for number, sender in enumerate(letters):
            letters[sender] = chr(ord("A") + number)
        turns = [f"{letters[sender]}: {text}" for sender, text in zip(senders, texts, strict=True) if text]
        document = Document(f"#{name}", "\n".join(turns))
        if len(letters) > 1:
            yield document
        else:
            row = {"id": path.name + document.suffix, "reason": "nobody answered", "text": document.text}
            left_out("unanswered", [row])


READERS: dict[str, Callable[[Path, Columns], Iterator[Document | Problem]]] = {
    "text": _text,
    "html": _html,
    "csv": partial(_table, form="csv"),
    "json": _json,
    "jsonl": partial(_table, form="jsonl"),
    "parquet": partial(_table, form="parquet"),
}
