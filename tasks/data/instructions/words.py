"""Facts of words: common ones from WordNet, forms from lemminflect's table."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from tasks.data.instructions.choose import Generator, Lists, Sources, Values, shuffled
from tasks.data.instructions.wordnet import read_wordnet

# Two syllables that take -er: an open syllable, or -y, -le, -ow, -ver at the end.
LONG = re.compile(r"[a-z]*[aeiouy][a-z]*([^aeiou](y|le)|ow|ver)|quiet")

Forms = dict[tuple[str, str], list[list[str]]]


def common_words(generator: Generator, sources: Sources, least: int, longest: int) -> Iterator[Values]:
    """Words of at most `longest` letters that a corpus uses at least `least` times."""
    for word in shuffled(generator, sources.read(read_wordnet, "wordnet").common(least, longest=longest)):
        yield {"word": word}


def read_forms(path: Path, lists: Lists) -> Forms:
    """Forms by word and part of speech, each with its variants."""
    lines = [line.split(",") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    return {(word, part): [each.split("/") if each else [] for each in found] for word, part, *found in lines}


def _common(generator: Generator, sources: Sources, part: str, least: int) -> list[tuple[str, list[list[str]]]]:
    """Common words with their forms, in a random order that favours frequent words."""
    net, forms = sources.read(read_wordnet, "wordnet"), sources.read(read_forms, "lemminflect")
    known = [word for word in net.common(least, part[0], longest=10) if (word, part) in forms]
    words = [word for word in known if net.count(word, part[0]) >= 0.5 * net.count(word)]
    weights = [net.count(word, part[0]) ** 0.5 for word in words]
    return [(word, forms[word, part]) for word in shuffled(generator, words, weights)]


def past_tenses(generator: Generator, sources: Sources) -> Iterator[Values]:
    """Verbs with their simple past. Verbs with several forms are left out, unless the first is the regular one."""
    for word, (past, *_) in _common(generator, sources, "verb", 8):
        if word not in sources.lists["odd_verbs"] and (len(past) == 1 or (past and past[0].endswith("ed"))):
            yield {"word": word, "past": past}


def adjectives(generator: Generator, sources: Sources, degree: int, ending: str, more: str) -> Iterator[Values]:
    """Adjectives with their -er or -est form. For longer ones, the form with `more` or `most` is right, too."""
    for word, forms in _common(generator, sources, "adj", 3):
        found, long = forms[degree], LONG.fullmatch(word)
        # A y between vowels, as in loyal, parts syllables; an e at the end is silent.
        short = len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[aeiou])y(?=[aeiou])|e$", "-", word))) == 1
        # The table has forms such as trueer.
        plain = len(found) == 1 and found[0].endswith(word[-1] + ending[1:] if word.endswith("e") else ending)
        plain = plain and not found[0].endswith(f"e{ending}") and word not in sources.lists["not_compared"]
        if plain and (short or long):
            yield {"word": word, "forms": [found[0], *([f"{more} {word}"] if long else [])]}
