"""Rows of instructions, answered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llm.chat import prompt_tokens, turn_ends
from llm.errors import UserError
from llm.generation.request import Request
from llm.generation.sampling import GREEDY
from llm.generation.text import options, request_maker, write_all
from llm.loaded_model import LoadedModel
from llm.objectives.assistant.model import Assistant, Question
from llm.objectives.interface import CHAT, COMPLETE, Interface
from llm.objectives.rows import InputRow, OutputRow, answer_each, text_of


def interface(config: Mapping[str, Any]) -> Interface:
    """What programs see of an assistant."""
    return Interface(
        inputs={"instruction": str, "input": str | None, "system": str | None, "history": str | None},
        outputs={"output": str},
        example={"instruction": "What is the opposite of this word?", "input": "early"},
        capabilities=(CHAT, COMPLETE),
        options=options(GREEDY),
    )


def serve(loaded: LoadedModel[Assistant], rows: Sequence[InputRow], **options: Any) -> list[OutputRow]:
    """Answer the instruction of each row; `interface` lists the options.

    A row's `history` is JSON text: an array of strings, the user's and the assistant's by turns.
    """
    model, encoding = loaded
    request_for = request_maker(loaded, GREEDY, **options)
    ends = turn_ends(encoding, model.chat)

    def prepare(row: InputRow) -> Request:
        question = _question(row)
        request = request_for(prompt_tokens(encoding, model.chat, question.messages()))
        sampling = request.sampling.with_default_penalty(model.chat.text_penalty)
        return replace(request, stop_tokens=ends, sampling=sampling)

    def answer(requests: list[Request]) -> list[OutputRow]:
        return [{"output": text.strip()} for text in write_all(loaded, requests)]

    return answer_each(rows, prepare, answer)


def _question(row: InputRow) -> Question:
    return Question(
        instruction=text_of(row, "instruction"),
        input=text_of(row, "input", ""),
        system=text_of(row, "system", ""),
        history=_history(text_of(row, "history", "")),
    )


def _history(text: str) -> list[str]:
    """Earlier turns from JSON; none from an empty text. Raises UserError for anything but whole turns of two."""
    if not text.strip():
        return []
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"history: not JSON: {error}") from None
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise UserError('history: not an array of strings, such as ["Hi", "Hello!"]')
    if len(turns) % 2:
        raise UserError(f"history: {len(turns)} turns; user and assistant take turns, and the assistant's is the last")
    return turns
