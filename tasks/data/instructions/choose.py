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
        self.paths, self.lists = dict(paths), lists
        self._read: dict[Callable[..., Any], Any] = {}

    def read(self, reader: Callable[[Path, Lists], T], source: str) -> T:
        """A source's file and the lists as `reader` returns them. Raises UserError for another form than it expects."""
        if reader not in self._read:
            path = self.paths[source]
            try:
                self._read[reader] = reader(path, self.lists)
            except (ValueError, LookupError, TypeError, AttributeError, EOFError, OSError, zlib.error) as error:
                raise UserError(
                    f"{path}: not in the form of {source} that is expected: {type(error).__name__}: {error}"
                ) from None
        return self._read[reader]


def pick(generator: Generator, choices: Sequence[T]) -> T:
    """One of the choices."""
    return choices[int(generator.integers(len(choices)))]


def shuffled(generator: Generator, choices: Sequence[T], weights: Sequence[float] = ()) -> list[T]:
    """All choices in a random order; heavier ones tend to come earlier."""
    p = np.array(weights, dtype=float) / np.sum(weights) if len(weights) else None
    order = generator.choice(len(choices), len(choices), replace=False, p=p) if len(choices) else ()
    return [choices[number] for number in order]


def rounds(generator: Generator, choices: Sequence[T]) -> Iterator[T]:
    """All choices in a random order, again and again, each time in a new one."""
    while choices:
        yield from shuffled(generator, choices)
