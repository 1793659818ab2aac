"""WordNet's synsets and senses, and the words that are common in English."""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from llm.errors import UserError
from tasks.data.checkable.kind import Sources, bad_row, word_list
from tasks.data.textfiles import read_text

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
SENSE_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}  # in a sense key; 5 is an adjective's satellite
PLAIN_WORD = re.compile(r"[a-z]{3,}")
COARSE = re.compile(r"\b(slurs?|obscen|offensive|vulgar|derogat|disparag|sexual|prostitut|genital|Nazi|ethnic|racial)")
COARSE_WORDS = frozenset(
    word_list(
        "ass bastard bitch cock damn gay hell kill killing negro nigger rape raped sex slave suicide whore darky "
        "squaw murder corpse coffin arse arsehole asshole bum crap fuck piss shit slut tit tush twat wanker"
    )
)


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


def wordnet(sources: Sources) -> WordNet:
    """WordNet as it is in the sources."""
    return sources.read(read_wordnet, "wordnet")


def read_wordnet(index: Path) -> WordNet:
    """Read `index.sense` and the `data.*` beside it. Raises UserError for a file that is missing and a broken row."""
    for name in PARTS_OF_SPEECH:
        if not index.with_name(f"data.{name}").is_file():
            raise UserError(f"{index.parent}: no data.{name}; let `files` of the WordNet source keep it")
    synsets = _synsets(index.parent)
    return WordNet(synsets, _senses(index, synsets))


def _synsets(folder: Path) -> dict[str, Synset]:
    """The synsets of WordNet's data files (format: wndb(5WN)), by offset and part of speech."""
    synsets = {}
    for kind, letter in PARTS_OF_SPEECH.items():
        path = folder / f"data.{kind}"
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


def _senses(path: Path, synsets: dict[str, Synset]) -> dict[str, list[Sense]]:
    """The senses of every plain word that a tagged corpus has, the most frequent first."""
    counts = {}
    for row, line in enumerate(read_text(path).splitlines(), 1):
        try:
            key, offset, _, count = line.split()
            word, _, sense = key.partition("%")
            counts[word, f"{offset}-{SENSE_TYPES[sense[0]]}"] = int(count)
        except (ValueError, LookupError):
            raise bad_row(path, row, "not a sense of WordNet") from None
    senses = defaultdict(list)
    for key, synset in synsets.items():
        if COARSE.search(synset.definition):
            continue
        for number, word in enumerate(synset.words):
            if PLAIN_WORD.fullmatch(word) and word not in COARSE_WORDS and counts.get((word, key)):
                senses[word].append(Sense(counts[word, key], key, number))
    return {word: sorted(found, key=lambda sense: -sense.count) for word, found in sorted(senses.items())}
