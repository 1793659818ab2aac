"""Mails in files: messages, mailboxes and texts."""

import re
import sys
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from llm.errors import UserError
from tasks.data.files import TABLES, form_of, message_bytes, read_bytes, read_messages, suffix_of

NO_TEXT = "it is no text"
TABLE = "it is a table; send its rows to /classify of a server"
MAIL_HEADERS = {"from", "message-id", "mime-version", "received", "return-path", "subject", "to"}
"""A message has one of these; a text may begin with a line that looks like another header ("Note: ...")."""
Row = dict[str, Any]


class Place(NamedTuple):
    """The place of a mail."""

    file: str
    mail: int | None = None
    """The number of a message in an mbox file of several."""

    def __str__(self) -> str:
        return f"{self.file}, mail {self.mail}" if self.mail else self.file


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
    form = form_of(path)
    if form in TABLES:
        yield Place(name), {"error": TABLE}
    elif form == "mbox":
        mails = read_messages(path)
        first = [*islice(mails, 2)]
        for number, content in enumerate(chain(first, mails), 1):
            yield Place(name, number if len(first) > 1 else None), {"message": content}
    elif form in ("binary", "pdf"):
        yield Place(name), {"error": NO_TEXT}
    else:
        yield Place(name), _mail(read_bytes(path), suffix_of(path))


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


def is_message(text: str) -> bool:
    """Whether a text begins with the headers of a mail, perhaps after the line that mbox files put before."""
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0].splitlines()
    if head and head[0].startswith("From "):
        head = head[1:]
    fields = [line for line in head if not line.startswith((" ", "\t"))]  # others go on with the line before
    names = [line.partition(":")[0].lower() for line in fields if re.match(r"[!-9;-~]+:", line)]
    return len(names) == len(fields) and not MAIL_HEADERS.isdisjoint(names)
