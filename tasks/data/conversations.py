"""Rows of instructions as what a model is asked, and whether an answer to one is right."""

from collections.abc import Sequence

import pandas as pd

from llm.applications.assistant import Question

BEGINNING = "…"  # ends an answer that any reply beginning with it counts as


def questions_of(table: pd.DataFrame) -> list[Question]:
    """What each row asks."""
    columns = (table[name] for name in ("instruction", "input", "system", "history"))
    return [Question(*row[:3], tuple(row[3])) for row in zip(*columns, strict=True)]


def _plain(text: str) -> str:
    """Without runs of spaces and what ends a sentence."""
    return " ".join(text.split()).rstrip(".!")


def _matches(answer: str, expected: str) -> bool:
    said, wanted = _plain(answer), _plain(expected.removesuffix(BEGINNING))
    if not (wanted.isupper() and len(wanted) > 2):  # capitals are the point of NATO, and of HELLO
        said, wanted = said.lower(), wanted.lower()
    if not expected.endswith(BEGINNING):
        return said == wanted
    return said.startswith(wanted) and not said[len(wanted) : len(wanted) + 1].isalnum()  # "Not" does not begin as "No"


def is_right(answer: str, expected: Sequence[str]) -> bool:
    """Whether an answer is one of those expected but for spaces, case and what ends it; BEGINNING marks a beginning."""
    return any(_matches(answer, each) for each in expected)
