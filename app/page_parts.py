"""What the page's tabs share: the version that answers, texts as they come, and errors as sentences."""

import asyncio
import html
from collections.abc import AsyncIterator, Sequence
from typing import Any

import gradio as gr
from mlflow.exceptions import MlflowException
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from app.errors import Busy, NotFound
from app.feedback import keep
from app.metrics import TOKENS
from app.registry import BY_DEFAULT, Listed
from app.versions import Loaded, Versions
from app.writing import Writing
from llm.errors import UserError
from tasks.registry.decide import CHAMPION
from tasks.registry.register import registered_name

PAUSE = 0.05
"""Seconds between two updates of a text on the page."""
PROBLEMS = (UserError, ValidationError, MlflowException)
"""What a person is told, and the server lives on."""
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
"""Of an event: the page's own and no API, which is /v1; without a limit, as the versions have theirs."""
AT_ONCE: dict[str, Any] = PRIVATE | {"queue": False}
"""Of a short one, by a plain request: it needs no stream of events, which Gradio opens and closes between them."""


def sentence(error: Exception) -> str:
    """An error as a person reads it, safe in HTML."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        said = " ".join(str(error).split())
    if isinstance(error, Busy):
        said += f"; try again in {error.retry_after} s"
    return html.escape(f"{said[:1].upper()}{said[1:]}.")


def warn(error: Exception) -> None:
    """Say on the page what went wrong."""
    gr.Warning(sentence(error), duration=20)


async def default(state: Any, objective: str) -> Loaded:
    """The version that answers where nobody names one, loaded. Raises NotFound, and as `Versions.get`."""
    name = await run_in_threadpool(state.versions.registry.default, objective)
    if name is None:
        raise NotFound("no model is registered that could answer; `make run` makes them", "model")
    return await state.loader.get(name)


def of_objective(versions: Versions, objective: str) -> list[Listed]:
    """All versions that answer in this way, the newest first."""
    return [each for each in versions.registry.listed() if each.objective == objective]


def named_with_aliases(listed: Listed) -> str:
    """As in `threestage-assistant/3, champion`."""
    return ", ".join([f"{registered_name(listed.named.model)}/{listed.named.version}", *listed.aliases])


def aliased(found: Sequence[Listed], alias: str) -> Listed | None:
    """The version that has this alias."""
    return next((each for each in found if alias in each.aliases), None)


def answering(found: Sequence[Listed]) -> tuple[Listed | None, str]:
    """The version that answers by default, and a line about it."""
    for alias in BY_DEFAULT:
        if each := aliased(found, alias):
            note = "" if alias == CHAMPION else "; there is no champion yet"
            return each, f"{named_with_aliases(each)}{note}"
    return None, "nobody yet: no version is champion or challenger; `make run` makes them"


async def together(loaded: Sequence[Loaded], writings: Sequence[Writing]) -> AsyncIterator[list[str]]:
    """All texts so far, again and again until the last has ended; each gives its place back at the latest then.

    Raises what a writing raises, after the others have ended.
    """
    texts = [""] * len(writings)

    async def read(place: int) -> None:
        async for piece in writings[place]:
            texts[place] += piece.text

    tasks = [asyncio.create_task(read(place)) for place in range(len(writings))]
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
        for each, writing, task in zip(loaded, writings, tasks, strict=True):
            writing.close()
            task.cancel()
            TOKENS.labels(each.registered_name).inc(writing.completion_tokens)


class Answering:
    """What is being written for each browser, which it may stop."""

    def __init__(self) -> None:
        self._of: dict[str, list[Writing]] = {}

    def begin(self, browser: str) -> list[Writing] | None:
        """A list for its writings, or None where it has some already."""
        if browser in self._of:
            gr.Warning("An answer is being written; stop it, or wait for its end.")
            return None
        return self._of.setdefault(browser, [])

    def goes_on(self, browser: str, writings: list[Writing]) -> bool:
        """Whether nobody has stopped them since they began."""
        return self._of.get(browser) is writings

    def end(self, browser: str, writings: list[Writing]) -> None:
        """They are done."""
        if self.goes_on(browser, writings):
            del self._of[browser]

    async def stop(self, request: gr.Request) -> None:
        """End what is written for a browser, now or as soon as it begins."""
        self.stopped(request.session_hash)

    def stopped(self, browser: str) -> bool:
        """The same; whether there was something."""
        writings = self._of.pop(browser, None)
        for writing in writings or ():
            writing.close()
        return writings is not None


def thank(state: Any, loaded: Loaded, row: dict[str, Any], request: gr.Request) -> None:
    """Keep a row of feedback and say so. Raises as `keep`."""
    kept = keep(state.feedback, state.settings, loaded, row, state.feedback.client_of(request.request))
    gr.Info("Thank you, it is kept." if kept.kept else "Thank you; the same was kept before.")
