"""Rows of instructions as what a model is asked, and whether an answer to one is right."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import tiktoken

from llm.chat import Chat
from llm.errors import UserError
from llm.objectives.assistant.examples import Example, encode_examples
from llm.objectives.assistant.model import Question


class Table(Protocol):
    """Columns by their names: a DataFrame, or a dict of lists."""

    def __getitem__(self, name: str, /) -> Iterable[Any]:
        """The values of a column."""
        ...


BEGINNING = "…"  # ends an answer that any reply beginning with it counts as


def questions_of(table: Table) -> list[Question]:
    """What each row asks."""
    columns = [table["instruction"], table["input"], table["system"], table["history"]]
    return [
        Question(instruction=instruction, input=text, system=system, history=tuple(history))
        for instruction, text, system, history in zip(*columns, strict=True)
    ]


def examples_of(
    encoding: tiktoken.Encoding, chat: Chat, table: Table, *, longest: int, file: Path, way_out: str
) -> list[Example]:
    """The rows of `file` as conversations of at most `longest` tokens.

    Raises UserError where none is left: how many rows there are, how long they are, and `way_out`.
    """
    questions = questions_of(table)
    outputs = list(table["output"])
    examples = encode_examples(encoding, chat, questions, outputs=outputs, longest=longest)
    if examples:
        return examples
    too_long = encode_examples(encoding, chat, questions, outputs=outputs, longest=sys.maxsize)
    lengths = [len(example) for example in too_long]
    raise UserError(
        f"{file}: none of its {len(questions)} rows fits {longest} tokens, and the longest has "
        f"{max(lengths, default=0)}; {way_out}"
    )


def _spaced(text: str) -> str:
    """Without runs of spaces."""
    return " ".join(text.split())


def _plain(text: str) -> str:
    """Without runs of spaces and what ends a sentence."""
    return _spaced(text).rstrip(".!")


def _in_capitals(text: str) -> bool:
    """Whether capitals are the point of a text, as of NATO, and of HELLO."""
    return text.isupper() and len(text) > 2


def _matches(answer: str, expected: str) -> bool:
    answer_text = _plain(answer)
    wanted = _plain(expected.removesuffix(BEGINNING))
    if not wanted:  # what ends a sentence is the answer; nothing begins no answer
        return not expected.endswith(BEGINNING) and _spaced(answer) == _spaced(expected)
    if not _in_capitals(wanted):
        answer_text = answer_text.lower()
        wanted = wanted.lower()
    if not expected.endswith(BEGINNING):
        return answer_text == wanted
    if not answer_text.startswith(wanted):
        return False
    next_character = answer_text[len(wanted) : len(wanted) + 1]
    return not next_character.isalnum()  # "Not" does not begin as "No"


def is_right(answer: str, expected: Sequence[str]) -> bool:
    """Whether an answer is one of those expected but for spaces, case and what ends it; BEGINNING marks a beginning.

    An expected "." or "!" is itself alone, and a BEGINNING of nothing is nobody's.
    """
    return any(_matches(answer, text) for text in expected)


def contains_answer(answer: str, expected: Sequence[str]) -> bool:
    """Whether one of those expected stands in an answer as whole words, or, with a BEGINNING, begins it.

    Case counts where it does for `is_right`. Parts of numbers and of compounds with a hyphen are no words.
    """
    return is_right(answer, expected) or any(_stands_in(answer, text) for text in expected)


def _stands_in(answer: str, expected: str) -> bool:
    wanted = _plain(expected)
    if not wanted or expected.endswith(BEGINNING):
        return False
    flags = re.NOFLAG if _in_capitals(wanted) else re.IGNORECASE
    whole = rf"(?<![\w-])(?<!\d[.,]){re.escape(wanted)}(?![\w-])(?![.,]\d)"
    return re.search(whole, _spaced(answer), flags) is not None
