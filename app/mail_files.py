"""Mails in files: messages, mailboxes, texts and tables."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from llm.errors import UserError
from tasks.data.formats.messages import message_bytes, messages
from tasks.data.formats.tables import READERS
from tasks.data.problems import Problem
from tasks.data.sniff import sniff, suffix_of
from tasks.data.textfiles import read_bytes

NO_TEXT = "it is no text"
COLUMNS = ("subject", "body", "message")
"""The columns of a table of mails."""
MAIL_HEADERS = {"from", "message-id", "mime-version", "received", "return-path", "subject", "to"}
"""A message has one of these; a text may begin with a line that looks like another header ("Note: ...")."""
Row = dict[str, Any]


class Place(NamedTuple):
    """The place of a mail."""

    file: str
    line: int | None = None
    row: int | None = None
    """The row of a table."""
    mail: int | None = None
    """The number of a message in an mbox file."""

    def __str__(self) -> str:
        numbers = {"line": self.line, "row": self.row, "mail": self.mail}
        return ", ".join([self.file, *(f"{name} {number}" for name, number in numbers.items() if number)])


def read_mails(files: list[str]) -> Iterator[tuple[Place, Row]]:
    """Each mail as a row, or as its `error`; a mail that can't be read does not stop the others."""
    for name in files:
        try:
            if name == "-":
                yield Place(name), _mail(sys.stdin.buffer.read(), "")
            else:
                yield from _of_file(name)
        except OSError as error:
            yield Place(name), {"error": error.strerror or str(error)}
        except UserError as error:
            yield Place(name), {"error": str(error).removeprefix(f"{name}: ")}


def _of_file(name: str) -> Iterator[tuple[Place, Row]]:
    path = Path(name)
    form, suffix = sniff(path), suffix_of(path)
    if form == "jsonl":
        lines = enumerate(read_bytes(path).splitlines(), 1)
        yield from ((Place(name, number), _json_row(line)) for number, line in lines if line.strip())
    elif form in READERS:
        for row in READERS[form](path):
            if isinstance(row, Problem):
                yield Place(name, row=int(row.where.rpartition(" ")[2])), {"error": row.reason}
            else:
                number, cells = row
                yield Place(name, row=number), _row(cells)
    elif form == "mbox":
        mails = messages(path)
        first = [*islice(mails, 2)]
        for number, content in enumerate(chain(first, mails), 1):
            yield Place(name, mail=number if len(first) > 1 else None), {"message": content}
    elif form in ("binary", "pdf"):
        yield Place(name), {"error": NO_TEXT}
    else:
        yield Place(name), _mail(read_bytes(path), suffix)


def _mail(content: bytes, suffix: str) -> Row:
    content = message_bytes(content)
    if b"\0" in content:
        return {"error": NO_TEXT}
    if suffix == ".eml":
        return {"message": content}
    content = content.lstrip(b"\r\n")
    if is_message(content.decode("latin-1")):
        return {"message": content}
    try:
        return {"body": content.decode()}
    except UnicodeDecodeError:
        return {"body": content.decode("latin-1")}


def _json_row(line: bytes) -> Row:
    try:
        return _row(json.loads(line))
    except (ValueError, RecursionError) as error:
        return {"error": f"no JSON ({error})"}


def _row(cells: Any) -> Row:
    row = {}
    if isinstance(cells, Mapping):
        row = {name: cells[name] for name in COLUMNS if cells.get(name) is not None}
    return row or {"error": f"none of {', '.join(COLUMNS)} in it"}


def is_message(text: str) -> bool:
    """Whether a text begins with the headers of a mail, perhaps after the line that mbox files put before."""
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0].splitlines()
    if head and head[0].startswith("From "):
        head = head[1:]
    fields = [line for line in head if not line.startswith((" ", "\t"))]  # others go on with the line before
    names = [line.partition(":")[0].lower() for line in fields if re.match(r"[!-9;-~]+:", line)]
    return len(names) == len(fields) and not MAIL_HEADERS.isdisjoint(names)
