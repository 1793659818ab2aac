"""A chat on a terminal or through a pipe: the questions, and the answer while it is generated."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from app.errors import RequestError
from app.generation import Generation, chat_prompt, ends
from app.versions import Loaded
from llm.chat import Message
from llm.errors import UserError
from llm.generation.sampling import Sampling


def piped_questions() -> Iterator[str]:
    """The questions of a pipe."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            if asked := line.decode().strip():
                yield asked
        except UnicodeDecodeError as error:
            raise UserError(f"stdin, line {number}: no UTF-8 text ({error.reason})") from None


def typed_questions() -> Iterator[str]:
    """The questions of a person, until an empty line."""
    with suppress(ImportError):
        import readline  # noqa: F401, lines can be edited and had again
    prompt = "> " if sys.stdout.isatty() else ""  # else the answers go elsewhere
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            return
        if not line:
            return
        yield line


class Answer(NamedTuple):
    """The text of the assistant."""

    text: str
    finish: str
    """`stop` at its own end, `length` at the last token that it had, `interrupted` by Ctrl-C."""


def answer(
    loaded: Loaded,
    messages: list[Message],
    fixed: int,
    sampling: Sampling,
    max_tokens: int,
    *,
    show: bool,
    stops: bool,
) -> Answer:
    """The next turn, shown as it comes. If the conversation is too long for the model, its first turns are deleted.

    The first `fixed` messages stay. Raises RequestError; Ctrl-C goes through, unless it only `stops` this answer.
    """
    context = loaded.engine.context_length if loaded.engine else 0
    prompt, most = None, context - min(max_tokens, context // 4)
    while prompt is None:
        try:
            prompt = chat_prompt(loaded, messages)
        except RequestError as error:
            if error.code != "context_length_exceeded" or len(messages) <= fixed + 1:
                raise
        if len(messages) > fixed + 1 and (prompt is None or len(prompt) > most):
            del messages[fixed : fixed + 2]
            prompt = None
    new = min(max_tokens, max(1, context - len(prompt)))
    pieces: list[str] = []
    finish = "interrupted"

    async def write() -> None:
        nonlocal finish
        generation = Generation(
            loaded, [prompt], sampling=sampling, stop_tokens=ends(loaded, chat=True), max_new_tokens=new
        )
        async for piece in generation:
            pieces.append(piece.text)
            finish = piece.finish or finish
            if show:
                sys.stdout.write(piece.text)
                sys.stdout.flush()

    try:
        asyncio.run(write())
    except KeyboardInterrupt:
        if not stops:
            raise
    if show:
        sys.stdout.write(" [stopped]\n" if finish == "interrupted" else "\n")
    return Answer("".join(pieces).strip(), finish)
