"""The endpoint /feedback: people correct labels and answers.

Each correction becomes a row in the form of a dataset's own files, and app/quarantine.py keeps it until a person
accepts it.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.schema import ChatMessage, Closed
from app.api.v1 import ERRORS
from app.clients import network_of
from app.errors import RequestError
from app.guard import replies_of, without_answered
from app.quarantine import Quarantine
from app.settings import Settings
from app.versions import LoadedVersion
from llm.objectives import CHAT, CLASSIFY
from tasks.data.textfiles import tidy
from tasks.params.slices import find_dataset
from tasks.served import cleaning_module

LONGEST = 10_000
"""Characters of a message or an answer."""

router = APIRouter(tags=["feedback"], responses=ERRORS)


class EmailFeedback(Closed):
    """The right label of a mail."""

    about: Literal["email"]
    subject: str | None = None
    body: str | None = None
    message: str | None = None
    """A raw message, instead of subject and body."""
    label: str = Field(max_length=200)
    """One of the classifier's labels, never `unsure`."""
    model: str | None = Field(default=None, max_length=200)


class AnswerFeedback(Closed):
    """Whether an answer is good, and a better one."""

    about: Literal["answer"]
    messages: list[ChatMessage] = Field(min_length=1, max_length=200, fail_fast=True)
    """The conversation up to the answer."""
    answer: str = Field(max_length=LONGEST)
    good: bool
    better: str | None = Field(default=None, max_length=LONGEST)
    """A better answer. Without one, nothing learns from a bad answer."""
    model: str | None = Field(default=None, max_length=200)


ABOUT = ("email", "answer")
Feedback = Annotated[EmailFeedback | AnswerFeedback, Field(discriminator="about")]


class Kept(BaseModel):
    """The outcome of feedback."""

    kept: bool
    """Whether it is new; false if this client sent the same before."""
    dataset: str
    model: str
    """The version that it is about."""


@router.post("/feedback", summary="Correct a label or an answer")
async def feedback(request: Request, given: Feedback) -> Kept:
    """Keep the right label of a mail, or an opinion on an answer. Nothing learns from it until a person accepts it."""
    settings: Settings = request.app.state.settings
    about_mail = isinstance(given, EmailFeedback)
    loaded = await request.app.state.loader.get(given.model, CLASSIFY if about_mail else CHAT)
    if about_mail:
        row = await labelled(loaded, given, settings.queue, network_of(request))
    else:
        replies = await run_in_threadpool(replies_of, request.app.state)
        row = await run_in_threadpool(answer_row, given, replies)
    client = await run_in_threadpool(request.app.state.feedback.client_of, request, settings.api_keys)
    return await run_in_threadpool(keep, request.app.state.feedback, settings, loaded, row, client)


async def labelled(loaded: LoadedVersion, given: EmailFeedback, queue: int, network: str | None) -> dict[str, Any]:
    """The row of a mail, once it is the mail's turn to be cleaned. Raises as `email_row`; Busy if `queue` wait."""
    with loaded.classified_by(queue, network):
        async with loaded.turn:  # without a thread that waits: there are few
            return await run_in_threadpool(email_row, loaded, given)


def email_row(loaded: LoadedVersion, given: EmailFeedback) -> dict[str, Any]:
    """A labelled mail. Raises RequestError for an unknown label and a mail without text."""
    labels = loaded.model.config.labels
    if given.label not in labels:
        raise RequestError(f"label {given.label!r} is not one of {', '.join(labels)}", "label")
    row = given.model_dump(include={"subject", "body", "message"}, exclude_none=True)
    if cleaning := cleaning_module(loaded.folder):
        (row,) = loaded.cleaner(cleaning.clean_row, [row])
    if isinstance(row, str):
        raise RequestError(row, "body" if given.message is None else "message")
    subject, body = row.get("subject", ""), row.get("body", "")
    if not f"{subject}{body}".strip():
        raise RequestError("there is no text in this mail", "body")
    return {"label": given.label, "subject": subject, "body": body}


def answer_row(given: AnswerFeedback, guard_replies: Collection[str] = ()) -> dict[str, Any]:
    """An instruction with the answer that a person wants, as the assistant read it.

    Raises RequestError for turns without order or text, and for an answer that is the guard's: the assistant must not
    learn when to decline from what the guard declines.
    """
    if {given.answer.strip(), (given.better or "").strip()} & {*guard_replies}:
        raise RequestError("the guard gave this answer, and the assistant does not learn from it", "answer")
    turns = without_answered([each.turn() for each in given.messages], guard_replies)
    system = "\n\n".join(each.content for each in turns if each.role == "system")
    talk = [each for each in turns if each.role != "system"]
    if [each.role for each in talk] != [("user", "assistant")[place % 2] for place in range(len(talk))]:
        raise RequestError("user and assistant take turns, and the user begins", "messages")
    if len(talk) % 2 == 0:
        raise RequestError("the last message is not a user's", "messages")
    if long := [size for each in turns if (size := len(each.content)) > LONGEST]:
        raise RequestError(f"a message has {long[0]} characters; the limit is {LONGEST}", "messages")
    if not all(tidy(each.content) for each in talk):
        raise RequestError("a message has no text", "messages")
    if given.good and given.better is not None:
        raise RequestError("a good answer needs no better one", "better")
    good = given.good or given.better is not None
    output = given.answer if given.better is None else given.better
    if good and not tidy(output):
        raise RequestError("there is no text to learn from", "answer" if given.better is None else "better")
    return {
        "instruction": talk[-1].content,
        "output": output,
        "system": system,
        "history": [each.content for each in talk[:-1]],
        "verdict": "good" if good else "bad",
    }


def keep(quarantine: Quarantine, settings: Settings, loaded: LoadedVersion, row: dict[str, Any], client: str) -> Kept:
    """Keep a row for the dataset that a version learned from.

    Raises RequestError if the server takes no feedback or the dataset can't read the row, which would stop a training.
    """
    if not settings.feedback:
        raise RequestError("this server takes no feedback", None, "feedback_off")
    try:
        columns = find_dataset(loaded.dataset).feedback if loaded.dataset else None
    except ModuleNotFoundError:  # another project's dataset
        columns = None
    lengths = {name: most for name, (_, most) in (columns or {}).items() if name in row}
    if not lengths:
        learned_from = loaded.dataset or "an unknown dataset"
        raise RequestError(f"{loaded.name} learned from {learned_from}, which takes no such feedback", "model")
    for name, most in lengths.items():
        text = row[name]
        if len(text) > most or len(text := tidy(text)) > most:  # tidying makes a ligature two letters
            raise RequestError(f"{name} has {len(text)} characters; the limit is {most}", name)
    kept = quarantine.add(loaded.dataset, row, client, loaded.registered_name)
    return Kept(kept=kept, dataset=loaded.dataset, model=loaded.registered_name)
