"""What a kind of task is: tasks with answers that can be checked, and how people would put them."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from llm.errors import UserError

TEST, VALIDATION = 3, 2
"""The last TEST of a kind's phrasings, and of BRIEFLY, are for test alone, the VALIDATION before them for validation;
train has the rest."""
PHRASINGS = TEST + VALIDATION + 3
IN_VAIN = 2_000  # tasks in a row that were there before, after which a kind is taken to have no more
BRIEFLY = (
    "Just the answer, please.",
    "Give only the answer.",
    "No full sentence, please.",
    "Answer briefly.",
    "Only the answer.",
    "Keep it short.",
    "The answer alone will do.",
    "Short answer, please.",
    "Be brief.",
    "Do not explain, just answer.",
    "I only need the result.",
    "As short as you can.",
    "Say nothing but the answer.",
    "Reply with the answer only.",
)
"""What asks for the answer alone where a kind also tells it in a sentence."""
BRIEF = re.compile(r"in one word|one word is enough|nothing else|just the|only the answer", re.IGNORECASE)
"""What a wording says that asks so by itself."""
SENTENCE = re.compile(r"^(it|this|you|yes|no)\b|\b(is|live|like)\b", re.IGNORECASE)  # goes into no other sentence
SPLITS = {
    "train": slice(-TEST - VALIDATION),
    "validation": slice(-TEST - VALIDATION, -TEST),
    "test": slice(-TEST, None),
}
"""Each split's part of the phrasings, in the order of a field's wordings."""

T = TypeVar("T")
Wording = str | tuple[str, str, str]
"""One text for all splits, or one each for train, validation and test."""


class Item(NamedTuple):
    """One task of a kind."""

    asked: str
    """What it is about: a kind asks it once."""
    output: str
    """The answer to learn."""
    fields: Mapping[str, Wording]
    """What its phrasings are filled in with."""
    also: Sequence[str] = ()
    """Other right answers; one that ends in … is how a right answer begins."""
    group: str = ""
    """Tasks of one group, in whatever kind, would give each other away; its kind and what it asks, if none is said."""
    history: Sequence[str] = ()
    """Earlier turns, of user and assistant by turns."""
    system: str = ""
    """A system prompt of its own."""


class Sources:
    """The files that facts are read from, by the name of their source."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self.paths = dict(paths)
        self._read: dict[Callable[..., Any], Any] = {}

    def read(self, reader: Callable[[Path], T], source: str) -> T:
        """What `reader` makes of the source's file; it is read once."""
        if reader not in self._read:
            self._read[reader] = reader(self.paths[source])
        return self._read[reader]


Make = Callable[[np.random.Generator, Sources], Iterator[Item]]


@dataclass(frozen=True)
class Kind:
    """A kind of task: what makes its items, the best known first, and how people would put them."""

    name: str
    make: Make
    phrasings: tuple[str, ...]
    """An instruction, on a second line its input, with {fields}; each split has its own, as SPLITS says."""
    needs: tuple[str, ...]
    """Sources without which the kind is left out."""
    checkable: bool
    sentences: tuple[str, ...] = ()
    """How its answer is told in a sentence: with {answer}, {lower} for it in lower case, and an item's fields."""

    def items(self, sources: Sources, seed: int, rows: int) -> list[Item]:
        """The first `rows` different tasks, drawn from a stream of random numbers that is the kind's alone."""
        found: dict[str, Item] = {}
        in_vain = 0
        for item in self.make(self.stream(seed), sources):
            if len(found) == rows or in_vain == IN_VAIN:
                break
            in_vain = in_vain + 1 if item.asked in found else 0
            found.setdefault(item.asked, item)
        return list(found.values())

    def stream(self, seed: int, purpose: str = "") -> np.random.Generator:
        """Random numbers that no other kind's change."""
        return np.random.default_rng([seed, zlib.crc32(f"{self.name} {purpose}".encode())])

    def wordings(self, split: str) -> tuple[str, ...]:
        """All the ways in which `split` puts it, with {fields}."""
        return self.phrasings[SPLITS[split]]

    def wording(self, split: str, number: int = 0) -> str:
        """One of those ways; a number past the last begins again at the first."""
        return self.wordings(split)[number % len(self.wordings(split))]

    def put(self, item: Item, split: str, phrasing: int = 0, hint: int | None = None) -> tuple[str, str]:
        """Instruction and input of a task in the split's wording of that number; with a `hint`, the number of one of
        the split's in BRIEFLY, it asks for the answer alone."""
        wording = self.wording(split, phrasing)
        if hint is not None and not BRIEF.search(wording):
            hints = BRIEFLY[SPLITS[split]]
            asked = hints[hint % len(hints)]
            instruction, line, given = wording.partition("\n")
            wording = f"{instruction} {asked}" if instruction[-1] in ".?!" else f"{asked} {instruction}"
            wording += line + given
        place = list(SPLITS).index(split)
        fields = {name: text if isinstance(text, str) else text[place] for name, text in item.fields.items()}
        instruction, _, given = wording.format(**fields).partition("\n")
        return instruction, given

    def answers(self, item: Item) -> list[str]:
        """All right answers, the one to learn first; none where any answer may do."""
        return list(dict.fromkeys([item.output, *item.also])) if self.checkable else []

    def told(self, item: Item) -> list[str]:
        """All right answers told in a sentence, those of the answer to learn first."""
        fields = {name: text for name, text in item.fields.items() if isinstance(text, str)}
        found = [
            sentence.format(**fields, answer=answer, lower=answer.lower())
            for answer in self.answers(item)
            if not SENTENCE.search(answer)
            for sentence in self.sentences
        ]
        return [text[0].upper() + text[1:-2] + text[-2:].replace("..", ".") for text in found]  # Washington D.C.


def kind(
    *phrasings: str, needs: Sequence[str] = (), checkable: bool = True, told: Sequence[str] = ()
) -> Callable[[Make], Kind]:
    """Make the kind that a function's name says of the function that makes its items; `told` are its sentences."""
    if len(phrasings) < PHRASINGS:
        raise ValueError(f"{len(phrasings)} phrasings; a kind has at least {PHRASINGS}")
    if told and not checkable:
        raise ValueError("sentences are told of answers that can be checked")

    def named(make: Make) -> Kind:
        return Kind(make.__name__, make, phrasings, tuple(needs), checkable, tuple(told))

    return named


def pick(generator: np.random.Generator, choices: Sequence[T]) -> T:
    """One of them."""
    return choices[int(generator.integers(len(choices)))]


def shuffled(generator: np.random.Generator, choices: Sequence[T], weights: Sequence[float] = ()) -> list[T]:
    """All of them in a random order, the weighty ones earlier."""
    p = np.array(weights, dtype=float) / np.sum(weights) if len(weights) else None
    return [choices[number] for number in generator.choice(len(choices), len(choices), replace=False, p=p)]


def framed(generator: np.random.Generator, frames: Sequence[str], **fields: str) -> tuple[str, str, str]:
    """A text for each split, from frames of its own: the last two are test's, the two before validation's."""
    train, validation, test = (
        pick(generator, part).format(**fields) for part in (frames[:-4], frames[-4:-2], frames[-2:])
    )
    return train, validation, test


def bad_row(path: Path, row: int, reason: str) -> UserError:
    """The error for content that is not what a source should hold."""
    return UserError(f"{path}, row {row}: {reason}")


def word_list(text: str) -> list[str]:
    """The words of a text: a list of them would take a line each."""
    return text.split()
