"""People's text files, read so that a mistake in one is named by file, row and reason, and none costs much memory."""

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import ftfy

from llm.errors import UserError
from tasks.data.cleaning.record import changed
from tasks.data.compression import open_plain
from tasks.data.folders import files_below
from tasks.data.mail import flat_entities

LONGEST_LINE = 64 * 2**20  # bytes; nobody writes one, and each takes several times its size in memory
LARGEST = 64 * 2**20  # bytes of a text that is read as a whole: HTML takes 14 times as much memory, JSON 9
PIECE = 4 * 2**20  # characters of a list of JSON that are in memory
ASCII = bytes([*b"\t\n", *range(32, 127)]).replace(b"&", b"")
ENGLISH = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"  # dashes, quotes, an ellipsis
UNUSUAL = re.compile(f"[^\t\n -%'-~{ENGLISH}]")  # what ftfy may mend, quotes apart
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def raw_files(folder: Path) -> list[Path]:
    """Every file below a dataset's folder but hidden ones, in the order of paths.

    Raises UserError for none, and for a name that is no UTF-8: rows are called after their file.
    """
    files = files_below(folder)
    if not files:
        raise UserError(f"{folder}: holds no files; run `python -m flows.fetch {folder.name}`")
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"{folder}: the name {str(path.relative_to(folder))!r} is no UTF-8; rename it") from None
    return files


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, decompressed, each with its number from 1 and its end.

    Raises UserError, naming file and row, for one of over LONGEST_LINE bytes.
    """
    with open_plain(path) as file:
        yield from _bounded(path, file, b"")


def _bounded(path: Path, file: IO[Any], nothing: Any) -> Iterator[tuple[int, Any]]:
    row = 0
    while (line := file.readline(LONGEST_LINE + 1)) != nothing:
        row += 1
        if len(line) > LONGEST_LINE:
            raise UserError(f"{path}, row {row}: a line of over {LONGEST_LINE:,} bytes; break it into several")
        yield row, line


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text in UTF-8, or in UTF-16 that says so, each with its number from 1 and its end.

    Raises UserError, naming file and row, for bytes that are neither, and for a line that is too long.
    """
    with open_plain(path) as file:
        start = file.read(2)
    if start in UTF_16:
        yield from _wide_lines(path)
        return
    for row, line in byte_lines(path):
        if b"\0" in line:
            raise UserError(f"{path}, row {row}: holds NUL, so it is no text in UTF-8; save the file as UTF-8")
        try:
            yield row, line.decode("utf-8-sig" if row == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, row {row}: byte {line[error.start]:#04x} is not UTF-8; save the file as UTF-8"
                ", or give its source an `encoding`"
            ) from None


def _wide_lines(path: Path) -> Iterator[tuple[int, str]]:
    row = 0
    with open_plain(path) as file:
        try:
            for row, line in _bounded(path, io.TextIOWrapper(file, "utf-16", newline="\n"), ""):
                if "\0" in line:
                    raise UserError(f"{path}, row {row}: holds NUL, so it is no text; save the file as UTF-8")
                yield row, line
        except UnicodeError as error:
            raise UserError(f"{path}, row {row + 1}: not UTF-16: {error}; save the file as UTF-8") from None


def read_text(path: Path) -> str:
    """Read a text as a whole. Raises UserError naming file, row and byte where it is none or is too large."""
    return "".join(_within(path, (line for _, line in lines(path))))


def read_bytes(path: Path) -> bytes:
    """Read a file as a whole, decompressed. Raises UserError naming it where it is too large."""
    with open_plain(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path}: over {LARGEST:,} bytes; split it")
    return content


def _within(path: Path, parts: Iterator[str]) -> Iterator[str]:
    size = 0
    for row, part in enumerate(parts, 1):
        size += len(part)
        if size > LARGEST:
            raise UserError(f"{path}, row {row}: goes over {LARGEST:,} characters; split the file")
        yield part


def fix_text(text: str) -> str:
    """As `ftfy.fix_text`, which takes line by line, and straightens quotes in lines of ASCII and English punctuation.

    These characters alone are no mojibake, and without `&` no entities. Entities alone hang on lines before: with `<`
    in one, they are left as they are in those after it.
    """
    if "<" in text and ("&" in text or not text.isascii()):  # ftfy makes an & of a wide one
        return ftfy.fix_text(text)
    if not text.encode(errors="surrogatepass").translate(None, ASCII).decode(errors="surrogatepass").strip(ENGLISH):
        return _straight(text)
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    return "".join(ftfy.fix_text(line) if UNUSUAL.search(line) else _straight(line) for line in lines)


def _straight(text: str) -> str:
    """As ftfy's `uncurl_quotes`, where there are no other quotes than ENGLISH has: a tenth of the time."""
    if text.isascii():
        return text
    return text.replace("\u2018", "'").replace("\u2019", "'").replace("\u201c", '"').replace("\u201d", '"')


def mend(text: str) -> str:
    """A text with broken characters mended (mojibake, NFC, line breaks as \\n)."""
    mended = fix_text(flat_entities(text))
    changed("characters", text, mended)
    return mended


def tidy(text: str) -> str:
    """What a person wrote, with broken characters mended, and no blank lines and no space around it.

    The first of several lines stays indented: it may be code.
    """
    text = mend(text).rstrip()
    bare = text.lstrip()
    return text[text.rfind("\n", 0, len(text) - len(bare)) + 1 :] if "\n" in bare else bare


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_each_key_once)
SPACE = " \t\n\r"
SPACES = re.compile(f"[{SPACE}]*")
TOKEN = 100  # characters: a number, a name or an escape that is cut is shorter


def parse_json(text: str, path: Path, row: int | None = None) -> Any:
    """Parse the JSON of a file, or of its row. Raises UserError naming file, row and reason."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, row {row or error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise UserError(f"{path}, row {row or 1}: not readable as JSON: it is nested too deep") from None
    except ValueError as error:  # a key twice, a number of thousands of digits
        raise UserError(f"{path}{f', row {row}' if row else ''}: not readable as JSON: {error}") from None


def large_list(path: Path) -> Iterator[Any]:
    """The elements of a JSON list, as the file comes; none where it has less than PIECE characters or another value.

    Raises UserError as `parse_json` does of the whole, after what comes before the mistake, and for a huge element.
    """
    parts, text, mark, count, ended = (line for _, line in lines(path)), "", "[", 0, False
    rows, column, size = 0, 0, 0  # of what is read and no longer in the text
    while not ended:
        text, ended = _filled(text, parts)
        if mark == "[" and (ended or not text.lstrip().startswith("[")):
            return
        place = 0
        while found := _element(text, place, mark):
            element, place, mark = found
            count += 1
            yield element
        line = text.rfind("\n", 0, place) + 1
        rows, column = rows + text.count("\n", 0, place), place - line + (0 if line else column)
        text, size = text[place:], size + place
        if mark == "," and text.startswith("]") and not text[1:].strip(SPACE):
            if not any(part.strip(SPACE) for part in parts):  # one after the other: it may be gigabytes of spaces
                return
            break
        if len(text) > LARGEST or (ended and size + len(text) > LARGEST):
            _raise_mistake(text, ended, path, rows, column)
            raise UserError(f"{path}: element {count + 1} of its list has over {LARGEST:,} characters; split it")
    yield from parse_json(read_text(path), path)[count:]


def _raise_mistake(text: str, ended: bool, path: Path, rows: int, column: int) -> None:
    """Raise UserError for what is no JSON behind a mark in a list, and not for want of the rest.

    So many rows of the file are before it, and characters of its first row.
    """
    start = SPACES.match(text).end()
    instead = "0" if text[start] == "]" else "["  # so that what is left is a value, and every place in it stays
    try:
        DECODER.decode(f"{text[:start]}{instead}{text[start + 1 :]}")
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated string") or error.pos > len(text) - TOKEN
        if ended or not cut:
            place = error.colno + (column if error.lineno == 1 else 0)
            raise UserError(f"{path}, row {rows + error.lineno}: not JSON: {error.msg} at column {place}") from None
    except RecursionError:
        raise UserError(f"{path}, row {rows + 1}: not readable as JSON: it is nested too deep") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from None
    if ended:  # what is left would be whole, but for its mark
        row = rows + 1 + text.count("\n", 0, start)
        raise UserError(f"{path}, row {row}: not JSON: a comma behind the last element")


def _filled(text: str, parts: Iterator[str]) -> tuple[str, bool]:
    """The text with more of its parts behind it, PIECE characters at least or twice as many; whether these were all."""
    found, size, wanted = [text], len(text), max(PIECE, 2 * len(text))
    while size < wanted:
        if (part := next(parts, None)) is None:
            return "".join(found), True
        found.append(part)
        size += len(part)
    return "".join(found), False


def _element(text: str, place: int, mark: str) -> tuple[Any, int, str] | None:
    """What stands behind a mark in a list of JSON, where that ends, and the next mark; None for what is not whole."""
    start = SPACES.match(text, place).end()
    if not text.startswith(mark, start):
        return None
    try:
        element, end = DECODER.raw_decode(text, SPACES.match(text, start + 1).end())
    except (ValueError, RecursionError):  # perhaps for want of the rest
        return None
    end = SPACES.match(text, end).end()
    return (element, end, ",") if text.startswith((",", "]"), end) else None


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a .jsonl file, each with its number from 1; blank lines are passed over."""
    for number, line in lines(path):
        if line.strip():
            yield number, parse_json(line.removesuffix("\n"), path, number)
