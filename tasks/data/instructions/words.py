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
    forms: Forms = {}
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        word, part, *cells = line.split(",")
        forms[word, part] = [list(filter(None, cell.split("/"))) for cell in cells]
    return forms


def _common(generator: Generator, sources: Sources, *, part: str, least: int) -> list[tuple[str, list[list[str]]]]:
    """Common words with their forms, in a random order that favours frequent words."""
    wordnet = sources.read(read_wordnet, "wordnet")
    forms = sources.read(read_forms, "lemminflect")
    letter = part[0]
    inflected = [word for word in wordnet.common(least, letter, longest=10) if (word, part) in forms]
    words = [word for word in inflected if wordnet.count(word, letter) >= 0.5 * wordnet.count(word)]
    weights = [wordnet.count(word, letter) ** 0.5 for word in words]
    return [(word, forms[word, part]) for word in shuffled(generator, words, weights)]


def past_tenses(generator: Generator, sources: Sources) -> Iterator[Values]:
    """Verbs with their simple past. Verbs with several forms are left out, unless the first is the regular one."""
    for word, (past, *_) in _common(generator, sources, part="verb", least=8):
        if word not in sources.lists["odd_verbs"] and (len(past) == 1 or (past and past[0].endswith("ed"))):
            yield {"word": word, "past": past}


def adjectives(generator: Generator, sources: Sources, degree: int, ending: str, adverb: str) -> Iterator[Values]:
    """Adjectives with their -er or -est form. For longer ones, that with the `adverb` more or most is right, too."""
    for word, forms in _common(generator, sources, part="adj", least=3):
        is_long = LONG.fullmatch(word) is not None
        is_regular = _is_regular(word, forms[degree], ending) and word not in sources.lists["not_compared"]
        if is_regular and (is_long or _has_one_syllable(word)):
            longer_forms = [f"{adverb} {word}"] if is_long else []
            yield {"word": word, "forms": [forms[degree][0], *longer_forms]}


def _has_one_syllable(word: str) -> bool:
    """A y between vowels, as in loyal, parts syllables; an e at the end is silent."""
    return len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[aeiou])y(?=[aeiou])|e$", "-", word))) == 1


def _is_regular(word: str, forms: list[str], ending: str) -> bool:
    """Whether the only form is the word with the ending. The table also has forms such as trueer."""
    if len(forms) != 1 or forms[0].endswith(f"e{ending}"):
        return False
    return forms[0].endswith(word[-1] + ending[1:] if word.endswith("e") else ending)
