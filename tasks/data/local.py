"""Files on this machine: one file, a folder, or the matches of a glob."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from llm.errors import UserError, UserFileError
from tasks.data.folders import without_hidden
from tasks.data.remote import WILD, before_wildcards


class Found(NamedTuple):
    """The files of a source."""

    base: Path
    """The folder that their paths are relative to."""
    files: tuple[Path, ...]
    alone: bool
    """Whether the source names one file, rather than a folder."""


def find_files(path: str, source: str) -> Found:
    """The files at a path or matching a glob, sorted, without hidden ones.

    Raises UserError, naming the source, if there is no file, for a hidden file, and for a link to a file or folder
    outside its folder.
    """
    whole = Path(path).expanduser()
    if whole.is_file():
        if whole.name.startswith("."):
            raise UserError(f"{source}: hidden files are not read; call it {whole.name.lstrip('.')}")
        return Found(whole.parent, (whole,), alone=True)
    if whole.is_dir():
        base, found = whole, whole.rglob("*")
    elif any(mark in path for mark in WILD):
        base = Path(before_wildcards(str(whole)) or whole.anchor or ".")
        try:
            found = [*base.glob(whole.relative_to(base).as_posix())]
        except ValueError as error:  # such as ** beside other characters
            raise UserError(f"{source}: {error}") from None
    else:
        raise UserFileError(f"{source}: no such file or folder")
    found, root = without_hidden(found, base), base.resolve()
    for each in found:
        if each.exists() and not each.resolve().is_relative_to(root):  # the root of the matches is not itself a match
            inside = reversed(each.parents[: len(each.relative_to(base).parts) - 1])
            link = next(part for part in (*inside, each) if part.is_symlink())
            raise UserError(f"{source}: {link} is a link that leads out of its folder; copy what is there into it")
    files = [each for each in found if each.is_file()]
    if not files:
        raise UserFileError(f"{source}: no file is there")
    return Found(base, tuple(files), alone=False)


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(found: Found) -> str:
    """The sha256 of a single file; of several, that of the lines that `sha256sum` prints for them, sorted by path."""
    if found.alone:
        return sha256_of(found.files[0])
    whole = hashlib.sha256()
    for file in found.files:
        whole.update(f"{sha256_of(file)}  {file.relative_to(found.base).as_posix()}\n".encode(errors="surrogateescape"))
    return whole.hexdigest()
