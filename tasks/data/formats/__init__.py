"""Read data from files of many formats; each format is one small function.

sniff.py tells the form of a file from its content, and tables.py reads rows. documents.py, mails.py and
conversations.py turn them into rows of the corpus, emails and instructions. To add a form, write a function there, add
a line to the table at the end of that file, and a case to tests/tasks/data/formats/test_formats.py.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llm.errors import UserError
from tasks.data.cleaning.record import left_out as write_down

SAID_AGAIN = {"label_num"}  # columns that repeat another column as numbers
logger = logging.getLogger(__name__)


class RowError(ValueError):
    """The reason why a row can't be read."""


class OtherFormError(UserError):
    """A file in a form that a dataset does not read. A PDF does not stop the stage: PDFs often lie among texts."""

    left_out = False


def check_form(path: Path, form: str, known: Iterable[str], reason: str) -> None:
    """Raise OtherFormError, with this reason, if a file's form is not among those that are known."""
    if form in known:
        return
    error = OtherFormError(f"{path}: {'a PDF; save its text as .txt' if form == 'pdf' else reason}")
    error.left_out = form == "pdf"
    raise error


@dataclass(frozen=True)
class Problem:
    """A file or row that can't be read."""

    place: str
    """The file, and the row if the file has rows."""
    reason: str
    left_out: bool = False
    """Whether the stage goes on without it; otherwise it stops."""
    other_form: bool = False
    """Whether it is a file whose form the dataset does not read."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.place, self.reason)))


def without_problems(rows: Iterable[Any], problems: list[Problem] | None) -> Iterator[Any]:
    """The rows without the problems, which are added to the list.

    Without a list, the first problem that is not left out is raised as UserError, and the number of those left out is
    logged.
    """
    left_out: list[Problem] = []
    for row in rows:
        if not isinstance(row, Problem):
            yield row
        elif problems is not None:
            problems.append(row)
        elif row.left_out:
            left_out.append(row)
            write_down("unreadable", [{"id": row.place, "reason": row.reason}])
        else:
            raise UserError(str(row))
    if left_out:
        logger.warning("%d rows left out, such as %s", len(left_out), left_out[0])


def each_file(read: Callable[..., Iterator[Any]], paths: Iterable[Any], *arguments: Any) -> Iterator[Any]:
    """The rows that `read` yields for each path. An error that ends a file becomes a Problem."""
    for path in paths:
        try:
            yield from read(path, *arguments)
        except UserError as error:
            place, _, reason = str(error).partition(": ")
            yield Problem(place, reason, getattr(error, "left_out", False), isinstance(error, OtherFormError))


def columns_of(names: Iterable[str], wanted: Mapping[str, Sequence[str]], given: Mapping[str, str]) -> dict[str, str]:
    """Map our columns to a table's, by the parameters or else by their usual names, in upper or lower case.

    A table that has all of our names, such as feedback, ignores the parameters. Missing columns are left out. If
    several columns have usual names of the same one, the first counts, and the log says so. Raises RowError if the
    table lacks a column of the parameters, and UserError if the parameters name an unknown column of ours.
    """
    if strangers := given.keys() - wanted.keys():
        raise UserError(f"columns: {min(strangers)!r} is not one of {', '.join(wanted)}")
    names = list(names)
    known = {name.strip().casefold(): name for name in reversed(names)}
    found = {}
    for ours, usual in wanted.items():
        if given.get(ours) in names:
            found[ours] = given[ours]
        elif ours in given and not all(each[0] in known for each in wanted.values()):
            raise RowError(f"columns.{ours}: there is no column {given[ours]!r}, only {', '.join(names)}")
        elif fitting := [known[each] for each in usual if each in known]:
            if len(fitting) > 1 and fitting[1].casefold() not in SAID_AGAIN:
                _say_choice(ours, *fitting)
            found[ours] = fitting[0]
    return found


@cache
def _say_choice(ours: str, taken: str, *others: str) -> None:
    """Log the choice, once a process."""
    rest = " or ".join(map(repr, others))
    logger.warning("the %s is taken from the column %r, not from %s: `columns` may say otherwise", ours, taken, rest)
