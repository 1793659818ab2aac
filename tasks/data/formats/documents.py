"""The corpus: documents from texts, HTML pages, and tables with a column of texts."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tasks.data.cleaning.record import changed, left_out
from tasks.data.formats import Problem, RowError, check_form, columns_of
from tasks.data.formats.tables import READERS as TABLES
from tasks.data.formats.tables import Row, each_row
from tasks.data.mail.html import html_text
from tasks.data.sniff import PROSE, sniff, suffix_of
from tasks.data.textfiles import lines, mend, read_text

COLUMNS = {"text": ("text", "content", "body", "document", "article", "story", "passage", "markdown")}
PART = 16 * 2**20  # characters; a longer text is several documents
Document = tuple[str, str]
"""A suffix that tells it from the file's other documents, and its text."""


def documents(path: Path, columns: Mapping[str, str]) -> Iterator[Document | Problem]:
    """The documents of a file, tidied by `tidy_document`. Raises as `raw_documents` does."""
    for each in raw_documents(path, columns):
        yield each if isinstance(each, Problem) else (each[0], tidy_document(each[1]))


def raw_documents(path: Path, columns: Mapping[str, str]) -> Iterator[Document | Problem]:
    """The documents of a file as they are written.

    Raises UserError, naming file, row and reason, if the rest of the file can't be read.
    """
    form = sniff(path)
    if suffix_of(path) in PROSE and form in ("csv", "eml", "mbox"):
        form = "text"
    if form == "empty":
        return
    check_form(path, form, READERS, f"no text, and none of {', '.join(READERS)}")
    yield from READERS[form](path, columns)


def tidy_document(text: str) -> str:
    """A document with broken characters mended, no two blank lines in a row and no space around it."""
    return re.sub(r"\n([ \t]*\n)+", "\n\n", mend(text)).strip()


def _text(path: Path, columns: Mapping[str, str]) -> Iterator[Document]:
    """A file as one document, or a large one as several, cut at ends of lines."""
    parts, size, number = [], 0, 0
    for _, line in lines(path):
        if size + len(line) > PART and parts:
            number += 1
            yield f"#{number}", "".join(parts)
            parts, size = [], 0
        parts.append(line)
        size += len(line)
    yield f"#{number + 1}" if number else "", "".join(parts)


def _html(path: Path, columns: Mapping[str, str]) -> Iterator[Document]:
    html = read_text(path)
    text = html_text(html)
    changed("markup", html, text)
    yield "", "\n".join(" ".join(line.split()) for line in text.splitlines())


def _table(path: Path, columns: Mapping[str, str], form: str) -> Iterator[Document | Problem]:
    return _of_rows(path, TABLES[form](path), columns)


def _of_rows(path: Path, rows: Iterable[Row | Problem], columns: Mapping[str, str]) -> Iterator[Document | Problem]:
    def read(number: int | None, cells: Any) -> Document:
        return f"#{number}" if number else "", _text_of(cells, columns)

    return each_row(path, rows, read)


def _text_of(cells: Any, columns: Mapping[str, str]) -> str:
    found = columns_of(cells, COLUMNS, columns) if isinstance(cells, Mapping) else {}
    text = cells[found["text"]] if found else None
    text = "" if found and text is None else text  # as a cell of CSV that is empty
    if not isinstance(text, str):
        has = f", only {', '.join(map(str, cells))}" if isinstance(cells, Mapping) and not found else ""
        raise RowError(f'no string under "text"{has}')
    return text


def _json(path: Path, columns: Mapping[str, str]) -> Iterator[Document | Problem]:
    """Rows with a text, or chats of two as chitchat-dataset keeps them."""
    rows = TABLES["json"](path)
    first = [*islice(rows, 1)]
    content = None if not first or isinstance(first[0], Problem) or first[0][0] else first[0][1]
    if isinstance(content, Mapping) and all(isinstance(chat, Mapping) for chat in content.values()):
        yield from _chats(path, content)
    else:
        yield from _of_rows(path, chain(first, rows), columns)


def _chats(path: Path, chats: Mapping[str, Any]) -> Iterator[Document | Problem]:
    """`{id: {"messages": [[{"sender", "text"}]]}}`: a chat is one document, a message one line, `A: …` or `B: …`.

    Chats that nobody answered are left out.
    """
    for chat, content in chats.items():
        try:
            messages = [
                (message["sender"], " ".join(message["text"].split()))
                for turn in content["messages"]
                for message in turn
            ]
            senders = list(dict.fromkeys(sender for sender, text in messages if text))
        except (KeyError, TypeError, AttributeError) as error:
            yield Problem(f"{path}, chat {chat}", f"no messages with sender and text ({error})")
            continue
        name = {sender: chr(ord("A") + n) for n, sender in enumerate(senders)}
        text = "\n".join(f"{name[sender]}: {text}" for sender, text in messages if text)
        if len(senders) > 1:
            yield f"#{chat}", text
        else:
            left_out("unanswered", [{"id": f"{path.name}#{chat}", "reason": "nobody answered", "text": text}])


READERS: dict[str, Callable[[Path, Mapping[str, str]], Iterator[Document | Problem]]] = {
    "text": _text,
    "html": _html,
    "csv": lambda path, columns: _table(path, columns, "csv"),
    "json": _json,
    "jsonl": lambda path, columns: _table(path, columns, "jsonl"),
    "parquet": lambda path, columns: _table(path, columns, "parquet"),
}
