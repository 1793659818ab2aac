"""The files below a folder that may be data."""

from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

MAILDIR = ("cur", "new")  # folders with mails; tmp holds mails that are still being delivered


def without_hidden(paths: Iterable[Path], base: Path) -> list[Path]:
    """The paths below a folder that may be data, in order, without files that programs keep for themselves.

    Those are hidden files and files in hidden folders (except a Maildir), files of a Maildir that are no mails, and
    DVC's pointers.
    """

    @cache
    def is_maildir(folder: Path) -> bool:
        return all((folder / name).is_dir() for name in MAILDIR)

    def is_data(path: Path) -> bool:
        parts = path.relative_to(base).parts
        if parts[-1].startswith(".") or path.suffix == ".dvc":
            return False
        if any(part.startswith(".") and inside not in MAILDIR for part, inside in pairwise(parts)):
            return False
        folders = [base.joinpath(*parts[:depth]) for depth in range(len(parts))]
        loose = (is_maildir(folder) and part not in MAILDIR for folder, part in zip(folders, parts, strict=True))
        return path.parent.name in MAILDIR or not any(loose)  # a Maildir's folders are Maildirs in it

    return sorted(filter(is_data, paths))


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder but hidden ones (`without_hidden`), in the order of paths."""
    return [path for path in without_hidden(folder.rglob("*"), folder) if path.is_file()]
