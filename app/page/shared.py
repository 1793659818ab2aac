"""Code that the page's tabs share: the choice of a version, answers while they are generated, errors as sentences."""

import asyncio
import html
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from fastapi import FastAPI
from mlflow.exceptions import MlflowException
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.api.feedback import AnswerFeedback, EmailFeedback, keep
from app.errors import Busy
from app.generation import Generation, chat_prompt, ends
from app.guard import MARK, ask_guard
from app.metrics import TOKENS
from app.versions import Versions
from llm.chat import Message
from llm.errors import UserError
from llm.generation.sampling import Sampling
from llm.objectives import CHAT
from tasks.registry.versions import CHALLENGER, CHAMPION

LONGEST = 100_000
"""Characters of a question."""
PAUSE = 0.05
"""Seconds between two updates of an answer."""
PLAIN = {CHAMPION: "in use", CHALLENGER: "not yet approved"}
"""Aliases in everyday words."""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
"""Options of every event: the API is /v1, and the versions limit what runs at once."""
SMALL_MARK = f"\n\n<small>{MARK}</small>"
"""The last line of an answer by the guard."""
MARKED = re.compile(SMALL_MARK.format(version=r"\S+") + r"\s*\Z")
PROBLEMS = (UserError, ValidationError, MlflowException)
"""Errors that a user can understand."""


@contextmanager
def shown_errors() -> Iterator[None]:
    """End an event with one of PROBLEMS as a sentence on the page."""
    try:
        yield
    except PROBLEMS as error:
        raise gr.Error(sentence(error), print_exception=False) from None


def sentence(error: Exception) -> str:
    """An error as a person reads it, safe in HTML."""
    text = " ".join(str(error).split())
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, Busy):
        text += f"; try again in {error.retry_after} s"
    return html.escape(f"{text[:1].upper()}{text[1:]}.")


def version_choices(versions: Versions, capability: str) -> tuple[list[tuple[str, str]], list[str | None]]:
    """The versions with a capability under their names for people, the newest first; and in the order in which a person
    wants them: the default or None, then challengers."""
    able = [version for version in versions.registered if capability in version.capabilities]
    choices = []
    default = None
    challengers = []
    for version in able:
        name = str(version.name)
        choices.append((", ".join([name, *(PLAIN.get(alias, alias) for alias in version.aliases)]), name))
        if version.is_default and default is None:
            default = name
        if CHALLENGER in version.aliases:
            challengers.append(name)
    return choices, list(dict.fromkeys([default, *challengers, *(str(version.name) for version in able)]))


def version_dropdown(
    blocks: gr.Blocks, versions: Versions, capability: str, *, label: str = "Version", rank: int = 0
) -> gr.Dropdown:
    """A choice of a version, read each time somebody opens the page. It begins with the wanted version of that rank."""
    dropdown = gr.Dropdown(label=label, filterable=False, min_width=300, elem_id=f"version-{capability}")

    def opened() -> gr.Dropdown:
        choices, wanted = version_choices(versions, capability)
        info = None
        if not choices:
            info = "There is no version yet: `make run` makes one."
        elif wanted[0] is None:
            info = "No version is in use: choose one, or approve one with `threestage review`."
        return gr.Dropdown(choices=choices, value=[*wanted, None, None][rank], info=info)

    blocks.load(opened, outputs=dropdown, queue=False, show_progress="hidden", **PRIVATE)
    return dropdown


def without_mark(text: str) -> str:
    """A guard's answer without the line that says whose it is; any other text as it is."""
    return MARKED.sub("", text)


def is_by_guard(text: str) -> bool:
    """Whether a text has the line that marks a guard's answer."""
    return MARKED.search(text) is not None


async def answers_so_far(
    app: FastAPI,
    names: Sequence[str | None],
    messages: Sequence[Message],
    *,
    sampling: Sampling,
    longest: int | None = None,
) -> AsyncIterator[list[str]]:
    """The answers of some versions so far, one of at most `longest` tokens each, again until the last has ended.

    If the guard has a reply, that is each answer, marked as the guard's. Raises as `Versions.wait_for`, `ask_guard`,
    `chat_prompt` and `Generation`. Whoever stops before the end closes it, which stops the versions.
    """
    loaded = [await app.state.versions.wait_for(name, CHAT) for name in names]
    guarded = await ask_guard(app.state, loaded, messages)
    if guarded.reply is not None:
        yield [guarded.reply + SMALL_MARK.format(version=guarded.by.name)] * len(names)
        return
    prompts = [await run_in_threadpool(chat_prompt, version, guarded.messages) for version in loaded]
    texts = [""] * len(names)
    generations: list[Generation] = []
    tasks: list[asyncio.Task[None]] = []

    async def read(number: int, generation: Generation) -> None:
        async for piece in generation:
            texts[number] += piece.text

    try:
        for version, prompt in zip(loaded, prompts, strict=True):
            generation = Generation(
                version,
                [prompt],
                sampling=sampling,
                stop_tokens=ends(version, chat=True),
                max_new_tokens=longest and max(1, min(longest, version.engine.context_length - len(prompt))),
                seconds=app.state.settings.request_seconds,
            )
            generations.append(generation)
        for number, generation in enumerate(generations):
            tasks.append(asyncio.create_task(read(number, generation)))
        shown: list[str] = []
        while shown != texts or not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=PAUSE)
            if shown != texts:
                shown = list(texts)
                yield shown
        for task in tasks:
            await task
    finally:
        for task in tasks:
            task.cancel()
        for version, generation in zip(loaded, generations, strict=False):
            generation.close()
            TOKENS.labels(version.registered_name).inc(generation.completion_tokens)


async def keep_feedback(state: Any, correction: AnswerFeedback | EmailFeedback, request: gr.Request) -> None:
    """Keep feedback, and thank for it. Raises as `keep`."""
    kept = await keep(state, correction, request.request)
    gr.Info("Thank you, it is kept." if kept.kept else "Thank you; the same was kept before.", duration=5)
