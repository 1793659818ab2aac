"""Choices at random, and tables of rows to choose from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
Lists = Mapping[str, Any]
"""The lists of all packs by name."""
Values = dict[str, Any]
"""What is known of one task, by the names that templates call it: texts, numbers, lists, people, a text a split."""


class BySplit(NamedTuple):
    """A text that differs between the splits."""

    train: str
    validation: str
    test: str


class Sources:
    """The files that facts are read from, by the name of their source."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = dict(paths)
        self._read: dict[Callable[..., Any], Any] = {}

    def read(self, reader: Callable[[Path], T], source: str) -> T:
        """The content of a source's file as `reader` returns it; each file is read once."""
        if reader not in self._read:
            self._read[reader] = reader(self.paths[source])
        return self._read[reader]


@dataclass(frozen=True)
class Table:
    """Rows that Python makes, from sources of facts or by computing."""

    rows: Callable[..., Iterator[Values]]
    """Called with a random generator, the lists, the sources and what the kind says under `with`."""
    needs: tuple[str, ...]
    """Sources without which there are no rows."""


def table(*needs: str) -> Callable[[Callable[..., Iterator[Values]]], Table]:
    """Make a Table of a function that yields rows."""
    return lambda rows: Table(rows, needs)


def pick(generator: np.random.Generator, choices: Sequence[T]) -> T:
    """One of the choices."""
    return choices[int(generator.integers(len(choices)))]


def shuffled(generator: np.random.Generator, choices: Sequence[T], weights: Sequence[float] = ()) -> list[T]:
    """All choices in a random order; heavier ones tend to come earlier."""
    if not len(choices):
        return []
    p = np.array(weights, dtype=float) / np.sum(weights) if len(weights) else None
    return [choices[number] for number in generator.choice(len(choices), len(choices), replace=False, p=p)]


def integer(generator: np.random.Generator, lowest: int, highest: int) -> int:
    """A whole number; both bounds are possible."""
    return int(generator.integers(lowest, highest + 1))


def rounds(generator: np.random.Generator, choices: Sequence[T]) -> Iterator[T]:
    """Every choice in turn, again and again, in ever new orders."""
    while choices:
        yield from shuffled(generator, choices)
