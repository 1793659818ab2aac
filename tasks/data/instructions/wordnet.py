"""WordNet's synsets and senses, and common English words."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.data.instructions.choose import Lists
from tasks.data.textfiles import read_text

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
SENSE_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}


class Synset(NamedTuple):
    """Words of one meaning, as a WordNet data file keeps them."""

    words: list[str]
    antonyms: list[tuple[str, int, int]]
    """Synset, number of the word here, number of its opposite there."""
    definition: str


class Sense(NamedTuple):
    """One meaning of a word."""

    count: int
    """How often a tagged corpus uses the word in this meaning."""
    synset: str
    number: int  # of the word in its synset


class WordNet(NamedTuple):
    """Meanings by their name, such as `00004227-v`, and the meanings of each plain word, the most frequent first."""

    synsets: dict[str, Synset]
    senses: dict[str, list[Sense]]

    def count(self, word: str, part: str = "nvar") -> int:
        """How often a tagged corpus uses the word as one of the parts of speech."""
        return sum(sense.count for sense in self.senses.get(word, ()) if sense.synset[-1] in part)

    def common(self, least: int, part: str = "nvar", longest: int = 12) -> list[str]:
        """Words used at least `least` times as those parts of speech, the most frequent first."""
        counts = {word: self.count(word, part) for word in self.senses if len(word) <= longest}
        return sorted((word for word, count in counts.items() if count >= least), key=lambda word: -counts[word])

    def main(self, word: str) -> str | None:
        """The synset of a word's most frequent meaning."""
        return self.senses[word][0].synset if word in self.senses else None

    def groups(self, alike: Iterable[list[str]]) -> dict[str, str]:
        """The group of each synset: synsets with equal definitions, opposites, and words listed as `alike` share
        one."""
        number = {key: n for n, key in enumerate(self.synsets)}
        known = [[number[key] for word in words if (key := self.main(word))] for words in alike]
        pairs = [pair for meanings in known for pair in pairwise(meanings)]
        by_definition: dict[str, int] = {}
        for key, synset in self.synsets.items():
            pairs += [(number[key], number[target]) for target, _, _ in synset.antonyms if target in number]
            text = re.sub(r"^\([^)]*\)\s*", "", synset.definition.partition(";")[0]).strip()
            pairs.append((number[key], by_definition.setdefault(text, number[key])))
        left, right = np.array(pairs).T
        graph = coo_array((np.ones(len(pairs), bool), (left, right)), shape=(len(number), len(number)))
        parts = connected_components(graph, directed=False)[1]
        return {key: f"meaning: {part}" for key, part in zip(self.synsets, parts, strict=True)}


def read_wordnet(index: Path, lists: Lists) -> WordNet:
    """WordNet, of `index.sense` and the `data.*` beside it, without the words and meanings that the lists call coarse.

    Raises ValueError, LookupError or OSError for what is not in WordNet's format.
    """
    synsets = {
        f"{offset}-{letter}": synset
        for part, letter in PARTS_OF_SPEECH.items()
        for offset, synset in _synsets(index.with_name(f"data.{part}"))
    }
    counts = {}
    for line in read_text(index).splitlines():
        key, offset, _, count = line.split()
        word, _, sense = key.partition("%")
        counts[word, f"{offset}-{SENSE_TYPES[sense[0]]}"] = int(count)
    coarse, coarse_words = re.compile(rf"\b({'|'.join(lists['coarse_definitions'])})"), {*lists["coarse_words"]}
    senses = defaultdict(list)
    for key, synset in synsets.items():
        for number, word in enumerate(synset.words if not coarse.search(synset.definition) else ()):
            if re.fullmatch(r"[a-z]{3,}", word) and word not in coarse_words and counts.get((word, key)):
                senses[word].append(Sense(counts[word, key], key, number))
    return WordNet(synsets, {word: sorted(found, key=lambda s: -s.count) for word, found in sorted(senses.items())})


def _synsets(path: Path) -> Iterator[tuple[str, Synset]]:
    """The synsets of a data file by offset (format: wndb(5WN))."""
    for line in read_text(path).splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, definition = line.split("|", 1)
        offset, _, _, count, *rest = head.split()
        size = 2 * int(count, 16)
        pointers = iter(rest[size + 1 : size + 1 + 4 * int(rest[size])])
        antonyms = [
            (f"{target}-{part}", int(words_of[:2], 16) - 1, int(words_of[2:], 16) - 1)
            for symbol, target, part, words_of in zip(pointers, pointers, pointers, pointers, strict=True)
            if symbol == "!"
        ]
        yield offset, Synset([re.sub(r"\(\w+\)$", "", word) for word in rest[:size:2]], antonyms, definition.strip())
