"""Read rows from tables: CSV and TSV, JSON, JSON lines, Parquet."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow
import pyarrow.parquet

from llm.errors import UserError
from tasks.data.problems import Problem, RowError
from tasks.data.sniff import head_of, suffix_of
from tasks.data.textfiles import LONGEST_LINE, lines, parse_json, read_text

T = TypeVar("T")
BATCH = 16  # rows of a Parquet file in memory; a value of megabytes may stand in each of them for a few bytes of file
LETTER = re.compile(r"[^\W\d_]")


class Row(NamedTuple):
    """A row of a table."""

    number: int | None
    """Its number as people count, or None if the row is the whole file."""
    cells: Any
    """Its cells by column."""


def place_of(path: Path, number: int | None) -> str:
    """The name of a row in messages."""
    return f"{path}, row {number}" if number else str(path)


def read_rows(
    path: Path,
    rows: Iterable[Row | Problem],
    read: Callable[[int | None, Any], T],
    *,
    left_out: tuple[type[Exception], ...] = (),
) -> Iterator[T | Problem]:
    """The results of `read` for each row.

    A RowError becomes a Problem; an error in `left_out` becomes one that is left out.
    """
    for row in rows:
        if isinstance(row, Problem):
            yield row
            continue
        try:
            yield read(row.number, row.cells)
        except left_out as error:
            yield Problem(place_of(path, row.number), str(error), left_out=True)
        except RowError as error:
            yield Problem(place_of(path, row.number), str(error))


def _separator_of(path: Path) -> str:
    """A tab by the file's suffix, else the most frequent delimiter of its first line."""
    if suffix_of(path) in (".tsv", ".tab"):
        return "\t"
    first = head_of(path).strip().partition(b"\n")[0].decode("utf-8", errors="replace")
    return max(",\t;|", key=first.count)


def cells_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV or TSV file, without empty ones, with their numbers from 1 as in a spreadsheet.

    In a tab-separated file quotes are text. Raises UserError, naming file and row, for quotes that don't end.
    """
    separator = _separator_of(path)
    quoting = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(LONGEST_LINE)  # the default refuses bodies over 128 KB
    number = 0
    try:
        text = (line for _, line in lines(path))
        rows = csv.reader(text, delimiter=separator, quoting=quoting, strict=quoting != csv.QUOTE_NONE)
        for number, cells in enumerate(rows, 1):
            if cells:
                yield number, cells
    except csv.Error as error:
        raise UserError(f"{path}, row {number + 1}: {error}") from None


def _csv(path: Path) -> Iterator[Row | Problem]:
    """The rows of a CSV or TSV file by column, without columns that have no name."""
    rows = cells_of(path)
    first = next(rows, None)
    if first is None:
        return
    number, header = first
    names = [name.strip() for name in header]
    _check_names(names, f"{path}, row {number}")
    for number, cells in rows:
        yield _named(path, Row(number, cells), names)


def _check_names(names: Sequence[str], where: str) -> None:
    if repeated := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"{where}: two columns are called {repeated[0]!r}; rename one")


def _named(path: Path, row: Row, names: list[str]) -> Row | Problem:
    """A row by column; a problem that is left out if it has text in a column without a name."""
    where = place_of(path, row.number)
    if len(row.cells) < len(names):
        return Problem(where, f"fewer cells than columns ({len(row.cells)}, not {len(names)}); add what is missing")
    if len(row.cells) > len(names):
        return Problem(where, f"more cells than columns ({len(row.cells)}, not {len(names)}); quote what has commas")
    for column, cell in enumerate(row.cells):
        if column and not names[column] and LETTER.search(cell):  # the first column may hold row numbers
            reason = f"column {column + 1} has no name and holds {cell[:30]!r}; name it, or quote what has commas"
            return Problem(where, reason, left_out=True)
    return Row(row.number, {name: cell for name, cell in zip(names, row.cells, strict=True) if name})


def _json_lines(path: Path) -> Iterator[Row | Problem]:
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            cells = parse_json(line.removesuffix("\n"), path, number)
        except UserError as error:
            where = place_of(path, number)
            yield Problem(where, str(error).removeprefix(f"{where}: "))
        else:
            yield Row(number, cells)


def _json(path: Path) -> Iterator[Row | Problem]:
    """The rows of a list, or the file's one object."""
    content = parse_json(read_text(path), path)
    if isinstance(content, list):
        yield from (Row(number, cells) for number, cells in enumerate(content, 1))
    else:
        yield Row(None, content)


def _parquet(path: Path) -> Iterator[Row | Problem]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, str(path))
            rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(BATCH))
            yield from (Row(number, cells) for number, cells in enumerate(rows, 1))
    except UserError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:  # a time zone may have any name
        raise UserError(f"{path}: not readable as Parquet: {' '.join(str(error).split())}") from None


READERS: dict[str, Callable[[Path], Iterator[Row | Problem]]] = {
    "csv": _csv,
    "json": _json,
    "jsonl": _json_lines,
    "parquet": _parquet,
}
