"""Mails as a command line is given them: files of messages, of text, of rows."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from app.classifying import message_text

MAIL_HEADERS = ("from", "message-id", "mime-version", "received", "return-path", "subject", "to")
"""One of these is in every message; the first line of a text may look like another header ("Note: ...")."""


class Place(NamedTuple):
    """Where a mail stands."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, line {self.line}"


def read_mails(files: list[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Each mail as a row, or the error that it is; one that can't be read leaves the others alone."""
    for name in files:
        try:
            content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            yield Place(name), {"error": error.strerror or str(error)}
            continue
        if Path(name).suffix.lower() == ".jsonl":
            lines = enumerate(content.splitlines(), 1)
            yield from ((Place(name, number), _json_row(line)) for number, line in lines if line.strip())
        else:
            text = message_text(content).removeprefix("\ufeff").lstrip("\r\n")
            whole = Path(name).suffix.lower() == ".eml" or _is_message(text)
            yield Place(name), {"message" if whole else "body": text}


def _json_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        return {"error": f"no JSON ({error})"}
    names = ("subject", "body", "message")
    found = {name: row[name] for name in names if row.get(name) is not None} if isinstance(row, dict) else {}
    return found or {"error": f"none of {', '.join(names)} in it"}


def _is_message(text: str) -> bool:
    """Whether a text begins with the headers of a mail, perhaps after the line that mbox files put before."""
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0].splitlines()
    if head and head[0].startswith("From "):
        head = head[1:]
    fields = [line for line in head if not line.startswith((" ", "\t"))]  # others go on with the line before
    names = [line.partition(":")[0].lower() for line in fields if re.match(r"[!-9;-~]+:", line)]
    return len(names) == len(fields) and not set(names).isdisjoint(MAIL_HEADERS)
