"""Files on this machine: one file, a folder, or the matches of a glob."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from llm.errors import UserError, UserFileError
from tasks.data.folders import without_hidden
from tasks.data.remote import WILD, before_wildcards


class SourceFiles(NamedTuple):
    """The files of a source."""

    base: Path
    """The folder that their paths are relative to."""
    paths: tuple[Path, ...]
    is_single: bool
    """Whether the source names one file, rather than a folder."""


def find_files(path: str, source: str) -> SourceFiles:
    """The files at a path or matching a glob, sorted, without hidden ones.

    Links to folders are not followed. Raises UserError, naming the source, if there is no file, and for a hidden file.
    """
    location = Path(path).expanduser()
    if location.is_file():
        if location.name.startswith("."):
            raise UserError(f"{source}: hidden files are not read; call it {location.name.lstrip('.')}")
        return SourceFiles(location.parent, (location,), is_single=True)
    if location.is_dir():
        base = location
        matches = list(location.rglob("*"))
    elif any(wildcard in path for wildcard in WILD):
        base = Path(before_wildcards(str(location)) or location.anchor or ".")
        try:
            matches = list(base.glob(location.relative_to(base).as_posix()))
        except ValueError as error:  # such as ** beside other characters
            raise UserError(f"{source}: {error}") from None
    else:
        raise UserFileError(f"{source}: no such file or folder")
    paths = tuple(path for path in without_hidden(matches, base) if path.is_file())
    if not paths:
        raise UserFileError(f"{source}: no file is there")
    return SourceFiles(base, paths, is_single=False)


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(files: SourceFiles) -> str:
    """The sha256 of a single file; of several, that of the lines that `sha256sum` prints for them, sorted by path."""
    if files.is_single:
        return sha256_of(files.paths[0])
    whole = hashlib.sha256()
    for path in files.paths:
        line = f"{sha256_of(path)}  {path.relative_to(files.base).as_posix()}\n"
        whole.update(line.encode(errors="surrogateescape"))
    return whole.hexdigest()
