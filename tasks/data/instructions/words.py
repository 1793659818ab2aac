"""Facts of words: meanings, synonyms and opposites from WordNet, forms from lemminflect's table."""

import gzip
import re
import zlib
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.instructions.choose import Lists, Sources, Values, shuffled, table
from tasks.data.instructions.wordnet import WordNet, bad_row, wordnet

COLUMNS = {"noun": 3, "verb": 6, "adj": 4, "adv": 4}  # of lemminflect's table, by part of speech
DEFINITION_WORDS = 12
SPELLING = 0.7  # words more alike than this are two spellings of one
DEFINED = 8  # a word is used so often, at least, in the meaning that is defined
COMMON = 5
MAIN = 0.25  # a synonym's share of all uses of a word, at least, in the meaning that it shares
# Two syllables that take -er: an open syllable, or -y, -le, -ow, -ver at the end.
LONG = re.compile(r"[a-z]*[aeiouy][a-z]*([^aeiou](y|le)|ow|ver)|quiet")

Generator = np.random.Generator
Forms = dict[tuple[str, str], list[list[str]]]


@table("wordnet")
def common_words(
    generator: Generator, lists: Lists, sources: Sources, least: int, longest: int
) -> Iterator[Values]:
    """Words that a corpus uses `least` times or more, not longer than `longest`."""
    for word in shuffled(generator, wordnet(sources, lists).common(least, longest=longest)):
        yield {"word": word}


def _meanings(sources: Sources, lists: Lists) -> tuple[WordNet, dict[str, str]]:
    net = wordnet(sources, lists)
    opposites = [[pair["word"], pair["opposite"]] for pair in lists["opposites"]]
    return net, net.groups([*map(str.split, lists["synonyms"]), *opposites])


@table("wordnet")
def definitions(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """Common words with a short definition of the meaning that they mostly have."""
    net, group = _meanings(sources, lists)
    odd = re.compile("|".join(lists["odd_in_definitions"]))
    rows, weights = [], []
    for word, (sense, *_) in net.senses.items():
        text = net.synsets[sense.synset].gloss
        own = re.search(rf"\b{word}", text)
        short = 2 < len(text.split()) <= DEFINITION_WORDS and not own and not odd.search(text)
        main = word not in lists["unclear_words"] and sense.count >= max(DEFINED, 0.5 * net.count(word))
        if short and main and "(" not in text and len(word) > 3 and sense.synset[-1] in "nv":
            rows.append({"word": word, "definition": text, "group": group[sense.synset]})
            weights.append(sense.count**0.5)
    yield from shuffled(generator, rows, weights)


def _everyday(pairs: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """The answers to each word that somebody wrote down."""
    right: dict[str, list[str]] = {}
    for word, answers in pairs:
        right.setdefault(word, []).extend(answers)
    return right


@table("wordnet")
def synonyms(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """Words with others of the same meaning; everyday words and every word of every meaning in WordNet are right.

    Everyday words come first; then those whose main meaning the answer shares, the more frequent of two asking.
    """
    net, group = _meanings(sources, lists)
    everyday = [line.split() for line in lists["synonyms"]]
    right = _everyday([(word, [o for o in words if o != word]) for words in everyday for word in words[:2]])
    seen = {frozenset((word, others[0])) for word, others in right.items()}
    first = shuffled(generator, [word for word in right if word in net.senses])
    for word in (*first, *net.common(COMMON)):
        main = net.senses[word][0]
        others = [
            other
            for other in net.synsets[main.synset].words
            if main.count >= MAIN * net.count(word) and net.main(other) == main.synset
            if net.count(other) >= COMMON and SequenceMatcher(None, word, other).ratio() <= SPELLING
        ]
        best = right.get(word, [max(others, key=net.count, default="")])[0]
        if best and (word in right or frozenset((word, best)) not in seen):
            seen.add(frozenset((word, best)))
            same = [other for sense in net.senses[word] for other in net.synsets[sense.synset].words if other != word]
            answers = [best, *right.get(word, []), *(other.replace("_", " ") for other in same)]
            yield {"word": word, "synonyms": answers, "group": group[main.synset]}


@table("wordnet")
def antonyms(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """Words with their opposites; everyday words first, then those whose main meanings WordNet opposes."""
    net, group = _meanings(sources, lists)
    both_ways = [pair[::step] for pair in map(list, map(dict.values, lists["opposites"])) for step in (1, -1)]
    right = _everyday([(word, [opposite]) for word, opposite in both_ways])
    first = shuffled(generator, [word for word in right if word in net.senses])
    for word in (*first, *net.common(COMMON)):
        pointed = [
            (net.synsets[target], target, there, sense)
            for sense in net.senses[word]
            for target, here, there in net.synsets[sense.synset].antonyms
            if here == sense.number and target in net.synsets
        ]
        main = net.senses[word][0].synset
        best = [
            synset.words[there]
            for synset, target, there, sense in pointed
            if sense.synset == main and net.main(synset.words[there]) == target
            if word not in lists["without_opposite"]
        ]
        if answers := right.get(word, best):
            same = [other.replace("_", " ") for synset, *_ in pointed for other in synset.words]
            yield {"word": word, "opposites": [*answers, *same], "group": group[main]}


def read_forms(path: Path) -> Forms:
    """Forms by word and part of speech, each with its variants. Raises UserError naming file and row."""
    forms = {}
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise bad_row(path, 1, f"not a gzipped table of text: {error}") from None
    for row, line in enumerate(lines, 1):
        word, part, *found = f"{line},".split(",") if "," not in line else line.split(",")
        if part not in COLUMNS or len(found) != COLUMNS[part] - 2:
            raise bad_row(path, row, f"{line!r} is not word, part of speech and its forms")
        forms[word, part] = [variants.split("/") if variants else [] for variants in found]
    return forms


def _common(generator: Generator, lists: Lists, sources: Sources, part: str, least: int) -> Iterator[Any]:
    """Common words with their forms, those used most earlier."""
    net, forms = wordnet(sources, lists), sources.read(read_forms, "lemminflect")
    letter = part[0]
    words = [
        word
        for word in net.common(least, letter, longest=10)
        if (word, part) in forms and net.count(word, letter) >= 0.5 * net.count(word)
    ]
    for word in shuffled(generator, words, [net.count(word, letter) ** 0.5 for word in words]):
        yield word, forms[word, part]


@table("wordnet", "lemminflect")
def plurals(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """Nouns that can be counted, with their plural; everyday nouns first."""
    forms = sources.read(read_forms, "lemminflect")
    written = {row["noun"]: row["plural"] for row in lists["plurals"]}
    everyday = shuffled(generator, [w for w in (*written, *lists["everyday_nouns"]) if (w, "noun") in forms])
    nouns = [(word, forms[word, "noun"]) for word in everyday]
    for word, (variants, *_) in (*nouns, *_common(generator, lists, sources, "noun", 20)):
        found = [written[word]] if word in written else variants
        counted = len(found) == 1 and word not in lists["not_counted"]
        if counted and (found[0] != word or (word in lists["same_in_plural"] and not word.endswith("s"))):
            yield {"word": word, "plural": found[0]}


@table("wordnet", "lemminflect")
def past_tenses(generator: Generator, lists: Lists, sources: Sources) -> Iterator[Values]:
    """Verbs with their simple past in plain use; none where it is not clear which variant that is."""
    shown = [row["shown"] for row in lists["shown_verbs"]]
    for word, (past, *_) in _common(generator, lists, sources, "verb", 8):
        plain = len(past) == 1 or (past and past[0].endswith("ed"))
        if plain and word not in lists["odd_verbs"] and word not in shown:
            yield {"word": word, "past": past}


@table("wordnet", "lemminflect")
def adjectives(
    generator: Generator, lists: Lists, sources: Sources, degree: int, ending: str, long_form: str
) -> Iterator[Values]:
    """Adjectives that take -er or -est; long ones may also be compared with more or most."""
    for word, variants in _common(generator, lists, sources, "adj", 3):
        found, long = variants[degree], LONG.fullmatch(word)
        # A y between vowels, as in loyal, parts syllables; an e at the end is silent.
        one = not long and len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[aeiou])y(?=[aeiou])|e$", "-", word))) == 1
        # The table has forms such as trueer.
        plain = len(found) == 1 and found[0].endswith(word[-1] + ending[1:] if word.endswith("e") else ending)
        plain = plain and not found[0].endswith(f"e{ending}")
        if plain and word not in lists["not_compared"] and (one or long):
            yield {"word": word, "forms": [found[0], *([f"{long_form} {word}"] if long else [])]}
