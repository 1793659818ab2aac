"""Raw messages in files: one, or many in a mailbox."""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path

from llm.errors import UserError
from tasks.data.sniff import POSTMARK
from tasks.data.textfiles import byte_lines

ESCAPED = re.compile(rb">+From ")


def message_bytes(content: bytes) -> bytes:
    """A message for a parser: without a byte order mark before its first header, and in UTF-8 if it is UTF-16.

    Its other bytes stay as they are, as its headers declare their charset.
    """
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").encode(errors="ignore")
    return content.removeprefix(BOM_UTF8)


def message_of_apple(path: Path, content: bytes) -> bytes:
    """The message in an .emlx file, between a line with its length and a list of properties."""
    length, _, message = content.partition(b"\n")
    if not length.strip().isdigit():
        raise UserError(f"{path}, row 1: not the length of the message that an .emlx has; export it as .eml")
    return message[: int(length)]


def messages(path: Path) -> Iterator[bytes]:
    """The messages of an mbox file. Each begins behind a line `From …` with its time, after a blank line."""
    message: list[bytes] = []
    is_after_blank = True
    for _, line in byte_lines(path):
        if is_after_blank and _is_postmark(line):
            if any(map(bytes.strip, message)):
                yield b"".join(message)
            message = []
        else:
            message.append(line[1:] if ESCAPED.match(line) else line)
        is_after_blank = not line.strip()
    yield b"".join(message)


def _is_postmark(line: bytes) -> bool:
    """Whether a line begins a message, perhaps after a byte order mark."""
    return POSTMARK.match(line[:400].removeprefix(BOM_UTF8).decode("latin-1")) is not None
