"""Read text files of people: a mistake is reported with file, row and reason, and no file takes much memory."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ftfy

from llm.errors import UserError
from tasks.data.cleaning.record import changed
from tasks.data.compression import open_plain
from tasks.data.inbox import files_below
from tasks.data.mail.characters import flat_entities

LONGEST_LINE = 64 * 2**20  # bytes; people write shorter ones, and a line takes several times its size in memory
LARGEST = 64 * 2**20  # bytes of a text that is read as a whole; HTML takes 14 times as much memory, JSON 9 times


def raw_files(folder: Path) -> list[Path]:
    """Every file below a dataset's folder, except hidden ones, sorted by path.

    Raises UserError if there is none, and for a name that is not UTF-8: rows are named after their file.
    """
    files = files_below(folder)
    if not files:
        raise UserError(f"{folder}: holds no files; run `threestage fetch {folder.name}`")
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"{folder}: the name {str(path.relative_to(folder))!r} is no UTF-8; rename it") from None
    return files


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, decompressed, each with its number from 1 and its end.

    Raises UserError, naming file and row, for a line of over LONGEST_LINE bytes.
    """
    with open_plain(path) as file:
        for row, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise UserError(f"{path}, row {row}: a line of over {LONGEST_LINE:,} bytes; break it into several")
            yield row, line


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text in UTF-8, each with its number from 1 and its end.

    Raises UserError, naming file and row, for bytes in another encoding and for a line that is too long.
    """
    for row, line in byte_lines(path):
        way_out = "save the file as UTF-8, such as by iconv"
        if b"\0" in line:
            raise UserError(f"{path}, row {row}: holds NUL, so it is no text in UTF-8; {way_out}")
        try:
            yield row, line.decode("utf-8-sig" if row == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, row {row}: byte {line[error.start]:#04x} is not UTF-8; {way_out}") from None


def read_text(path: Path) -> str:
    """Read a text as a whole. Raises UserError, naming file, row and byte, if it is no text or too large."""
    return "".join(_within(path))


def read_bytes(path: Path) -> bytes:
    """Read a file as a whole, decompressed. Raises UserError, naming it, if it is too large."""
    with open_plain(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path}: over {LARGEST:,} bytes; split it")
    return content


def _within(path: Path) -> Iterator[str]:
    size = 0
    for row, line in lines(path):
        size += len(line)
        if size > LARGEST:
            raise UserError(f"{path}, row {row}: goes over {LARGEST:,} characters; split it, or write JSON lines")
        yield line


def mend(text: str) -> str:
    """A text with broken characters mended (mojibake, NFC, line breaks as \\n)."""
    mended = ftfy.fix_text(flat_entities(text))
    changed("characters", text, mended)
    return mended


def tidy(text: str) -> str:
    """A text with broken characters mended, without blank lines and spaces around it.

    The first of several lines stays indented: it may be code.
    """
    text = mend(text).rstrip()
    bare = text.lstrip()
    return text[text.rfind("\n", 0, len(text) - len(bare)) + 1 :] if "\n" in bare else bare


def parse_json(text: str, path: Path, row: int | None = None) -> Any:
    """Parse the JSON of a file, or of its row. Raises UserError naming file, row and reason."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        way_out = "; a file with an object a line is called .jsonl" if error.msg == "Extra data" and row is None else ""
        reason = f"not JSON: {error.msg} at column {error.colno}{way_out}"
        raise UserError(f"{path}, row {row or error.lineno}: {reason}") from None
    except RecursionError:
        raise UserError(f"{path}, row {row or 1}: not readable as JSON: it is nested too deep") from None
    except ValueError as error:  # a number of thousands of digits
        where = f"{path}, row {row}" if row else str(path)
        raise UserError(f"{where}: not readable as JSON: {error}") from None
