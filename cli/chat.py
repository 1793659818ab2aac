"""`threestage chat`: a conversation on a terminal, or the questions of a pipe."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cli.shared import (
    SOME_FAILED,
    Guard,
    Json,
    Model,
    check_model,
    load,
    open_versions,
    print_json,
    to_person,
)
from llm.errors import UserError

if TYPE_CHECKING:
    from app.loaded_version import LoadedVersion
    from app.versions import Versions
    from llm.chat import Message
    from llm.generation.sampling import Sampling


def chat(
    question: Annotated[
        list[str] | None, typer.Argument(help="Your question; without it, stdin holds questions.")
    ] = None,
    model: Model = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the likeliest words.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 256,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Makes answers repeatable.")] = None,
    guarded: Guard = True,
    as_json: Json = False,
) -> None:
    """Talk to the assistant.

    On a terminal it remembers the conversation; Ctrl-C stops an answer, an empty line ends. From a pipe each line is a
    question of its own.
    """
    check_model(model)
    on_terminal, failed = not question and sys.stdin.isatty(), False
    from app.errors import RequestError
    from llm.chat import Message
    from llm.generation.sampling import Sampling
    from llm.objectives import CHAT

    with open_versions() as versions:
        loaded = load(versions, model, CHAT)
        guard = _load_guard(versions) if guarded else None
        if on_terminal:
            to_person(f"{loaded.registered_name}; an empty line ends")
        before = [Message("system", system)] if system else []
        messages, sampling = list(before), Sampling(temperature=temperature, seed=seed)
        for asked in [" ".join(question)] if question else _typed() if on_terminal else _piped():
            messages = [*(messages if on_terminal else before), Message("user", asked)]
            by = loaded
            try:
                spoken = answer(
                    loaded,
                    messages,
                    len(before),
                    sampling,
                    max_tokens,
                    guard=guard,
                    show=not as_json,
                    stops=on_terminal,
                )
            except RequestError as error:
                failed, result = True, {"error": str(error)}
                to_person(f"error: {error}")
                messages.pop()
            except KeyboardInterrupt:  # before an answer began: the guard has not passed this turn
                if not on_terminal:
                    raise
                result = {"answer": "", "finish": "interrupted"}
                messages.pop()
                if not as_json:
                    typer.echo(" [stopped]")
            else:
                by, result = spoken.by, {"answer": spoken.text, "finish": spoken.finish}
                messages.append(Message("assistant", spoken.text))
            if as_json:
                print_json({"model": by.registered_name, "question": asked, **result})
    if failed and not on_terminal:
        raise typer.Exit(SOME_FAILED)


def _load_guard(versions: "Versions") -> "LoadedVersion | None":
    """The registry's guard, if it has one. Raises UserError if it can't be asked."""
    from app.guard import guard_model
    from llm.objectives import GUARD

    name = guard_model(versions.settings, versions.registry.versions())
    return load(versions, name, GUARD) if name else None


def _piped() -> Iterator[str]:
    """The lines of a pipe that are not empty."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            if asked := line.decode().strip():
                yield asked
        except UnicodeDecodeError as error:
            raise UserError(f"stdin, line {number}: no UTF-8 text ({error.reason})") from None


def _typed() -> Iterator[str]:
    """The lines that a person types, until an empty one."""
    with suppress(ImportError):
        import readline  # noqa: F401, for editing and for earlier lines
    with suppress(EOFError):
        while line := input("> " if sys.stdout.isatty() else "").strip():
            yield line


class Answer(NamedTuple):
    """A turn that was printed."""

    text: str
    finish: str
    """How it ended: `stop`, `length`, `interrupted`, or `content_filter` if the guard answered."""
    by: "LoadedVersion"
    """The version that answered."""


def answer(
    loaded: "LoadedVersion",
    messages: list["Message"],
    fixed: int,
    sampling: "Sampling",
    max_tokens: int,
    *,
    guard: "LoadedVersion | None" = None,
    show: bool,
    stops: bool,
) -> Answer:
    """The next turn, printed while it is generated: the guard's, if there is one and it has a reply.

    If the conversation is too long, its first turns are deleted; the first `fixed` messages stay. Raises
    RequestError; and KeyboardInterrupt before the answer begins, or if Ctrl-C does not just `stops` the answer.
    """
    from app.generation import Generation, chat_prompt, ends
    from app.guard import MARK, screen

    prompt = _fitting_prompt(loaded, messages, fixed, max_tokens)
    if guard:
        guarded = screen(guard, messages)
        if guarded.reply is not None:
            if show:
                typer.echo(guarded.reply)
            to_person(MARK.format(version=guard.name))
            return Answer(guarded.reply, "content_filter", guard)
        prompt = chat_prompt(loaded, guarded.messages)
    new = min(max_tokens, max(1, loaded.engine.context_length - len(prompt)))
    pieces: list[str] = []
    finish = "interrupted"

    async def write() -> None:
        nonlocal finish
        stop_tokens = ends(loaded, chat=True)
        async for piece in Generation(loaded, [prompt], sampling=sampling, stop_tokens=stop_tokens, max_new_tokens=new):
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
    return Answer("".join(pieces).strip(), finish, loaded)


def _fitting_prompt(loaded: "LoadedVersion", messages: list["Message"], fixed: int, max_tokens: int) -> list[int]:
    """The prompt, after deleting the first turns of `messages` that leave no room for an answer."""
    from app.errors import RequestError
    from app.generation import chat_prompt

    while True:
        last_turn = len(messages) <= fixed + 1
        try:
            prompt = chat_prompt(loaded, messages)
            context = loaded.engine.context_length
            if last_turn or len(prompt) <= context - min(max_tokens, context // 4):
                return prompt
        except RequestError as error:
            if error.code != "context_length_exceeded" or last_turn:
                raise
        del messages[fixed : fixed + 2]
