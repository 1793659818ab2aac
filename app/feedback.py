"""/feedback: what people say of an answer waits, as a row of a dataset, until a person accepts it.

Rows have the form in which that dataset reads people's own rows. app/quarantine.py keeps them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.schema import ChatMessage, Closed
from app.api.v1 import ERRORS
from app.clients import network_of
from app.errors import RequestError
from app.quarantine import Quarantine
from app.settings import Settings
from app.versions import Loaded
from llm.objectives import CHAT, CLASSIFY
from tasks.data.textfiles import tidy
from tasks.datasets import find
from tasks.served import cleaning_module

LONGEST = 10_000
"""Characters of a message or an answer."""

router = APIRouter(tags=["feedback"], responses=ERRORS)


class EmailFeedback(Closed):
    """What a mail is, as a person says."""

    about: Literal["email"]
    subject: str | None = None
    body: str | None = None
    message: str | None = None
    """A raw message, instead of subject and body."""
    label: str = Field(max_length=200)
    """One of the classifier's labels."""
    model: str | None = Field(default=None, max_length=200)


class AnswerFeedback(Closed):
    """Whether an answer is good, as a person says, and what a better one is."""

    about: Literal["answer"]
    messages: list[ChatMessage] = Field(min_length=1, max_length=200, fail_fast=True)
    """The conversation up to the answer."""
    answer: str = Field(max_length=LONGEST)
    good: bool
    better: str | None = Field(default=None, max_length=LONGEST)
    """What the answer should have been; a bad answer without it is kept, and nothing learns from it."""
    model: str | None = Field(default=None, max_length=200)


ABOUT = ("email", "answer")
Feedback = Annotated[EmailFeedback | AnswerFeedback, Field(discriminator="about")]


class Kept(BaseModel):
    """What became of it."""

    kept: bool
    """Whether a row waits now that did not before; false where this client said the same before."""
    dataset: str
    model: str
    """The version that it is about."""


def email_row(loaded: Loaded, said: EmailFeedback) -> dict[str, Any]:
    """A labelled mail. Raises RequestError for an unknown label and a mail without text."""
    labels = {label.casefold(): label for label in loaded.model.config.labels}
    if said.label.casefold() not in labels:
        known = ", ".join(labels.values())
        raise RequestError(f"label {said.label!r} is not one of {known}", "label")
    cleaning = cleaning_module(loaded.folder)
    row = said.model_dump(include={"subject", "body", "message"}, exclude_none=True)
    if cleaning is None and "message" in row:
        raise RequestError(f"{loaded.named} reads no raw messages; give subject and body", "message")
    clean = loaded.cleaner(cleaning.clean_row, [row])[0] if cleaning else row
    if isinstance(clean, str):
        raise RequestError(clean, "message" if "message" in row else "body")
    subject, body = clean.get("subject", ""), clean.get("body", "")
    if not f"{subject}{body}".strip():
        raise RequestError("there is no text in this mail", "body")
    return {"label": labels[said.label.casefold()], "subject": subject, "body": body}


async def labelled(loaded: Loaded, said: EmailFeedback, queue: int, network: str | None) -> dict[str, Any]:
    """The same, when it is the mail's turn to be read. Raises Busy, too, where `queue` requests wait for it."""
    with loaded.classified_by(queue, network):
        async with loaded.turn:  # and not a thread that waits: there are few
            return await run_in_threadpool(email_row, loaded, said)


def answer_row(loaded: Loaded, said: AnswerFeedback) -> dict[str, Any]:
    """An instruction with the answer that a person wants. Raises RequestError for turns without order or text."""
    turns = [each.turn() for each in said.messages]
    system = "\n\n".join(each.content for each in turns if each.role == "system")
    talk = [each for each in turns if each.role != "system"]
    if [each.role for each in talk] != [("user", "assistant")[place % 2] for place in range(len(talk))]:
        raise RequestError("user and assistant take turns, and the user begins", "messages")
    if len(talk) % 2 == 0:
        raise RequestError("the last message is not a user's", "messages")
    if long := [size for each in turns if (size := len(each.content)) > LONGEST]:
        raise RequestError(f"a message of {long[0]} characters; at most {LONGEST} are learned from", "messages")
    if not all(each.content.strip() for each in talk) or not tidy(talk[-1].content):
        raise RequestError("a message has no text", "messages")
    if said.good and said.better is not None:
        raise RequestError("an answer that is good has no better one", "better")
    good = said.good or said.better is not None
    output = said.answer if said.better is None else said.better
    if good and not tidy(output):
        raise RequestError("there is no text to learn from", "answer" if said.better is None else "better")
    return {
        "instruction": talk[-1].content,
        "output": output,
        "system": system,
        "history": [each.content for each in talk[:-1]],
        "verdict": "good" if good else "bad",
    }


@router.post("/feedback", summary="Say what an answer is worth")
async def feedback(request: Request, said: Feedback) -> Kept:
    """What a mail really is, or what an answer should have been; nothing learns from it until a person accepts it."""
    settings: Settings = request.app.state.settings
    _check_on(settings)
    capability = CLASSIFY if isinstance(said, EmailFeedback) else CHAT
    loaded = await request.app.state.loader.get(said.model, capability)
    if isinstance(said, EmailFeedback):
        row = await labelled(loaded, said, settings.queue, network_of(request))
    else:
        row = await run_in_threadpool(answer_row, loaded, said)
    client = await run_in_threadpool(request.app.state.feedback.client_of, request, settings.api_keys)
    return await run_in_threadpool(keep, request.app.state.feedback, settings, loaded, row, client)


def keep(quarantine: Quarantine, settings: Settings, loaded: Loaded, row: dict[str, Any], client: str) -> Kept:
    """Have a row wait for the dataset that a version learned from.

    Raises RequestError where none is taken, and for what the dataset would not read: one row must not stop a training.
    """
    _check_on(settings)
    if loaded.dataset is None:
        raise RequestError(f"{loaded.named} does not say which dataset it learned from", "model")
    lengths = _lengths(loaded.dataset)
    if not lengths.keys() & row.keys():
        raise RequestError(
            f"{loaded.named} learned from {loaded.dataset}, which reads no feedback of this kind", "model"
        )
    for name in lengths.keys() & row.keys():
        text, most = row[name], lengths[name][1]
        if len(text) > most or len(text := tidy(text)) > most:  # tidy, as a dataset reads it: a ligature is two letters
            raise RequestError(f"{name}: {len(text)} characters; at most {most} are learned from", name)
    kept = quarantine.add(loaded.dataset, row, client, loaded.registered_name)
    return Kept(kept=kept, dataset=loaded.dataset, model=loaded.registered_name)


def _check_on(settings: Settings) -> None:
    if not settings.feedback:
        raise RequestError("this server takes no feedback", None, "feedback_off")


def _lengths(dataset: str) -> Mapping[str, tuple[int, int]]:
    """The columns of feedback that a dataset reads, with their lengths; none where nobody knows it."""
    try:
        return find(dataset).feedback or {}
    except ModuleNotFoundError:
        return {}
