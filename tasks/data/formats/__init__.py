"""Reads the forms of files that people have their data in; each form is one small function.

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

SAID_AGAIN = {"label_num"}  # columns that repeat another one in numbers
logger = logging.getLogger(__name__)


class RowError(ValueError):
    """What is wrong with one row."""


class OtherFormError(UserError):
    """A file in a form that a dataset does not read. A PDF does not stop the stage, as PDFs often lie among texts."""

    left_out = False


def check_form(path: Path, form: str, known: Iterable[str], reason: str) -> None:
    """Raise OtherFormError, for that reason, where a file's form is none of those that are known."""
    if form in known:
        return
    error = OtherFormError(f"{path}: {'a PDF; save its text as .txt' if form == 'pdf' else reason}")
    error.left_out = form == "pdf"
    raise error


@dataclass(frozen=True)
class Problem:
    """Something that can't be read."""

    place: str
    """Its file, and its row where it has rows."""
    reason: str
    left_out: bool = False
    """Whether the stage goes on without it; otherwise it stops."""
    other_form: bool = False
    """Whether it is a file whose form the dataset does not read."""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.place, self.reason)))


def without_problems(rows: Iterable[Any], problems: list[Problem] | None) -> Iterator[Any]:
    """The rows that could be read.

    Problems are put into the list; without one, the first that is not left out is raised as UserError, and how many
    were left out is logged.
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
    """What `read` yields for each path. An error that ends a file becomes a Problem."""
    for path in paths:
        try:
            yield from read(path, *arguments)
        except UserError as error:
            place, _, reason = str(error).partition(": ")
            yield Problem(place, reason, getattr(error, "left_out", False), isinstance(error, OtherFormError))


def columns_of(names: Iterable[str], wanted: Mapping[str, Sequence[str]], given: Mapping[str, str]) -> dict[str, str]:
    """Map our columns to a table's: by the parameters, else by their usual names in any case.

    A table that has all of our names, such as feedback, ignores the parameters. Missing columns are left out. Where
    several columns have usual names of the same, the first counts, and the log says so. Raises RowError for a column of
    the parameters that is not there, and UserError for one that we don't have.
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
