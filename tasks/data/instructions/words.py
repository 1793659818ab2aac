"""Facts of words: synonyms and opposites from WordNet, forms from lemminflect's table."""

import gzip
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

from tasks.data.instructions.choose import Generator, Lists, Sources, Values, shuffled
from tasks.data.instructions.wordnet import WordNet, read_wordnet

SPELLING = 0.7  # similarity above which two words count as spellings of one
COMMON = 5
MAIN = 0.25  # least share of a word's uses in the meaning that a synonym shares
# Two syllables that take -er: an open syllable, or -y, -le, -ow, -ver at the end.
LONG = re.compile(r"[a-z]*[aeiouy][a-z]*([^aeiou](y|le)|ow|ver)|quiet")

Forms = dict[tuple[str, str], list[list[str]]]


def common_words(generator: Generator, sources: Sources, least: int, longest: int) -> Iterator[Values]:
    """Words of at most `longest` letters that a corpus uses at least `least` times."""
    for word in shuffled(generator, sources.read(read_wordnet, "wordnet").common(least, longest=longest)):
        yield {"word": word}


def _meanings(sources: Sources) -> tuple[WordNet, dict[str, str], list[list[str]], list[list[str]]]:
    """WordNet, the groups of its meanings, and the everyday words of one meaning and of opposite ones."""
    same = [line.split() for line in sources.lists["synonyms"]]
    opposite = [[pair["word"], pair["opposite"]] for pair in sources.lists["opposites"]]
    net = sources.read(read_wordnet, "wordnet")
    return net, net.groups([*same, *opposite]), same, opposite


def synonyms(generator: Generator, sources: Sources) -> Iterator[Values]:
    """Words with their synonyms. Everyday synonyms are right, and so is each word that WordNet lists for any meaning.

    Everyday words come first, then words whose main meaning the answer shares. Each pair is asked once, about its more
    frequent word.
    """
    net, group, same, _ = _meanings(sources)
    right: dict[str, list[str]] = {}
    for words in same:
        for word in words[:2]:
            right.setdefault(word, []).extend(other for other in words if other != word)
    seen = {frozenset((word, others[0])) for word, others in right.items()}
    everyday = shuffled(generator, [word for word in right if word in net.senses])
    for word in (*everyday, *net.common(COMMON)):
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
            all_words = [other for sense in net.senses[word] for other in net.synsets[sense.synset].words]
            known = [other.replace("_", " ") for other in all_words if other != word]
            yield {"word": word, "synonyms": [best, *right.get(word, []), *known], "group": group[main.synset]}


def antonyms(generator: Generator, sources: Sources) -> Iterator[Values]:
    """Words with their opposites: everyday words first, then words whose main meanings are opposites in WordNet."""
    net, group, _, opposite = _meanings(sources)
    right: dict[str, list[str]] = {}
    for pair in opposite:
        for word, answer in (pair, pair[::-1]):
            right.setdefault(word, []).append(answer)
    everyday = shuffled(generator, [word for word in right if word in net.senses])
    for word in (*everyday, *net.common(COMMON)):
        main = net.senses[word][0].synset
        pointed = [
            (target, net.synsets[target].words, there, sense.synset == main)
            for sense in net.senses[word]
            for target, here, there in net.synsets[sense.synset].antonyms
            if here == sense.number and target in net.synsets
        ]
        best = [
            words[there] for target, words, there, of_main in pointed if of_main and net.main(words[there]) == target
        ]
        if answers := right.get(word, best if word not in sources.lists["without_opposite"] else []):
            same = [other.replace("_", " ") for _, words, *_ in pointed for other in words]
            yield {"word": word, "opposites": [*answers, *same], "group": group[main]}


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


def plurals(generator: Generator, sources: Sources) -> Iterator[Values]:
    """Countable nouns with their plural, everyday nouns first."""
    forms, lists = sources.read(read_forms, "lemminflect"), sources.lists
    written = {row["noun"]: row["plural"] for row in lists["plurals"]}
    everyday = shuffled(generator, [w for w in (*written, *lists["everyday_nouns"]) if (w, "noun") in forms])
    nouns = [(word, forms[word, "noun"]) for word in everyday]
    for word, (variants, *_) in (*nouns, *_common(generator, sources, "noun", 20)):
        found = [written[word]] if word in written else variants
        is_same = found[:1] == [word]
        if len(found) == 1 and word not in lists["not_counted"] and (not is_same or word in lists["same_in_plural"]):
            yield {"word": word, "plural": found[0]}


def past_tenses(generator: Generator, sources: Sources) -> Iterator[Values]:
    """Verbs with their simple past. Verbs with several forms are left out, unless the first is the regular one."""
    left_out = {*sources.lists["odd_verbs"], *(row["shown"] for row in sources.lists["shown_verbs"])}
    for word, (past, *_) in _common(generator, sources, "verb", 8):
        if word not in left_out and (len(past) == 1 or (past and past[0].endswith("ed"))):
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
