"""Choices at random, and tables of rows to choose from."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from llm.errors import UserError

T = TypeVar("T")
Generator = np.random.Generator
Lists = Mapping[str, Any]
"""The lists of all packs by name."""
Values = dict[str, Any]
"""The values of one task by column: texts, numbers, lists, people, and texts by split."""


class BySplit(NamedTuple):
    """A text that differs between the splits."""

    train: str
    validation: str
    test: str


SPLITS = BySplit._fields


class Sources:
    """The files that facts are read from, by the name of their source, and the lists that correct them."""

    def __init__(self, paths: Mapping[str, Path], lists: Lists) -> None:
        self.paths = dict(paths)
        self.lists = lists
        self._facts: dict[Callable[[Path, Lists], Any], Any] = {}

    def read(self, reader: Callable[[Path, Lists], T], source: str) -> T:
        """A source's file and the lists as `reader` returns them. Raises UserError for another form than it expects."""
        if reader not in self._facts:
            path = self.paths[source]
            try:
                self._facts[reader] = reader(path, self.lists)
            except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, zlib.error) as error:
                reason = f"{type(error).__name__}: {error}"
                raise UserError(f"{path}: not in the form of {source} that is expected: {reason}") from None
        facts: T = self._facts[reader]
        return facts


def pick(generator: Generator, choices: Sequence[T]) -> T:
    """One of the choices."""
    return choices[int(generator.integers(len(choices)))]


def shuffled(generator: Generator, choices: Sequence[T], weights: Sequence[float] = ()) -> list[T]:
    """All choices in a random order; heavier ones tend to come earlier."""
    if not len(choices):
        return []
    shares = np.array(weights, dtype=float) / np.sum(weights) if len(weights) else None
    order = generator.choice(len(choices), len(choices), replace=False, p=shares)
    return [choices[number] for number in order]


def rounds(generator: Generator, choices: Sequence[T]) -> Iterator[T]:
    """All choices in a random order, again and again, each time in a new one."""
    while choices:
        yield from shuffled(generator, choices)
