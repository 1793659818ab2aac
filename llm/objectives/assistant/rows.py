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


WHOLE = r"\ATEXT[.!]*\Z"
BEGINS = r"\ATEXT(?![^\W_])"  # "Not" does not begin as "No"
INSIDE = r"(?<![\w-])(?<!\d[.,])TEXT(?![\w-])(?![.,]\d)"


def _spaced(text: str) -> str:
    """Without runs of spaces."""
    return " ".join(text.split())


def _matches(answer: str, expected: str, form: str) -> bool:
    """Whether an answer has this form, with what is expected, but for what ends a sentence, as its TEXT."""
    text = _spaced(expected.removesuffix(BEGINNING)).rstrip(".!")
    has_case = text.isupper() and len(text) > 2  # capitals are the point of NATO, and of HELLO
    pattern = form.replace("TEXT", re.escape(text))
    return bool(text) and re.search(pattern, _spaced(answer), re.NOFLAG if has_case else re.IGNORECASE) is not None


def is_right(answer: str, expected: Sequence[str]) -> bool:
    """Whether an answer is one of those expected but for spaces, case and what ends it; BEGINNING marks a beginning.

    An expected "." or "!" is itself alone, and a BEGINNING of nothing is nobody's.
    """
    for text in expected:
        is_beginning = text.endswith(BEGINNING)
        if _matches(answer, text, BEGINS if is_beginning else WHOLE):
            return True
        if not is_beginning and _spaced(answer) == _spaced(text):
            return True
    return False


def contains_answer(answer: str, expected: Sequence[str]) -> bool:
    """Whether one of those expected stands in an answer as whole words, or, with a BEGINNING, begins it.

    Case counts where it does for `is_right`. Parts of numbers and of compounds with a hyphen are no words.
    """
    words = [text for text in expected if not text.endswith(BEGINNING)]
    return is_right(answer, expected) or any(_matches(answer, text, INSIDE) for text in words)
