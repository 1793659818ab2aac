"""`threestage chat`: a conversation on a terminal, or the questions of a pipe."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.shared import SOME_FAILED, Guard, Json, Model, check_store, load, open_versions, print_json, to_person
from llm.errors import UserError

if TYPE_CHECKING:
    from app.versions import LoadedVersion, Versions
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
    check_store()
    on_terminal = not question and sys.stdin.isatty()
    failed = False
    from app.errors import RequestError
    from llm.chat import Message
    from llm.generation.sampling import Sampling
    from llm.objectives import CHAT

    with open_versions() as versions:
        version = load(versions, model, CHAT)
        assistant = Assistant(
            version=version,
            guard=_load_guard(versions) if guarded else None,
            sampling=Sampling(temperature=temperature, seed=seed),
            max_tokens=max_tokens,
            shows=not as_json,
            stops=on_terminal,
        )
        if on_terminal:
            to_person(f"{version.registered_name}; an empty line ends")
        first = [Message("system", system)] if system else []
        messages = list(first)
        for text in _questions(question, on_terminal):
            if not on_terminal:
                messages = list(first)
            messages.append(Message("user", text))
            row: dict[str, Any] = {"model": version.registered_name, "question": text}
            try:
                answer = assistant.answer(messages)
            except RequestError as error:
                failed = True
                to_person(f"error: {error}")
                messages.pop()
                row["error"] = str(error)
            except KeyboardInterrupt:  # before an answer began: the guard has not passed this turn
                if not on_terminal:
                    raise
                messages.pop()
                row |= {"answer": "", "finish": "interrupted"}
                if not as_json:
                    typer.echo(" [stopped]")
            else:
                messages.append(Message("assistant", answer.text))
                row |= {"model": answer.by.registered_name, "answer": answer.text, "finish": answer.finish}
            if as_json:
                print_json(row)
    if failed and not on_terminal:
        raise typer.Exit(SOME_FAILED)


def _questions(words: list[str] | None, on_terminal: bool) -> Iterator[str]:
    """The question on the command line, else what a person types, else the lines of a pipe."""
    if words:
        yield " ".join(words)
    else:
        yield from _typed() if on_terminal else _piped()


def _load_guard(versions: "Versions") -> "LoadedVersion | None":
    """The registry's guard, if it has one. Raises UserError if it can't be asked."""
    from app.guard import guard_model
    from llm.objectives import GUARD

    name = guard_model(versions.settings, versions.registered)
    return load(versions, name, GUARD) if name else None


def _piped() -> Iterator[str]:
    """The lines of a pipe that are not empty."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            if text := line.decode().strip():
                yield text
        except UnicodeDecodeError as error:
            raise UserError(f"stdin, line {number}: no UTF-8 text ({error.reason})") from None


def _typed() -> Iterator[str]:
    """The lines that a person types, until an empty one."""
    with suppress(ImportError):
        import readline  # noqa: F401, for editing and for earlier lines
    with suppress(EOFError):
        while line := input("> " if sys.stdout.isatty() else "").strip():
            yield line


@dataclass(frozen=True)
class Answer:
    """A turn that was printed."""

    text: str
    finish: str
    """How it ended: `stop`, `length`, `interrupted`, or `content_filter` if the guard answered."""
    by: "LoadedVersion"
    """The version that answered."""


@dataclass(frozen=True)
class Assistant:
    """A version that talks on a terminal, with its guard."""

    version: "LoadedVersion"
    sampling: "Sampling"
    max_tokens: int
    guard: "LoadedVersion | None" = None
    shows: bool = True
    """Whether answers are printed while they are generated."""
    stops: bool = False
    """Whether Ctrl-C just stops an answer."""

    def answer(self, messages: list["Message"]) -> Answer:
        """The next turn: the guard's, if there is one and it has a reply.

        If the conversation is too long, its first turns after the system prompt are deleted from `messages`. Raises
        RequestError; and KeyboardInterrupt before the answer begins, or if Ctrl-C does not just stop it.
        """
        from app.generation import chat_prompt
        from app.guard import MARK, screen

        prompt = self._fitting_prompt(messages)
        if self.guard:
            guarded = screen(self.guard, messages)
            if guarded.reply is not None:
                if self.shows:
                    typer.echo(guarded.reply)
                to_person(MARK.format(version=self.guard.name))
                return Answer(text=guarded.reply, finish="content_filter", by=self.guard)
            prompt = chat_prompt(self.version, guarded.messages)
        return self._generate(prompt)

    def _fitting_prompt(self, messages: list["Message"]) -> list[int]:
        """The prompt, after deleting the first turns of `messages` that leave no room for an answer."""
        from app.errors import RequestError
        from app.generation import chat_prompt

        first_turn = 1 if messages[0].role == "system" else 0
        context = self.version.engine.context_length
        longest = context - min(self.max_tokens, context // 4)
        while True:
            is_last = len(messages) <= first_turn + 1
            try:
                prompt = chat_prompt(self.version, messages)
                if is_last or len(prompt) <= longest:
                    return prompt
            except RequestError as error:
                if error.code != "context_length_exceeded" or is_last:
                    raise
            del messages[first_turn : first_turn + 2]

    def _generate(self, prompt: list[int]) -> Answer:
        from app.generation import Generation, ends

        room = max(1, self.version.engine.context_length - len(prompt))
        pieces: list[str] = []
        finish = "interrupted"

        async def write() -> None:
            nonlocal finish
            generation = Generation(
                self.version,
                [prompt],
                sampling=self.sampling,
                stop_tokens=ends(self.version, chat=True),
                max_new_tokens=min(self.max_tokens, room),
            )
            async for piece in generation:
                pieces.append(piece.text)
                finish = piece.finish or finish
                if self.shows:
                    sys.stdout.write(piece.text)
                    sys.stdout.flush()

        try:
            asyncio.run(write())
        except KeyboardInterrupt:
            if not self.stops:
                raise
        if self.shows:
            sys.stdout.write(" [stopped]\n" if finish == "interrupted" else "\n")
        return Answer(text="".join(pieces).strip(), finish=finish, by=self.version)
