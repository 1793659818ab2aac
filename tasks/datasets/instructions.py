"""Instruction rows: conversations, facts about words from WordNet, and people's own files."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ftfy
import numpy as np
import pandas as pd
import yaml
from pydantic import Field

from llm.errors import UserError
from tasks.data.splits import Split
from tasks.data.textfiles import parse_json, raw_files, read_json_lines, read_text
from tasks.datasets import Dataset

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

COLUMNS = ["id", "source", "kind", "group", "instruction", "input", "output", "checkable"]
KINDS = ["conversation", "definition", "synonym", "antonym", "own"]
CHECKABLE = ["synonym", "antonym"]
PHRASINGS = {
    "definition": ["Define the word.", "What does this word mean?", "Explain the meaning of this word in a few words."],
    "synonym": ["Give a synonym of the word.", "Name a word with the same meaning.", "Which word means the same?"],
    "antonym": ["Give the opposite of the word.", "Name an antonym of the word.", "Which word means the opposite?"],
}
DEFINITION_WORDS = 20  # a longer one is left out
SPELLING = 0.7  # share of common letters above which two words are taken for spellings of one, as color and colour
PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
SENSE_TYPES = {"1": "n", "2": "v", "3": "a", "4": "r", "5": "a"}  # in a sense key; 5 is an adjective's satellite
PLAIN_WORD = re.compile(r"[a-z]{3,}")
COARSE = re.compile(r"\b(slurs?|obscen|offensive|vulgar|derogat|disparag)")

logger = logging.getLogger(__name__)


class Params(Split):
    """How instruction rows are made, cleaned and split."""

    definitions: int = Field(ge=0)
    """WordNet rows that ask for a definition."""
    synonyms: int = Field(ge=0)
    """WordNet rows that ask for a synonym."""
    antonyms: int = Field(ge=0)
    """WordNet rows that ask for an antonym."""


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


class Fact(NamedTuple):
    """A question about a word and its answer."""

    word: str
    answer: str
    sense: Sense


def read_instructions(folder: Path, params: Params) -> pd.DataFrame:
    """Read every file below `folder` into a table with the columns COLUMNS.

    - `.yml` is a ChatterBot corpus: `conversations`, each a list of turns; every turn but the last asks the next one,
      and a conversation of one turn asks nothing.
    - WordNet's `data.*` with its `index.sense`: as many definitions, synonyms and antonyms as `params` says, drawn with
      its seed, common words more likely; the word is the input, and single words answer the latter two.
    - `.json` (a list) and `.jsonl` are people's own rows: instruction, output and, if any, input.

    `checkable` says that an exact match of the output makes sense. Rows of one `group` (the same question, the same
    word or its opposite) must not straddle splits. Raises UserError with file, row and reason for what can't be read.
    """
    rows = []
    for path in raw_files(folder):
        name = path.relative_to(folder).as_posix()
        match path.suffix:
            case ".yml" | ".yaml":
                rows += _conversations(path, name)
            case ".json" | ".jsonl":
                rows += _own_rows(path, name)
            case ".noun":
                rows += _word_rows(path.parent, params) if path.stem == "data" else []
            case ".adj" | ".adv" | ".verb" | ".sense" if path.stem in ("data", "index"):
                pass
            case suffix:
                raise UserError(f"{path}: unknown suffix {suffix!r}; instructions are .yml, .json, .jsonl or WordNet's")
    table = pd.DataFrame(rows, columns=COLUMNS)
    logger.info("%d rows: %s", len(table), table["kind"].value_counts().to_dict())
    return table


def _question(*texts: str) -> str:
    return "question: " + " ".join(re.findall(r"\w+", " ".join(texts).lower()))


def _conversations(path: Path, name: str) -> Iterator[tuple[Any, ...]]:
    try:
        content = yaml.load(read_text(path), Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        row = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, row {row}: not YAML: {error.problem}") from None
    conversations = content.get("conversations") if isinstance(content, dict) else None
    if not isinstance(conversations, list):
        raise UserError(f"{path}: no list under `conversations`")
    for number, conversation in enumerate(conversations, 1):
        turns = conversation if isinstance(conversation, list) else [conversation]
        for turn in turns:
            if not isinstance(turn, str):
                raise UserError(f"{path}, conversation {number}: {turn!r} is not text; put it in quotes")
        mended = (ftfy.fix_text(turn).strip() for turn in turns)
        for turn, (question, answer) in enumerate(pairwise(mended), 1):
            yield f"{name}#{number}.{turn}", name, "conversation", _question(question), question, "", answer, False


def _own_rows(path: Path, name: str) -> Iterator[tuple[Any, ...]]:
    if path.suffix == ".jsonl":
        rows = read_json_lines(path)
    else:
        content = parse_json(read_text(path), path)
        if not isinstance(content, list):
            raise UserError(f"{path}: not a list of rows")
        rows = enumerate(content, 1)
    for number, row in rows:
        for key in ("instruction", "input", "output"):
            if not isinstance(row, dict) or not isinstance(row.get(key, "" if key == "input" else None), str):
                raise UserError(f'{path}, row {number}: no string under "{key}"')
        instruction, given, output = (
            ftfy.fix_text(row.get(key, "")).strip() for key in ("instruction", "input", "output")
        )
        yield f"{name}#{number}", name, "own", _question(instruction, given), instruction, given, output, False


def _synsets(folder: Path) -> dict[str, Synset]:
    """The synsets of WordNet's data files (format: wndb(5WN)), by offset and part of speech, such as `00004227-v`."""
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
                raise UserError(f"{path}, row {row}: not a synset of WordNet") from None
            synsets[f"{offset}-{letter}"] = Synset(words, antonyms, gloss.strip())
    return synsets


def _senses(folder: Path, synsets: dict[str, Synset]) -> dict[str, list[Sense]]:
    """The senses of every plain word that a tagged corpus has, the most frequent first."""
    path, counts = folder / "index.sense", {}
    for row, line in enumerate(read_text(path).splitlines(), 1):
        try:
            key, offset, _, count = line.split()
            word, _, sense = key.partition("%")
            counts[word, f"{offset}-{SENSE_TYPES[sense[0]]}"] = int(count)
        except (ValueError, LookupError):
            raise UserError(f"{path}, row {row}: not a sense of WordNet") from None
    senses = defaultdict(list)
    for key, synset in synsets.items():
        for number, word in enumerate(synset.words):
            if PLAIN_WORD.fullmatch(word) and counts.get((word, key)) and not COARSE.search(synset.definition):
                senses[word].append(Sense(counts[word, key], key, number))
    return {word: sorted(found, key=lambda sense: -sense.count) for word, found in sorted(senses.items())}


def _definitions(senses: dict[str, list[Sense]], synsets: dict[str, Synset]) -> Iterator[Fact]:
    for word, (sense, *_) in senses.items():
        text = re.sub(r"^\([^)]*\)\s*", "", synsets[sense.synset].definition.partition(";")[0]).strip()
        if text.count("(") == text.count(")") and 1 < len(text.split()) <= DEFINITION_WORDS:
            yield Fact(word, text, sense)


def _synonyms(senses: dict[str, list[Sense]], synsets: dict[str, Synset]) -> Iterator[Fact]:
    """The best known synonym in a word's main meaning that is not just another spelling of it.

    Of two words that answer each other only the more frequent one asks.
    """
    count = {(word, sense.synset): sense.count for word, found in senses.items() for sense in found}
    seen = set()
    for word, (sense, *_) in sorted(senses.items(), key=lambda item: -item[1][0].count):
        others = [
            other
            for other in synsets[sense.synset].words
            if PLAIN_WORD.fullmatch(other) and SequenceMatcher(None, word, other).ratio() <= SPELLING
        ]
        answer = max(others, key=lambda other: count.get((other, sense.synset), 0), default=None)
        if answer and (pair := frozenset((word, answer))) not in seen:
            seen.add(pair)
            yield Fact(word, answer, sense)


def _antonyms(senses: dict[str, list[Sense]], synsets: dict[str, Synset]) -> Iterator[Fact]:
    """The opposite in the most frequent meaning that has one."""
    for word, found in senses.items():
        opposites = (
            Fact(word, answer, sense)
            for sense in found
            for target, here, there in synsets[sense.synset].antonyms
            if here == sense.number and PLAIN_WORD.fullmatch(answer := re.sub(r"\W", "", synsets[target].words[there]))
        )
        if fact := next(opposites, None):
            yield fact


def _word_rows(folder: Path, params: Params) -> Iterator[tuple[Any, ...]]:
    for name in ("data.adj", "data.adv", "data.noun", "data.verb", "index.sense"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}; let `files` of the WordNet source keep it")
    synsets = _synsets(folder)
    senses = _senses(folder, synsets)
    opposite = {fact.word: fact.answer for fact in _antonyms(senses, synsets)}
    generator = np.random.default_rng(params.seed)
    for kind, facts, wanted in (
        ("definition", list(_definitions(senses, synsets)), params.definitions),
        ("synonym", list(_synonyms(senses, synsets)), params.synonyms),
        ("antonym", list(_antonyms(senses, synsets)), params.antonyms),
    ):
        if wanted > len(facts):
            logger.warning("WordNet has %d facts for %d rows of kind %s", len(facts), wanted, kind)
        if not facts:
            continue
        counts = np.array([fact.sense.count for fact in facts])
        drawn = generator.choice(len(facts), min(wanted, len(facts)), replace=False, p=counts / counts.sum())
        phrasings = generator.integers(len(PHRASINGS[kind]), size=len(drawn))
        for number, phrasing in zip(sorted(drawn), phrasings, strict=True):
            word, answer, sense = facts[number]
            group = f"word: {min(word, opposite.get(word, word))}"
            source, instruction = f"wordnet {sense.synset}", PHRASINGS[kind][phrasing]
            yield f"{kind}:{word}", source, kind, group, instruction, word, answer, kind in CHECKABLE


def instruction_expectations() -> list["Expectation"]:
    """What instruction rows must be before an assistant learns from them."""
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectTableColumnsToMatchSet(column_set=COLUMNS),
        *(gxe.ExpectColumnValuesToNotBeNull(column=column) for column in COLUMNS),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=KINDS),
        gxe.ExpectColumnValueLengthsToBeBetween(column="instruction", min_value=1, max_value=2_000),
        gxe.ExpectColumnValueLengthsToBeBetween(column="input", max_value=10_000),
        gxe.ExpectColumnValueLengthsToBeBetween(column="output", min_value=1, max_value=10_000),
        # What is checked word for word is one word.
        gxe.ExpectColumnValuesToMatchRegex(
            column="output", regex=r"^\S+$", row_condition="checkable == True", condition_parser="pandas"
        ),
    ]


DATASET = Dataset(
    params=Params,
    read=read_instructions,
    text=lambda table: table["instruction"] + "\n" + table["input"] + "\n" + table["output"],
    stratify="kind",
    expectations=instruction_expectations,
    groups="group",
)
