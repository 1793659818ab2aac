"""How words sound, from the CMU Pronouncing Dictionary: rhymes and syllables."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tasks.data.checkable.kind import Item, Sources, bad_row, kind, shuffled, word_list
from tasks.data.checkable.wordnet import COARSE, COARSE_WORDS, PLAIN_WORD, wordnet
from tasks.data.textfiles import read_text

COMMON = 10  # times that a tagged corpus uses a word that asks
RHYMES = 4  # a word with fewer is not asked about
LETTERS = 7
PLAIN_RHYMES = frozenset(
    word_list(
        "be by can do for go he her him it me my no not now of on or out she so than that the them then there they "
        "this to too too up us we what when where who why you your"
    )
)
SYLLABLES = {1: "one", 2: "two", 3: "three", 4: "four"}

Sounds = dict[str, list[tuple[str, ...]]]


def read_sounds(path: Path) -> Sounds:
    """The pronunciations of each plain word, as phonemes with their stress. Raises UserError naming file and row."""
    sounds = defaultdict(list)
    for row, line in enumerate(read_text(path).splitlines(), 1):
        if line.startswith(";;;"):  # a comment
            continue
        word, *phonemes = line.partition("#")[0].split() or [""]
        if not phonemes or not all(re.fullmatch(r"[A-Z]+[0-2]?", phoneme) for phoneme in phonemes):
            raise bad_row(path, row, f"{line!r} is not a word and its phonemes")
        word = re.sub(r"\(\d\)$", "", word)
        if word.isalpha() and word.isascii():
            sounds[word].append(tuple(phonemes))
    return dict(sounds)


def _rhyme(phonemes: tuple[str, ...], stresses: str = "12") -> tuple[str, ...]:
    """The sounds from the last vowel on that has one of the stresses."""
    stressed = [place for place, phoneme in enumerate(phonemes) if phoneme[-1] in stresses]
    return tuple(phoneme.rstrip("012") for phoneme in phonemes[stressed[-1] if stressed else 0 :])


def _onset(phonemes: tuple[str, ...]) -> tuple[str, ...]:
    """The sound before the rhyme: words that share it, as attend and extend, only repeat a syllable."""
    place = len(phonemes) - len(_rhyme(phonemes))
    return phonemes[max(place - 1, 0) : place]


def _syllables(phonemes: tuple[str, ...]) -> int:
    return sum(phoneme[-1].isdigit() for phoneme in phonemes)


@kind(
    "Name a word that rhymes with {word}.",
    "What rhymes with {word}?",
    "Give me a rhyme for the word.\n{word}",
    "rhyme for {word}",
    "I need a word that rhymes with {word}, please.",
    "Which word has the same ending sound?\n{word}",
    "{word} rhymes with what?",
    "Tell me one word that sounds like {word} at the end.",
    "I am writing a poem. A line ends in {word}; what could the next one end in, to rhyme?",
    "a word that rhymes: {word}",
    "Which word makes a rhyme with {word}?",
    "Give one rhyming word.\n{word}",
    "Could you help me with a rhyme on {word}?",
    "Find a rhyme.\n{word}",
    "Can you think of a word that rhymes with '{word}'?",
    needs=["wordnet", "cmudict"],
    told=["A word that rhymes with '{word}' is '{answer}'.", "'{word}' rhymes with '{answer}'."],
)
def rhyme(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """A word that ends in the same sounds; every one that is no homophone is right."""
    net, sounds = wordnet(sources), sources.read(read_sounds, "cmudict")
    clean = [synset for synset in net.synsets.values() if not COARSE.search(synset.definition)]
    known = {word for synset in clean for word in synset.words if PLAIN_WORD.fullmatch(word)} - COARSE_WORDS
    families = defaultdict(list)
    for word in sounds:
        if word in known or word in PLAIN_RHYMES:
            for phonemes in sounds[word]:
                families[_rhyme(phonemes)].append((word, phonemes))
    asking = [word for word in net.common(COMMON, longest=LETTERS) if len(sounds.get(word, ())) == 1]
    for word in shuffled(generator, asking, [net.count(word) ** 0.5 for word in asking]) if asking else []:
        own = sounds[word][0]
        if _syllables(own) > 2 or len(_rhyme(own)) < 2 or _rhyme(own) != _rhyme(own, "1"):
            continue
        rhymes = [other for other, phonemes in families[_rhyme(own)] if phonemes != own and other != word]
        rhymes = [other for other in rhymes if own not in sounds[other]]
        plain = [
            other
            for other in rhymes
            if len(sounds[other]) == 1 and net.count(other) >= 3 and len(other) <= LETTERS
            if _rhyme(sounds[other][0], "1") == _rhyme(own) and _syllables(sounds[other][0]) == _syllables(own)
            if _onset(sounds[other][0]) != _onset(own)
        ]
        alike = [other for size in (3, 2) for other in plain if other[-size:] == word[-size:]]
        if alike and len(set(rhymes)) >= RHYMES:
            best = max(alike, key=lambda other: (other[-3:] == word[-3:], net.count(other)))
            yield Item(word, best, {"word": word}, sorted(set(rhymes)), f"rhyme: {' '.join(_rhyme(own))}")


@kind(
    "How many syllables does {word} have?",
    "Count the syllables of the word.\n{word}",
    "number of syllables in {word}",
    "How many syllables are there in the word {word}?",
    "Please tell me how many syllables this word has: {word}",
    "Say how many syllables you hear in {word}.",
    "{word}: how many syllables?",
    "Clap the word {word}: how many syllables is that?",
    "Give the number of syllables.\n{word}",
    "syllables in {word}",
    "Into how many syllables can {word} be split?",
    "I need to know how many syllables {word} has.",
    "Is this a word of one, two or three syllables?\n{word}",
    "In how many syllables is this word spoken?\n{word}",
    "What is the syllable count of '{word}'?",
    needs=["wordnet", "cmudict"],
)
def syllables(generator: np.random.Generator, sources: Sources) -> Iterator[Item]:
    """The number of syllables of a word whose pronunciations all have the same."""
    net, sounds = wordnet(sources), sources.read(read_sounds, "cmudict")
    by_count = defaultdict(list)
    for word in net.common(COMMON):
        counts = {_syllables(phonemes) for phonemes in sounds.get(word, ())}
        # Where an English speaker would argue, as about fire, hour or every, spelling and sound differ.
        vowels = len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[^aeioul])e$|(?<=[^td])ed$", "", word)))
        if (
            counts == {vowels}
            and vowels in SYLLABLES
            and not re.search(r"(?:[iou]|ow|ay)(?:re|er|r)$|[aeiou]{3}|ism$", word)
        ):
            by_count[vowels].append(word)
    for words in zip(*(shuffled(generator, by_count[n]) for n in (1, 2, 3)), strict=False):
        for number, word in enumerate(words, 1):
            yield Item(word, str(number), {"word": word}, [SYLLABLES[number], f"{number} syllable{'s' * (number > 1)}"])
