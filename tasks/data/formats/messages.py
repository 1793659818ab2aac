"""Raw messages in files: one, or many in a mailbox."""

import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

from llm.errors import UserError
from tasks.data.sniff import POSTMARK
from tasks.data.textfiles import LARGEST, byte_lines

LONGEST_POSTMARK = 400  # bytes
DATED = re.compile(rb"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\b.*\b\d{4}\s*$")  # the end of a line between messages
HEADER_LINE = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:[ \t]*\S")


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
    if not length.strip().isdigit() or int(length) > len(message):
        raise UserError(f"{path}, row 1: not the length of the message that an .emlx has; export it as .eml")
    return message[: int(length)]


def begins_mailbox(content: bytes) -> bool:
    """Whether a file begins as a mailbox does, with a line `From …` before the first message."""
    return _is_postmark(content[: 2 * LONGEST_POSTMARK].lstrip().partition(b"\n")[0])


def messages(path: Path) -> Iterator[bytes]:
    """The messages of an mbox file, without the lines before them. Raises UserError for one that is too large.

    Some programs leave out the blank line before the next message: then a header must follow.
    """
    message: list[bytes] = []
    size = 0
    is_after_blank = True
    has_begun = False
    for (row, line), (_, next_line) in pairwise(chain(_message_lines(path), [(0, b"")])):
        if _is_postmark(line) and (is_after_blank or (DATED.search(line) and HEADER_LINE.match(next_line))):
            if has_begun or any(map(bytes.strip, message)):  # blank lines before the first message are none
                yield b"".join(message)
            message = []
            size = 0
            has_begun = True
        else:
            message.append(line[1:] if re.match(rb">+From ", line) else line)
            size += len(line)
        if size > LARGEST:
            raise UserError(f"{path}, row {row}: a message of over {LARGEST:,} bytes")
        is_after_blank = not line.strip()
    yield b"".join(message)


def _is_postmark(line: bytes) -> bool:
    return line.startswith(b"From ") and POSTMARK.match(line[:LONGEST_POSTMARK].decode("latin-1")) is not None


def _message_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Like `byte_lines`, without a byte order mark."""
    for row, line in byte_lines(path):
        yield row, line.removeprefix(BOM_UTF8) if row == 1 else line
