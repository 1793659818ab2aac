"""Forms of words, from lemminflect's table: plural, past tense, comparison."""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tasks.data.checkable.kind import Item, Sources, bad_row, kind, pick, shuffled, word_list
from tasks.data.checkable.wordnet import wordnet

COLUMNS = {"noun": 3, "verb": 6, "adj": 4, "adv": 4}
UNCHANGED = frozenset(["sheep", "deer", "series", "species", "aircraft"])
NOUNS = {"leaf": "leaves", "potato": "potatoes", "tomato": "tomatoes", "day": "days", "key": "keys", "person": "people"}
NOUNS |= {"goose": "geese", "piano": "pianos", "box": "boxes", "bus": "buses", "wish": "wishes", "church": "churches"}
EVERYDAY = word_list(
    "child foot tooth mouse man woman knife wolf wife life half shelf thief loaf baby city country lady story toy "
    "boy dish watch fox glass peach match brush class dress fly cherry penny hobby berry lunch bench witch tax"
)
NOT_COUNTED = frozenset(
    word_list(
        "youth deal advice anything authorities christianity clothing communism content damage earth everybody "
        "everything evidence furniture god hatred help kind knowledge literature lord mankind mathematics means "
        "nothing one other others people plenty police poor reality rest rich society something somebody someone "
        "summer thanks there today tomorrow tonight yesterday weather"
    )
)
ODD_VERBS = frozenset(word_list("bet fit quit wet bid shit lie can may must shall will would should could might ought"))
NOT_COMPARED = frozenset(
    word_list(
        "real just like bad good well far much many little own even sole dead wrong right due mere drunk blind able "
        "bare apt exact rapid modern abrupt wicked mature crude slack severe feeble prime square north south west "
        "east fit ill key ample drab frank glad prone numb purple fiery queer homely timely unlikely lacy uneasy"
    )
)
LONG = re.compile(r"[a-z]*[aeiouy][a-z]*([^aeiou](y|le)|ow|ver)|quiet")  # longer than a syllable, and yet takes -er
SHOWN = {"look": "looked", "help": "helped", "play": "played", "call": "called", "ask": "asked", "want": "wanted"}

Forms = dict[tuple[str, str], list[list[str]]]


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


def _forms(sources: Sources) -> Forms:
    return sources.read(read_forms, "lemminflect")


def _common(generator: np.random.Generator, sources: Sources, part: str, least: int) -> list[str]:
    """Common words with forms, those used most earlier."""
    net, forms = wordnet(sources), _forms(sources)
    letter = {"noun": "n", "verb": "v", "adj": "a"}[part]
    words = [
        word
        for word in net.common(least, letter, longest=10)
        if (word, part) in forms and net.count(word, letter) >= 0.5 * net.count(word)
    ]
    return shuffled(generator, words, [net.count(word, letter) ** 0.5 for word in words]) if words else []


@kind(
    "Write the plural of the word.\n{word}",
    "What is the plural of {word}?",
    "plural of {word}",
    "Give me the plural form of the noun.\n{word}",
    "One {word}, two what?",
    "Please put this noun into the plural: {word}",
    "I have one {word}. You have several what?",
    "Turn this noun from singular into plural.\n{word}",
    "{word} in the plural",
    "What do you call two or three of these?\n{word}",
    "How is the plural of {word} spelled?",
    "Which form of {word} goes with the number five?",
    "Could you make this word plural for me? {word}",
    "singular: {word}, plural:",
    "How do you say more than one {word}?",
    "Tell me the plural form of '{word}'.",
    needs=["wordnet", "lemminflect"],
    told=["The plural of '{word}' is '{answer}'.", "The plural form of '{word}' is '{answer}'."],
)
def plural(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The plural of a noun that can be counted."""
    forms = _forms(sources)
    everyday = shuffled(generator, [word for word in (*NOUNS, *EVERYDAY) if (word, "noun") in forms])
    for word in (*everyday, *_common(generator, sources, "noun", 20)):
        found = [NOUNS[word]] if word in NOUNS else forms[word, "noun"][0]
        counted = len(found) == 1 and (found[0] != word or word in UNCHANGED) and word not in NOT_COUNTED
        if counted and not (word.endswith("s") and found[0] == word):
            yield Item(word, found[0], {"word": word}, group=f"lemma: {word}")


def _past(variants: list[str]) -> list[str]:
    """Variants of a past tense in plain use, the plain one first; none where it is not clear which that is."""
    return variants if len(variants) == 1 or (variants and variants[0].endswith("ed")) else []


def _verbs(generator: np.random.Generator, sources: Sources) -> Iterator[tuple[str, list[str]]]:
    forms = _forms(sources)
    for word in _common(generator, sources, "verb", 8):
        if word not in ODD_VERBS and word not in SHOWN and (past := _past(forms[word, "verb"][0])):
            yield word, past


@kind(
    "Write the past tense of the verb.\n{word}",
    "What is the past tense of {word}?",
    "past tense of {word}",
    "Put the verb into the simple past.\n{word}",
    "Today I {word}. Yesterday I did what? Answer with the verb.",
    "Please give me the past form of the verb {word}.",
    "Turn this verb into the past tense.\n{word}",
    "Which form of {word} goes with 'yesterday'?",
    "present: {word}, past:",
    "They {word} every day. What did they do last week? One word is enough.",
    "I need the past tense of the verb '{word}'.",
    "How is the past tense of {word} spelled?",
    "What is the second form of this verb?\n{word}",
    "Could you make it simple past? {word}",
    "How do you say {word} in the past?",
    "Tell me the simple past of '{word}'.",
    needs=["wordnet", "lemminflect"],
    told=["The past tense of '{word}' is '{answer}'."],
)
def past_tense(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The simple past of a verb."""
    for word, past in _verbs(generator, sources):
        yield Item(word, past[0], {"word": word}, past, f"lemma: {word}")


@kind(
    "And of {word}?",
    "And the past tense of {word}?",
    "What about {word}?",
    "Now do {word}.",
    "And {word}?",
    "The same for {word}, please.",
    "{word}?",
    "Next: {word}",
    "And if the verb is {word}?",
    "Good. Now {word}.",
    "Try it with {word}.",
    "Thanks, and {word}?",
    "Then {word}, please.",
    "How about {word}?",
    "And what is it for {word}?",
    needs=["wordnet", "lemminflect"],
)
def past_tense_of_another(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A second verb, asked for in few words after a first one."""
    for word, past in _verbs(generator, sources):
        shown = pick(generator, list(SHOWN))
        asked = pick(generator, ["What is the past tense of {}?", "Give me the past tense of {}.", "past tense of {}"])
        yield Item(word, past[0], {"word": word}, past, f"lemma: {word}", [asked.format(shown), SHOWN[shown]])


def _compared(generator: np.random.Generator, sources: Sources, degree: int) -> Iterator[Item]:
    forms = _forms(sources)
    for word in _common(generator, sources, "adj", 3):
        found, ending = forms[word, "adj"][degree], ("er", "est")[degree]
        long = LONG.fullmatch(word)
        # A y between vowels, as in loyal, parts syllables; an e at the end is silent.
        one = not long and len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[aeiou])y(?=[aeiou])|e$", "-", word))) == 1
        # The table has forms such as trueer.
        plain = len(found) == 1 and found[0].endswith(word[-1] + ending[1:] if word.endswith("e") else ending)
        plain = plain and not found[0].endswith(f"e{ending}")
        if plain and word not in NOT_COMPARED and (one or long):
            also = [f"{('more', 'most')[degree]} {word}"] if long else []
            yield Item(word, found[0], {"word": word}, also, f"lemma: {word}")


@kind(
    "Write the comparative of the adjective.\n{word}",
    "What is the comparative of {word}?",
    "comparative of {word}",
    "Give the form of {word} that goes with 'than'.",
    "This one is {word}, that one is even what?",
    "Please compare with this adjective, in one word: {word}",
    "Fill in the right form of {word}: A is ___ than B.",
    "Turn the adjective into its comparative.\n{word}",
    "base form: {word}, comparative:",
    "How do you say 'more {word}' in one word?",
    "I need the comparative of the adjective '{word}'.",
    "How does {word} change before 'than'?",
    "How is the comparative of {word} spelled?",
    "Could you put this adjective into the comparative for me? {word}",
    "Which form of {word} do I use to compare two things?",
    "Tell me the comparative form of '{word}'.",
    needs=["wordnet", "lemminflect"],
    told=["The comparative of '{word}' is '{answer}'.", "The comparative form of '{word}' is '{answer}'."],
)
def comparative(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The comparative of an adjective that takes -er."""
    yield from _compared(generator, sources, 0)


@kind(
    "Write the superlative of the adjective.\n{word}",
    "What is the superlative of {word}?",
    "superlative of {word}",
    "Give the form of {word} that goes with 'the ... of all'.",
    "Many are {word}, but this one is the what?",
    "Please give me the highest degree of this adjective: {word}",
    "Fill in the right form of {word}: This is the ___ of them all.",
    "Turn the adjective into its superlative.\n{word}",
    "base form: {word}, superlative:",
    "How do you say 'most {word}' in one word?",
    "I need the superlative of the adjective '{word}'.",
    "One of ten is more {word} than the rest. So it is the what?",
    "How is the superlative of {word} spelled?",
    "Could you put this adjective into the superlative for me? {word}",
    "Which form of {word} do I use for the one that beats all others?",
    "Tell me the superlative form of '{word}'.",
    needs=["wordnet", "lemminflect"],
    told=["The superlative of '{word}' is '{answer}'.", "The superlative form of '{word}' is '{answer}'."],
)
def superlative(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The superlative of an adjective that takes -est."""
    for item in _compared(generator, sources, 1):
        forms = [item.output, *item.also]
        yield item._replace(also=[*forms, *(f"the {form}" for form in forms)])
