"""What the page's tabs share: the versions to choose from, texts while they are generated, errors as sentences."""

import asyncio
import html
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from app.errors import Busy
from app.feedback import keep
from app.generation import Generation
from app.metrics import TOKENS
from app.registry import BY_DEFAULT
from app.versions import Loaded, Versions
from llm.errors import UserError
from tasks.registry.versions import CHALLENGER, CHAMPION

PAUSE = 0.05
"""Seconds between two updates of a text on the page."""
PLAIN = {CHAMPION: "in use", CHALLENGER: "not yet approved"}
"""What an alias means to who uses the page."""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
"""Options of an event: it is no API, which is /v1, and the versions have the limits."""


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


def version_choices(versions: Versions, objective: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The versions of an objective with their names for people, the newest first; and those with an alias, the one that
    answers by default first. Raises as `Registry.listed`."""
    found = [each for each in versions.registry.listed() if each.objective == objective]
    names = [", ".join([str(each.named), *(PLAIN.get(alias, alias) for alias in each.aliases)]) for each in found]
    by_alias = [str(each.named) for alias in BY_DEFAULT for each in found if alias in each.aliases]
    return [(name, str(each.named)) for name, each in zip(names, found, strict=True)], list(dict.fromkeys(by_alias))


def version_dropdown(blocks: gr.Blocks, versions: Versions, objective: str) -> gr.Dropdown:
    """A choice among the versions of an objective, read each time the page is opened."""
    dropdown = gr.Dropdown(label="Version", filterable=False, elem_id=f"version-{objective}")

    def opened() -> gr.Dropdown:
        with shown_errors():
            choices, by_alias = version_choices(versions, objective)
        info = None if choices else "There is no version yet: `make run` makes one."
        return gr.Dropdown(choices=choices, value=next(iter(by_alias), None), info=info)

    blocks.load(opened, None, dropdown, queue=False, show_progress="hidden", **PRIVATE)
    return dropdown


async def texts_so_far(loaded: Sequence[Loaded], generations: Sequence[Generation]) -> AsyncIterator[list[str]]:
    """All texts so far, again and again until the last has ended; each gives its place back at the latest then.

    Raises what a generation raises, after the others have ended.
    """
    texts = [""] * len(generations)

    async def read(place: int) -> None:
        async for piece in generations[place]:
            texts[place] += piece.text

    tasks = [asyncio.create_task(read(place)) for place in range(len(generations))]
    try:
        shown: list[str] = []
        while not all(task.done() for task in tasks) or shown != texts:
            await asyncio.wait(tasks, timeout=PAUSE)
            if shown != texts:
                shown = list(texts)
                yield shown
        for task in tasks:
            await task
    finally:
        for each, generation, task in zip(loaded, generations, tasks, strict=True):
            generation.close()
            task.cancel()
            TOKENS.labels(each.registered_name).inc(generation.completion_tokens)


def keep_feedback(state: Any, loaded: Loaded, row: dict[str, Any], request: gr.Request) -> None:
    """Keep a row of feedback and thank for it. Raises as `keep`."""
    kept = keep(state.feedback, state.settings, loaded, row, state.feedback.client_of(request.request))
    gr.Info("Thank you, it is kept." if kept.kept else "Thank you; the same was kept before.", duration=5)
