"""WordNet's synsets and senses, and the words that are common in English."""

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from llm.errors import UserError
from tasks.data.instructions.choose import Lists, Sources
from tasks.data.textfiles import read_text

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
SENSE_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}
PLAIN_WORD = re.compile(r"[a-z]{3,}")


class Synset(NamedTuple):
    """Words of one meaning, as a WordNet data file keeps them."""

    words: list[str]
    antonyms: list[tuple[str, int, int]]
    """Synset, number of the word here, number of its opposite there."""
    definition: str

    @property
    def gloss(self) -> str:
        """The definition without its field and its examples."""
        return re.sub(r"^\([^)]*\)\s*", "", self.definition.partition(";")[0]).strip()


class Sense(NamedTuple):
    """One meaning of a word."""

    count: int
    """How often a tagged corpus uses the word in this meaning."""
    synset: str
    number: int
    """Of the word in its synset."""


class WordNet(NamedTuple):
    """Meanings by their name, such as `00004227-v`, and the meanings of each plain word, the most frequent first."""

    synsets: dict[str, Synset]
    senses: dict[str, list[Sense]]

    def count(self, word: str, part: str = "nvar") -> int:
        """How often a tagged corpus uses the word as one of the parts of speech."""
        return sum(sense.count for sense in self.senses.get(word, ()) if sense.synset[-1] in part)

    def common(self, least: int, part: str = "nvar", longest: int = 12) -> list[str]:
        """Words used at least so often as those parts of speech, the most frequent first."""
        counts = {word: self.count(word, part) for word in self.senses if len(word) <= longest}
        return sorted((word for word, count in counts.items() if count >= least), key=lambda word: -counts[word])

    def main(self, word: str) -> str | None:
        """The synset of a word's most frequent meaning."""
        return self.senses[word][0].synset if word in self.senses else None

    def groups(self, alike: Iterable[list[str]]) -> dict[str, str]:
        """The group of each synset: an equal definition, opposites or words listed as `alike` join them."""
        number = {key: n for n, key in enumerate(self.synsets)}
        known = [[number[key] for word in words if (key := self.main(word))] for words in alike]
        pairs = [pair for meanings in known for pair in pairwise(meanings)]
        by_gloss: dict[str, int] = {}
        for key, synset in self.synsets.items():
            pairs += [(number[key], number[target]) for target, _, _ in synset.antonyms if target in number]
            pairs.append((number[key], by_gloss.setdefault(synset.gloss, number[key])))
        left, right = np.array(pairs).T
        graph = coo_array((np.ones(len(pairs), bool), (left, right)), shape=(len(number), len(number)))
        parts = connected_components(graph, directed=False)[1]
        return {key: f"meaning: {part}" for key, part in zip(self.synsets, parts, strict=True)}


def wordnet(sources: Sources, lists: Lists) -> WordNet:
    """WordNet as it is in the sources, without the words and meanings that the lists call coarse."""
    synsets = sources.read(read_synsets, "wordnet")
    counts = sources.read(read_counts, "wordnet")
    coarse = re.compile(rf"\b({'|'.join(lists['coarse_definitions'])})")
    words = frozenset(lists["coarse_words"])
    senses = defaultdict(list)
    for key, synset in synsets.items():
        if coarse.search(synset.definition):
            continue
        for number, word in enumerate(synset.words):
            if PLAIN_WORD.fullmatch(word) and word not in words and counts.get((word, key)):
                senses[word].append(Sense(counts[word, key], key, number))
    by_word = {word: sorted(found, key=lambda sense: -sense.count) for word, found in sorted(senses.items())}
    return WordNet(synsets, by_word)


def bad_row(path: Path, row: int, reason: str) -> UserError:
    """The error for content that a source should not hold."""
    return UserError(f"{path}, row {row}: {reason}")


def read_synsets(index: Path) -> dict[str, Synset]:
    """The synsets of the `data.*` beside index.sense (format: wndb(5WN)), by offset and part of speech.

    Raises UserError for a file that is missing and for a broken row.
    """
    synsets = {}
    for part, letter in PARTS_OF_SPEECH.items():
        path = index.with_name(f"data.{part}")
        if not path.is_file():
            raise UserError(f"{index.parent}: no {path.name}; let `files` of the WordNet source keep it")
        for row, line in enumerate(read_text(path).splitlines(), 1):
            if line.startswith("  "):  # the licence
                continue
            try:
                head, gloss = line.split("|", 1)
                offset, _, _, count, *rest = head.split()
                size = 2 * int(count, 16)
                words = [re.sub(r"\(\w+\)$", "", word) for word in rest[:size:2]]
                pointers = iter(rest[size + 1 : size + 1 + 4 * int(rest[size])])
                antonyms = [
                    (f"{target}-{part}", int(words_of[:2], 16) - 1, int(words_of[2:], 16) - 1)
                    for symbol, target, part, words_of in zip(pointers, pointers, pointers, pointers, strict=True)
                    if symbol == "!"
                ]
            except (ValueError, IndexError):
                raise bad_row(path, row, "not a synset of WordNet") from None
            synsets[f"{offset}-{letter}"] = Synset(words, antonyms, gloss.strip())
    return synsets


def read_counts(index: Path) -> dict[tuple[str, str], int]:
    """How often a tagged corpus uses a word in the meaning of a synset. Raises UserError for a broken row."""
    counts = {}
    for row, line in enumerate(read_text(index).splitlines(), 1):
        try:
            key, offset, _, count = line.split()
            word, _, sense = key.partition("%")
            counts[word, f"{offset}-{SENSE_TYPES[sense[0]]}"] = int(count)
        except (ValueError, LookupError):
            raise bad_row(index, row, "not a sense of WordNet") from None
    return counts
