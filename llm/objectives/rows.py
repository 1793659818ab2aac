"""Rows that a served model answers: their texts, and an error for a row that has none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from llm.errors import UserError

T = TypeVar("T")
InputRow = Mapping[str, Any]
OutputRow = dict[str, Any]


def text_of(row: InputRow, name: str, default: str | None = None) -> str:
    """The text in a row's column; `default` where there is none. Raises UserError for anything else."""
    value = row.get(name)
    if isinstance(value, str):
        return value
    if value is not None:
        raise UserError(f"{name}: {value!r} is not text")
    if default is None:
        raise UserError(f"{name}: missing")
    return default


def answer_each(
    rows: Sequence[InputRow], prepare: Callable[[InputRow], T], answer: Callable[[list[T]], list[OutputRow]]
) -> list[OutputRow]:
    """Answer together all rows that `prepare` accepts; of the others its UserError is the answer, under `error`."""
    prepared: dict[int, T] = {}
    answers: list[OutputRow] = [{} for _ in rows]
    for number, row in enumerate(rows):
        try:
            prepared[number] = prepare(row)
        except UserError as error:
            answers[number] = {"error": str(error)}
    if prepared:
        for number, output in zip(prepared, answer(list(prepared.values())), strict=True):
            answers[number] = output
    return answers
