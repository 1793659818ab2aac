"""Files and rows that can't be read: named with a reason, and collected or raised."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llm.errors import UserError
from tasks.data.cleaning.record import left_out

Row = TypeVar("Row")
logger = logging.getLogger(__name__)


class RowError(ValueError):
    """The reason why a row can't be read."""


@dataclass(frozen=True)
class Problem:
    """A file or row that can't be read."""

    where: str
    """The file, and the row if the file has rows."""
    reason: str
    left_out: bool = False
    """Whether the stage goes on without it; otherwise it stops."""

    def __str__(self) -> str:
        return ": ".join(filter(None, [self.where, self.reason]))


def check_form(path: Path, form: str, readable: Iterable[str], *, reason: str) -> None:
    """Raise UserError, with this reason, if a file's form is not among those that are readable."""
    if form not in readable:
        raise UserError(f"{path}: {reason}")


def rows_of_file(read: Callable[[Path], Iterator[Row | Problem]], path: Path) -> Iterator[Row | Problem]:
    """The rows that `read` yields. An error that ends the file becomes a Problem."""
    try:
        yield from read(path)
    except UserError as error:
        where, _, reason = str(error).partition(": ")
        yield Problem(where, reason)


def without_problems(rows: Iterable[Row | Problem], problems: list[Problem] | None) -> Iterator[Row]:
    """The rows without the problems, which are added to the list.

    Without a list, the first problem that is not left out is raised as UserError, and the number of those left out is
    logged.
    """
    unreadable: list[Problem] = []
    for row in rows:
        if not isinstance(row, Problem):
            yield row
        elif problems is not None:
            problems.append(row)
        elif row.left_out:
            unreadable.append(row)
            left_out("unreadable", [{"id": row.where, "reason": row.reason}])
        else:
            raise UserError(str(row))
    if unreadable:
        logger.warning("%d rows left out, such as %s", len(unreadable), unreadable[0])
