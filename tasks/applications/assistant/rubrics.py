"""What people ask, and what a good answer must and must not have, as a program can check it.

The rows are in `data/behavioural/<dataset>/`. A rubric is a floor: a good answer passes it; whoever evades, repeats
themselves or talks of something else fails. It does not tell a good answer from a better one.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from llm.config import Config
from llm.errors import UserError
from llm.objectives.assistant.loops import has_loop

REFUSALS = (
    "can't help with",
    "cannot help with",
    "won't help with",
    "will not help with",
    "won't talk about",
    "will not talk about",
    "can't assist",
    "cannot assist",
    "can't provide",
    "cannot provide",
    "can't do that",
    "cannot do that",
    "can't answer",
    "cannot answer",
    "unable to help",
    "unable to assist",
    "unable to provide",
    "not able to provide",
    "do not have the ability",
    "don't have the ability",
    "don't have personal",
    "do not have personal",
    "as an AI",
    "language model",
    "I'm a chatbot",
    "I am a chatbot",
)
"""What no answer may say: nothing that is asked needs a refusal, or a word on what the assistant is."""
NEGATION = (
    r"(?:\b(?:can|do|does|did|wo|would|should|is|are|was|were|must|need)n't|\b(?:cannot|can not|not|never|unable to))"
)
NEGATED = rf"{NEGATION}(?: \w+ly| really| be able to| have to)? $"  # what stands right before a word that it denies
PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "*": None, "`": None})
"""Curly quotes as straight ones, and no marks of bold and code."""


class Rubric(Config):
    """Clauses; an answer must keep all. A `*` at the end of a word or phrase stands for any ending."""

    contains: list[list[str]] = Field(default_factory=list)
    """At least one word or phrase of each list must occur, as whole words in any case, and not be denied: "I can't
    cancel" has no "cancel"."""
    excludes: list[str] = Field(default_factory=list)
    """None of these words and phrases may occur."""
    min_words: int = Field(default=1, gt=0)
    """The fewest words."""
    max_words: int = Field(default=1000, gt=0)
    """The most words."""


class Question(Config):
    """A row of a file of questions."""

    id: str
    slice: str
    instruction: str
    input: str = ""
    history: list[str] = Field(default_factory=list)
    """The earlier turns, of user and assistant in turn."""
    rubric: Rubric
    example: str
    """An answer that passes."""
    counterexample: str
    """A plausible answer that fails."""


def read_questions(file: Path) -> list[Question]:
    """The rows of a file, a line each. Raises UserError that names file and row of what is wrong."""
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(Question.model_validate(json.loads(line)))
        except (ValidationError, ValueError) as error:
            raise UserError(f"{file}, row {number}: {error}") from None
    return rows


def failures(rubric: Rubric, answer: str) -> list[str]:
    """The clauses that an answer breaks, for people to read; none for a good one."""
    text = plain(answer)
    words = len(text.split())
    broken = [f"contains {' | '.join(phrases)}" for phrases in rubric.contains if not _has_affirmed(phrases, text)]
    broken += [f"excludes {phrase}" for phrase in (*REFUSALS, *rubric.excludes) if _places(phrase, text)]
    if words < rubric.min_words:
        broken.append(f"min_words {rubric.min_words}, not {words}")
    if words > rubric.max_words:
        broken.append(f"max_words {rubric.max_words}, not {words}")
    if has_loop(answer):
        broken.append("no loop")
    return broken


def plain(text: str) -> str:
    """The text on one line, without marks of its form."""
    return " ".join(text.translate(PLAIN).split())


def _has_affirmed(phrases: Sequence[str], text: str) -> bool:
    """Whether one of these stands in a text without a negation right before it."""
    places = [match for phrase in phrases for match in _places(phrase, text)]
    return any(not re.search(NEGATED, text[: match.start()], re.IGNORECASE) for match in places)


def _places(phrase: str, text: str) -> list[re.Match[str]]:
    """Where a phrase stands in a text as whole words; a number is no part of a longer one, such as 1.5 or 1,500."""
    start = r"(?<!\w)(?<!\d[.,])" if phrase[0].isalnum() else ""
    end = r"(?!\w|[.,]\d)" if phrase[-1].isalnum() else ""
    pattern = f"{start}{re.escape(plain(phrase.removesuffix('*')))}{end}"
    return list(re.finditer(pattern, text, re.IGNORECASE))
