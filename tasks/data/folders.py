"""The files below a folder that may be data."""

from collections.abc import Iterable
from pathlib import Path


def without_hidden(paths: Iterable[Path], base: Path) -> list[Path]:
    """The paths below a folder that may be data, in order: without hidden ones, those in hidden folders, and DVC's
    pointers."""

    def is_data(path: Path) -> bool:
        is_hidden = any(part.startswith(".") for part in path.relative_to(base).parts)
        return not is_hidden and path.suffix != ".dvc"

    return sorted(filter(is_data, paths))


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder but hidden ones (`without_hidden`), in the order of paths."""
    return [path for path in without_hidden(folder.rglob("*"), folder) if path.is_file()]
