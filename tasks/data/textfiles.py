"""People's text files, read so that a mistake in one is named by file, row and reason."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ftfy

from llm.errors import UserError


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder but hidden ones, in the order of paths."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def raw_files(folder: Path) -> list[Path]:
    """Every file below a dataset's folder but hidden ones, in the order of paths. Raises UserError for none."""
    files = files_below(folder)
    if not files:
        raise UserError(f"{folder}: holds no files; run `python -m flows.fetch {folder.name}`")
    return files


def read_text(path: Path) -> str:
    """Read a UTF-8 file. Raises UserError naming file, row and byte where it is none."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, row {row}: byte {content[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from None


def tidy(text: str) -> str:
    """What a person wrote, with broken characters mended and no space around it."""
    return ftfy.fix_text(text).strip()


def parse_json(text: str, path: Path, row: int | None = None) -> Any:
    """Parse the JSON of a file, or of its row. Raises UserError naming file, row and reason."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, row {row or error.lineno}: not JSON: {error.msg} at column {error.colno}") from None


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the rows of a .jsonl file, each with its number from 1; blank lines are passed over."""
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, parse_json(line, path, number)
