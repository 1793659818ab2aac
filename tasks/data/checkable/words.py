"""Meanings of words, from WordNet: definition, synonym, opposite."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.data.checkable.everyday import OPPOSITES, SYNONYMS
from tasks.data.checkable.kind import Item, Sources, kind, shuffled, word_list
from tasks.data.checkable.wordnet import Synset, WordNet, wordnet

DEFINITION_WORDS = 12  # a longer one is left out
SPELLING = 0.7  # share of common letters above which two words are taken for spellings of one, as color and colour
DEFINED = 8  # times that a tagged corpus uses a word before its definition is asked for
COMMON = 5  # times that a tagged corpus uses a word before it is asked about
MAIN = 0.25  # share of a word's uses that a meaning must have to be asked about
# In an odd meaning first.
UNCLEAR = frozenset(
    word_list("lick soil plant kind supper mechanism decomposition information affair celebrate marketing personnel")
)
NO_OPPOSITE = frozenset(
    word_list(
        "all any both each either her here him his its many more most one our some that there this two other latter "
        "like middle"
    )
)
ODD = re.compile(r"\b(Roman|Greek|Bible|Christian|used (with|as|in|to)|especially|etc|such as|e\.g)\b|[`'\"\[]")


def _gloss(synset: Synset) -> str:
    return re.sub(r"^\([^)]*\)\s*", "", synset.definition.partition(";")[0]).strip()


def groups(net: WordNet) -> dict[str, str]:
    """The group of each synset: an equal definition, opposites or everyday words of one meaning join them."""
    number = {key: n for n, key in enumerate(net.synsets)}
    main = {word: number[senses[0].synset] for word, senses in net.senses.items()}
    known = [[main[word] for word in words if word in main] for words in (*SYNONYMS, *OPPOSITES)]
    pairs = [pair for meanings in known for pair in pairwise(meanings)]
    by_gloss: dict[str, int] = {}
    for key, synset in net.synsets.items():
        pairs += [(number[key], number[target]) for target, _, _ in synset.antonyms if target in number]
        pairs.append((number[key], by_gloss.setdefault(_gloss(synset), number[key])))
    left, right = np.array(pairs).T
    graph = coo_array((np.ones(len(pairs), bool), (left, right)), shape=(len(number), len(number)))
    parts = connected_components(graph, directed=False)[1]
    return {key: f"meaning: {part}" for key, part in zip(net.synsets, parts, strict=True)}


def _main(net: WordNet, word: str) -> str | None:
    """The synset of a word's most frequent meaning."""
    return net.senses[word][0].synset if word in net.senses else None


def _order(generator: np.random.Generator, items: list[tuple[int, Item]]) -> Iterator[Item]:
    yield from shuffled(generator, [item for _, item in items], [count**0.5 for count, _ in items]) if items else ()


@kind(
    "Define the word.\n{word}",
    "What does the word {word} mean?",
    "Explain the meaning of {word} in a few words.",
    "define {word}",
    "Could you tell me what this word means, please?\n{word}",
    "{word}: meaning?",
    "What is the meaning of this word?\n{word}",
    "I came across the word {word}. What does it mean?",
    "Describe in one line what {word} means.",
    "Write a dictionary entry, one short line.\n{word}",
    "How would a dictionary explain {word}?",
    "Explain this word to me: {word}",
    "Give a short definition of {word}.",
    "What is meant by the word '{word}'?",
    needs=["wordnet"],
    checkable=False,
)
def definition(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A short definition of a common word in the meaning that it mostly has."""
    net = wordnet(sources)
    group = groups(net)
    items = []
    for word, (sense, *_) in net.senses.items():
        text = _gloss(net.synsets[sense.synset])
        own = re.search(rf"\b{word}", text)
        short = 2 < len(text.split()) <= DEFINITION_WORDS and not own and not ODD.search(text)
        main = word not in UNCLEAR and sense.count >= max(DEFINED, 0.5 * net.count(word))
        if short and main and text.count("(") == 0 and len(word) > 3 and sense.synset[-1] in "nv":
            output = text[0].upper() + text[1:] + "."
            items.append((sense.count, Item(word, output, {"word": word}, group=group[sense.synset])))
    yield from _order(generator, items)


@kind(
    "Give a synonym of the word.\n{word}",
    "What is another word for {word}?",
    "Name a word with the same meaning.\n{word}",
    "synonym of {word}",
    "Which word means the same as {word}?",
    "Please find me a word that I could use instead of {word}.",
    "Say {word} with a different word.",
    "I keep repeating {word}. What else could I write?",
    "Replace this word by one that means the same.\n{word}",
    "another word: {word}",
    "Find an equivalent for the word {word}.",
    "What can I say instead of {word}?",
    "Could you name a word close in meaning to {word}?",
    "Suggest a synonym for this word.\n{word}",
    "Tell me one synonym of '{word}'.",
    needs=["wordnet"],
    told=["A synonym for '{word}' is '{answer}'.", "Another word for '{word}' is '{answer}'."],
)
def synonym(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A word of the same meaning; everyday words and every word of every meaning that WordNet knows are right.

    Everyday words first; then those whose main meaning the answer shares, the more frequent of two asking.
    """
    net = wordnet(sources)
    group = groups(net)
    right: dict[str, list[str]] = {}
    for words in SYNONYMS:
        for word in words[:2]:
            right.setdefault(word, []).extend(other for other in words if other != word)
    seen = {frozenset((word, others[0])) for word, others in right.items()}
    everyday = shuffled(generator, [word for word in right if word in net.senses])
    for word in (*everyday, *net.common(COMMON)):
        main = net.senses[word][0]
        others = [
            other
            for other in net.synsets[main.synset].words
            if main.count >= MAIN * net.count(word) and _main(net, other) == main.synset
            if net.count(other) >= COMMON and SequenceMatcher(None, word, other).ratio() <= SPELLING
        ]
        best = right.get(word, [max(others, key=net.count, default="")])[0]
        if best and (word in right or frozenset((word, best)) not in seen):
            seen.add(frozenset((word, best)))
            same = [other for sense in net.senses[word] for other in net.synsets[sense.synset].words if other != word]
            also = [*right.get(word, []), *(other.replace("_", " ") for other in same)]
            yield Item(word, best, {"word": word}, also, group[main.synset])


@kind(
    "Give the opposite of the word.\n{word}",
    "What is the opposite of {word}?",
    "Name an antonym of the word.\n{word}",
    "opposite of {word}",
    "Which word means the opposite of {word}?",
    "I need the opposite of the word {word}, please.",
    "{word} is the reverse of what?",
    "Turn the word into its opposite.\n{word}",
    "antonym: {word}",
    "What word is at the other end of the scale from {word}?",
    "I wrote {word}, but I mean the exact opposite. Which word is that?",
    "Find a word that means the reverse.\n{word}",
    "Could you say which word is opposite in meaning to {word}?",
    "Say the contrary of this word.\n{word}",
    "Tell me an antonym for '{word}'.",
    needs=["wordnet"],
    told=["The opposite of '{word}' is '{answer}'.", "An antonym of '{word}' is '{answer}'."],
)
def antonym(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The opposite of a word; everyday words first, then those whose main meanings WordNet opposes."""
    net = wordnet(sources)
    group = groups(net)
    right: dict[str, list[str]] = {}
    for pair in OPPOSITES:
        for word, answer in (pair, pair[::-1]):
            right.setdefault(word, []).append(answer)
    everyday = shuffled(generator, [word for word in right if word in net.senses])
    for word in (*everyday, *net.common(COMMON)):
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
            if sense.synset == main and _main(net, synset.words[there]) == target and word not in NO_OPPOSITE
        ]
        if answers := right.get(word, best):
            same = [other.replace("_", " ") for synset, *_ in pointed for other in synset.words]
            yield Item(word, answers[0], {"word": word}, [*answers, *same], group[main])
