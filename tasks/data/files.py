"""From files to rows, texts and messages: whatever people bring is read in bounded memory.

A file that can't be read on raises UserError with its name, row and reason. A row that can't be read is a problem in
`Findings`, and the next row follows. The suffix says what a file is; without one, its content does.
"""

import csv
import io
import json
import logging
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import ftfy
import pyarrow
import pyarrow.parquet

from llm.errors import UserError
from tasks.data.compression import open_plain, without_compression
from tasks.data.findings import Findings
from tasks.data.inbox import files_below
from tasks.data.mail.characters import flat_entities

HEAD = 2**16  # bytes that show what a file without a suffix is
LONGEST_LINE = 64 * 2**20  # bytes; people write shorter ones, and a line takes several times its size in memory
LARGEST = 64 * 2**20  # bytes of a text that is read as a whole; HTML takes 14 times as much memory, JSON 9 times
BATCH = 16  # rows of a Parquet file in memory; a value of megabytes may stand in each of them for a few bytes of file
TABLES = ("csv", "json", "jsonl", "parquet")
PROSE = (".log", ".markdown", ".md", ".rst", ".tex", ".text", ".txt")
FORMS = {
    **dict.fromkeys((".csv", ".tab", ".tsv"), "csv"),
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    **dict.fromkeys((".eml", ".emlx"), "eml"),
    **dict.fromkeys((".htm", ".html", ".xhtml"), "html"),
    **dict.fromkeys((".yml", ".yaml"), "yaml"),
    **{".json": "json", ".mbox": "mbox", ".parquet": "parquet", ".pdf": "pdf"},
}
WIDE = {  # of UTF-32 first: it begins as UTF-16 does
    **dict.fromkeys((BOM_UTF32_LE, BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((BOM_UTF16_LE, BOM_UTF16_BE), "utf-16"),
}
CHARSETS = [
    "cp1252",
    "cp1250",
    "cp1251",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "koi8_r",
    "gb18030",
    "big5",
    "cp932",
    "cp949",
    "euc_jp",
]
"""The encodings of files that are not in UTF-8. Of equally likely ones the first is taken."""
MAIL_HEADERS = (
    *("bcc", "cc", "content-transfer-encoding", "content-type", "date", "delivered-to", "from", "in-reply-to"),
    *("list-id", "message-id", "mime-version", "received", "references", "reply-to", "return-path", "sender"),
    *("subject", "to"),
)
MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
POSTMARK = re.compile(rf"From \S.{{0,320}}?\b(?:{MONTHS})\b.{{1,9}}\b\d\d?:\d\d\b.{{0,40}}\b\d{{4}}\b")
ESCAPED = re.compile(rb">+From ")
LETTER = re.compile(r"[^\W\d_]")

logger = logging.getLogger(__name__)


class RowError(ValueError):
    """The reason why a row can't be read."""


class Row(NamedTuple):
    """A row of a table."""

    number: int | None
    """Its number as people count, or None if the row is the whole file."""
    cells: Any
    """Its cells by column; JSON may hold anything else."""


# ---- files


def raw_files(folder: Path) -> list[Path]:
    """Every file below a dataset's folder (`files_below`).

    Raises UserError if there is none, and for a name that is not UTF-8: rows are named after their file.
    """
    paths = files_below(folder)
    if not paths:
        raise UserError(f"{folder}: holds no files; run `dvc repro fetch@{folder.name}`")
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"{folder}: the name {str(path.relative_to(folder))!r} is no UTF-8; rename it") from None
    return paths


def suffix_of(path: PurePath) -> str:
    """A file's suffix in lower case; for a compressed file, that of its content."""
    return PurePath(without_compression(path.name)).suffix.lower()


def _wide_encoding(content: bytes) -> str | None:
    """UTF-16 or UTF-32, if a text begins with its mark."""
    return next((encoding for mark, encoding in WIDE.items() if content.startswith(mark)), None)


def form_of(path: Path) -> str:
    """One of binary, csv, eml, empty, html, json, jsonl, mbox, parquet, pdf, text, yaml.

    Raises UserError for a compressed file that is broken.
    """
    with open_plain(path) as file:
        head = file.read(HEAD)
    suffix = suffix_of(path)
    if not head.strip():
        return "empty"
    if suffix in FORMS:
        return FORMS[suffix]
    encoding = _wide_encoding(head)
    if b"\0" in head and encoding is None:  # reading a text with NUL names its row
        return "text" if suffix in PROSE else "binary"
    text = head.decode(encoding or "utf-8-sig", errors="replace").lstrip()
    if POSTMARK.match(text):
        return "mbox"
    return "eml" if is_message(text) else "text"


def is_message(text: str) -> bool:
    """Whether a text begins with at least two mail headers, perhaps behind the line that mbox files put before."""
    names: list[str] = []
    for number, line in enumerate(text.split("\n", 20)[:20]):
        if number == 0 and POSTMARK.match(line):
            continue
        if not line.strip():
            break
        if line[0] not in " \t":
            header = re.match(r"([!-9;-~]+):", line)
            if header is None:
                return False
            names.append(header[1].lower())
    return sum(name in MAIL_HEADERS for name in names) > 1


# ---- texts


def _byte_lines(path: Path, file: "io.BufferedReader[Any]") -> Iterator[tuple[int, bytes]]:
    """The lines of a file, each with its number from 1 and its end. Raises UserError for one that is too long."""
    for row, line in enumerate(iter(partial(file.readline, LONGEST_LINE + 1), b""), 1):
        if len(line) > LONGEST_LINE:
            raise UserError(f"{path}, row {row}: a line of over {LONGEST_LINE:,} bytes; break it into several")
        yield row, line


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text, each with its number from 1 and its end.

    The text is in the encoding that its mark tells, else in UTF-8, else in the likeliest of CHARSETS, which is logged.
    Raises UserError, naming file and row, for bytes that are no text and for a line that is too long.
    """
    with open_plain(path) as file:
        wide = _wide_encoding(file.peek(4)[:4])
        if wide:  # read as a whole: its lines have no bytes of their own
            file = io.BufferedReader(io.BytesIO(read_bytes(path).decode(wide, errors="replace").encode()))
        encoding = "utf-8"
        is_ascii = True
        for row, line in _byte_lines(path, file):
            if b"\0" in line:
                raise UserError(f"{path}, row {row}: holds NUL, so it is no text; save the file as UTF-8")
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                charset = _likely_charset(line + file.peek(HEAD)[:HEAD]) if is_ascii else None
                if charset is None:
                    reason = f"byte {line[error.start]:#04x} is not {encoding.upper()}"
                    raise UserError(f"{path}, row {row}: {reason}; save the file as UTF-8, such as by iconv") from None
                logger.warning("%s: not UTF-8, so it is read as %s", place_of(path, row), charset)
                encoding = charset
                text = line.decode(encoding, errors="replace")
            is_ascii = is_ascii and line.isascii()
            yield row, text.removeprefix("\ufeff") if row == 1 else text


def _likely_charset(sample: bytes) -> str | None:
    """The likeliest of CHARSETS; None if the bytes are no text in any."""
    from charset_normalizer import from_bytes  # few files need it

    guesses = list(from_bytes(sample, cp_isolation=CHARSETS))
    best = min(((guess.chaos, -guess.coherence) for guess in guesses), default=None)
    names: set[str] = set()
    for guess in guesses:
        if (guess.chaos, -guess.coherence) == best:
            names.update([guess.encoding, *guess.could_be_from_charset])
    return next(filter(names.__contains__, CHARSETS), None)


def read_text(path: Path) -> str:
    """Read a text as a whole. Raises UserError, naming file and row, if it is no text or too large."""
    text = io.StringIO()
    for row, line in read_lines(path):
        text.write(line)
        if text.tell() > LARGEST:
            raise UserError(f"{path}, row {row}: goes over {LARGEST:,} characters; split it, or write JSON lines")
    return text.getvalue()


def read_bytes(path: Path) -> bytes:
    """Read a file as a whole, decompressed. Raises UserError if it is too large."""
    with open_plain(path) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path}: over {LARGEST:,} bytes; split it")
    return content


def mend(text: str) -> str:
    """A text with broken characters mended (mojibake, NFC, line breaks as \\n)."""
    return ftfy.fix_text(flat_entities(text))


def tidy(text: str) -> str:
    """A text with broken characters mended, without blank lines and spaces around it.

    The first of several lines stays indented: it may be code.
    """
    text = mend(text).rstrip()
    bare = text.lstrip()
    return text[text.rfind("\n", 0, len(text) - len(bare)) + 1 :] if "\n" in bare else bare


# ---- messages


def read_messages(path: Path) -> Iterator[bytes]:
    """The raw messages of a file: that of an `.eml` or `.emlx` file, or all of an mbox file.

    Raises UserError for a file that is no message.
    """
    if form_of(path) == "mbox":
        yield from _messages_of_box(path)
        return
    content = message_bytes(read_bytes(path))
    if b"\0" in content[:2]:
        raise UserError(f"{path}, row 1: holds NUL, as UTF-16 without its mark does; save the file as UTF-8")
    if suffix_of(path) == ".emlx":  # Apple's, between a line with the length and a list of properties
        length, _, message = content.partition(b"\n")
        if not length.strip().isdigit():
            raise UserError(f"{path}, row 1: not the length of the message that an .emlx has; export it as .eml")
        content = message[: int(length)]
    yield content


def message_bytes(content: bytes) -> bytes:
    """A message for a parser: without a byte order mark before its first header, and in UTF-8 if it is UTF-16.

    Its other bytes stay as they are, as its headers declare their charset.
    """
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").encode(errors="ignore")
    return content.removeprefix(BOM_UTF8)


def _messages_of_box(path: Path) -> Iterator[bytes]:
    """The messages of an mbox file. Each begins behind a line `From …` with its time, after a blank line.

    Python's `mailbox` takes any line that begins with `From` for one.
    """
    message: list[bytes] = []
    is_after_blank = True
    with open_plain(path) as file:
        for _, line in _byte_lines(path, file):
            start = line[:400].removeprefix(BOM_UTF8).decode("latin-1")
            if is_after_blank and POSTMARK.match(start):
                if any(map(bytes.strip, message)):
                    yield b"".join(message)
                message = []
            else:
                message.append(line[1:] if ESCAPED.match(line) else line)
            is_after_blank = not line.strip()
    yield b"".join(message)


# ---- tables


def place_of(path: Path, number: int | None) -> str:
    """The name of a row in messages."""
    return f"{path}, row {number}" if number else str(path)


def read_rows(path: Path, findings: Findings, header: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a table; `header` names the columns of a CSV or TSV file, or of a text, that has none itself.

    An empty file is added to the dropped rows. Raises UserError, naming file, row and reason, for a file that is no
    table or can't be read on.
    """
    form = form_of(path)
    if form == "empty":
        logger.warning("%s: the file is empty", path)
        findings.drop("unreadable", str(path), "the file is empty")
    elif form == "csv" or (header and form == "text"):
        yield from _csv_rows(path, findings, header)
    elif form == "json":
        yield from _json_rows(path)
    elif form == "jsonl":
        yield from _json_lines(path, findings)
    elif form == "parquet":
        yield from _parquet_rows(path)
    else:
        raise UserError(f"{path}: {form} is no table; tables are read from {', '.join(TABLES)}")


def columns_of(
    names: Iterable[str], usual: Mapping[str, Sequence[str]], configured: Mapping[str, str]
) -> dict[str, str]:
    """Map our columns to a table's, by the parameters or else by their usual names, in upper or lower case.

    A table that has all of our names, such as feedback, ignores the parameters. Missing columns are left out. Of
    several usual names the first in the list counts. Raises RowError if the table lacks a column of the parameters, and
    UserError if the parameters name an unknown column of ours.
    """
    if strangers := configured.keys() - usual.keys():
        raise UserError(f"columns: {min(strangers)!r} is not one of {', '.join(usual)}")
    names = list(names)
    folded = {name.strip().casefold(): name for name in reversed(names)}
    if usual.keys() <= folded.keys():
        configured = {}
    columns: dict[str, str] = {}
    for ours, usual_names in usual.items():
        column = configured.get(ours) or next(filter(folded.__contains__, usual_names), "")
        if column.casefold() in folded:
            columns[ours] = folded[column.casefold()]
        elif column:
            raise RowError(f"columns.{ours}: there is no column {column!r}, only {', '.join(names)}")
    return columns


def add_mistakes(findings: Findings, path: Path, mistakes: Mapping[str, Sequence[int | None]]) -> None:
    """Add each reason why rows of a file can't be read as one problem, with the number of the first row."""
    for reason, numbers in mistakes.items():
        count = f" (and {len(numbers) - 1} more rows)" if len(numbers) > 1 else ""
        findings.add_problem(place_of(path, numbers[0]), reason + count)


def first_line(path: Path) -> str:
    """The first line of a text that is not blank, without its end."""
    return next((line.rstrip("\r\n") for _, line in read_lines(path) if line.strip()), "")


def separator_of(path: Path) -> str:
    """A tab by the file's suffix, else the first delimiter of its first line."""
    if suffix_of(path) in (".tsv", ".tab"):
        return "\t"
    delimiter = re.search(r"[,\t;|]", first_line(path))
    return delimiter[0] if delimiter else ","


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV or TSV file, without empty ones, with their numbers from 1 as in a spreadsheet.

    In a tab-separated file quotes are text. Raises UserError, naming file and row, for quotes that don't end.
    """
    separator = separator_of(path)
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(LONGEST_LINE)  # the default refuses bodies over 128 KB
    number = 0
    try:
        text = (line for _, line in read_lines(path))
        rows = csv.reader(text, delimiter=separator, quoting=quoting, strict=quoting != csv.QUOTE_NONE)
        for number, cells in enumerate(rows, 1):
            if cells:
                yield number, cells
    except csv.Error as error:
        raise UserError(f"{path}, row {number + 1}: {error}") from None


def _csv_rows(path: Path, findings: Findings, header: Sequence[str]) -> Iterator[Row]:
    """The rows of a CSV or TSV file by column, without columns that have no name."""
    rows = _cells(path)
    names = list(header)
    if not names:
        number, cells = next(rows)
        names = [name.strip() for name in cells]
        _check_names(names, place_of(path, number))
    mistakes: dict[str, list[int | None]] = {}
    for number, cells in rows:
        if len(cells) != len(names):
            way_out = "add what is missing" if len(cells) < len(names) else "quote what has commas"
            reason = f"{len(cells)} cells, not {len(names)} as there are columns; {way_out}"
            mistakes.setdefault(reason, []).append(number)
            continue
        row = dict(zip(names, cells, strict=True))
        unnamed = [cell for name, cell in zip(names[1:], cells[1:], strict=True) if not name]
        if LETTER.search("".join(unnamed)):  # the first column may hold row numbers
            reason = "it has text in a column without a name; name it, or quote what has commas"
            findings.drop("unreadable", place_of(path, number), reason, text="".join(unnamed))
            continue
        row.pop("", None)
        yield Row(number, row)
    add_mistakes(findings, path, mistakes)


def _check_names(names: Sequence[str], where: str) -> None:
    if repeated := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"{where}: two columns are called {repeated[0]!r}; rename one")


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError is a number of thousands of digits, too
        way_out = "; a file with an object a line is called .jsonl" if "Extra data" in str(error) else ""
        reason = re.sub(r"line 1 (column \d+) .*", r"\1", str(error))
        raise RowError(f"not readable as JSON: {reason}{way_out}") from None


def _json_rows(path: Path) -> Iterator[Row]:
    """The rows of a list, or the file's one object."""
    try:
        content = _parse_json(read_text(path))
    except RowError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(content, list):
        yield Row(None, content)
        return
    for number, cells in enumerate(content, 1):
        yield Row(number, cells)


def _json_lines(path: Path, findings: Findings) -> Iterator[Row]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            cells = _parse_json(line.strip())
        except RowError as error:
            findings.add_problem(place_of(path, number), str(error))
        else:
            yield Row(number, cells)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        with open_plain(path) as plain, pyarrow.parquet.ParquetFile(plain) as file:
            _check_names(file.schema_arrow.names, str(path))
            rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(BATCH))
            for number, cells in enumerate(rows, 1):
                yield Row(number, cells)
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:  # a time zone may have any name
        raise UserError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}") from None
