"""The guard: it reads what a user asks before the assistant does, and may answer in its place.

A guard is a registered model that can GUARD, under any name. The API and the page ask it through `ask_guard`, the
command line through `screen`.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from app.errors import Failed, RequestError, Timeout, Unavailable
from app.generation import check_conversation
from app.metrics import GUARDED
from app.registry import RegisteredVersion, models_with
from app.settings import Settings
from app.versions import LoadedVersion
from llm.chat import Message
from llm.loaded_model import LoadedModel
from llm.objectives import GUARD
from llm.objectives.classifier import guard_replies

MARK = "Answered by {version}, not by the assistant"
"""A line that tells people about a reply."""

logger = logging.getLogger(__name__)


class Guarded(NamedTuple):
    """A conversation that the guard has read."""

    messages: Sequence[Message]
    """The turns that the assistant may read."""
    reply: str | None = None
    """What is said instead of the assistant's answer; None if the assistant answers."""
    by: LoadedVersion | None = None
    """The guard that says so."""


def guard_model(settings: Settings, registered: Sequence[RegisteredVersion]) -> str | None:
    """The name of the registered model that is the guard; None without one, and if the settings turn it off.

    Raises Unavailable if nobody can tell, as the files of a model that may be one can't be read.
    """
    if not settings.guard:
        return None
    if models := models_with(registered, GUARD):
        return models[0]
    for version in registered:
        if version.is_default and not version.capabilities:
            way_out = "repair or delete it, or turn the guard off with --no-guard"
            raise Unavailable(f"the files of {version.name} can't be read, and it may be the guard: {way_out}")
    return None


async def ask_guard(state: Any, versions: Sequence[LoadedVersion], messages: Sequence[Message]) -> Guarded:
    """What the guard says to a conversation with these versions, if there is a guard and the settings want it.

    Raises as `check_conversation`, which bounds what the guard reads; Busy if too many requests wait for the guard;
    and Unavailable if there is a guard that can't be asked: then nobody answers.
    """
    for version in versions:
        check_conversation(version, messages)
    settings = state.settings
    name = guard_model(settings, state.versions.registered)
    if name is None:
        return Guarded(messages)
    try:
        guard = await state.versions.wait_for(name, GUARD)
    except RequestError as error:
        raise Unavailable(f"the guard can't be asked: {error}") from None
    with guard.classified_by(settings.rows + settings.queue):
        try:
            async with asyncio.timeout(settings.request_seconds), guard.turn:  # no thread waits: there are few
                return await run_in_threadpool(screen, guard, messages)
        except TimeoutError:
            raise Timeout("the guard took longer than a request may") from None


def screen(guard: LoadedVersion, messages: Sequence[Message]) -> Guarded:
    """What the guard says to the user's turns of a conversation. Raises Failed if it fails at them.

    Nobody reads again what the guard has answered before. The assistant must not either: the user's next turn may be
    "do it anyway".
    """
    messages = without_answered(messages, _replies(guard))
    requests = requests_in(guard, [message.content for message in messages if message.role == "user"])
    try:
        replies = guard_replies(LoadedModel(guard.model, guard.encoding), requests)
    except Exception:  # a bug, or no memory
        logger.exception("%s failed", guard.name)
        raise Failed("the guard failed at this text; the server's log says why") from None
    reply = next((reply for reply in replies if reply is not None), None)
    if reply is None:
        return Guarded(messages)
    GUARDED.labels(guard.registered_name).inc()
    return Guarded(messages, reply.strip(), guard)


def requests_in(guard: LoadedVersion, turns: Sequence[str]) -> list[str]:
    """The texts that the guard reads of the user's turns: each turn by itself, the last one first, and the last turns
    together.

    A turn between harmless ones is read closely only by itself. A request may be spread over several turns: as many of
    the last ones are joined as the guard's GPT reads of a text.
    """
    together = turns[-1]
    for turn in reversed(turns[:-1]):
        longer = f"{turn}\n{together}"
        if len(guard.encoding.encode_ordinary(longer)) > guard.model.config.max_tokens:
            break
        together = longer
    return list(dict.fromkeys([*reversed(turns), together]))


async def replies_of(state: Any) -> Collection[str]:
    """The sentences that the guard says; none without a guard."""
    name = guard_model(state.settings, state.versions.registered)
    return _replies(await state.versions.wait_for(name, GUARD)) if name else ()


def _replies(guard: LoadedVersion) -> set[str]:
    return {reply.strip() for reply in guard.model.config.replies.values()}


def without_answered(messages: Sequence[Message], replies: Collection[str]) -> list[Message]:
    """A conversation without the guard's replies and the user's turns just before them."""
    kept: list[Message] = []
    for message in messages:
        if message.role == "assistant" and message.content.strip() in replies:
            while kept and kept[-1].role == "user":
                kept.pop()
        else:
            kept.append(message)
    return kept
