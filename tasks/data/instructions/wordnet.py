"""Common English words of WordNet."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tasks.data.instructions.choose import Lists
from tasks.data.textfiles import read_text

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
SENSE_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}


class Synset(NamedTuple):
    """Words of one meaning, as a WordNet data file keeps them."""

    words: list[str]
    definition: str


class WordNet(NamedTuple):
    """How often a tagged corpus uses each plain word, by the letter of its part of speech."""

    uses: Mapping[str, Mapping[str, int]]

    def count(self, word: str, part: str = "nvar") -> int:
        """How often the corpus uses the word as one of the parts of speech."""
        counts = self.uses.get(word, {})
        return sum(counts.get(letter, 0) for letter in part)

    def common(self, least: int, part: str = "nvar", longest: int = 12) -> list[str]:
        """Words used at least `least` times as those parts of speech, the most frequent first."""
        counts = {word: self.count(word, part) for word in self.uses if len(word) <= longest}
        return sorted((word for word, count in counts.items() if count >= least), key=lambda word: -counts[word])


def read_wordnet(index: Path, lists: Lists) -> WordNet:
    """WordNet, of `index.sense` and the `data.*` beside it, without the words and meanings that the lists call coarse.

    Raises ValueError, LookupError or OSError for what is not in WordNet's format.
    """
    synsets: dict[str, Synset] = {}
    for part, letter in PARTS_OF_SPEECH.items():
        for offset, synset in _synsets(index.with_name(f"data.{part}")):
            synsets[f"{offset}-{letter}"] = synset
    counts: dict[tuple[str, str], int] = {}
    for line in read_text(index).splitlines():
        key, offset, _, count = line.split()
        word, _, sense = key.partition("%")
        counts[word, f"{offset}-{SENSE_TYPES[sense[0]]}"] = int(count)
    coarse = re.compile(rf"\b({'|'.join(lists['coarse_definitions'])})")
    coarse_words = set(lists["coarse_words"])
    uses: dict[str, Counter[str]] = defaultdict(Counter)
    for key, synset in synsets.items():
        if coarse.search(synset.definition):
            continue
        for word in synset.words:
            if re.fullmatch(r"[a-z]{3,}", word) and word not in coarse_words and counts.get((word, key)):
                uses[word][key[-1]] += counts[word, key]
    return WordNet(dict(sorted(uses.items())))


def _synsets(path: Path) -> Iterator[tuple[str, Synset]]:
    """The synsets of a data file by offset (format: wndb(5WN))."""
    for line in read_text(path).splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, definition = line.split("|", 1)
        offset, _, _, count, *cells = head.split()
        words = cells[: 2 * int(count, 16) : 2]
        yield offset, Synset([re.sub(r"\(\w+\)$", "", word) for word in words], definition.strip())
