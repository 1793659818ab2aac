"""The endpoint /feedback: people correct labels and answers.

Each correction becomes a row in the form of a dataset's own files, and app/feedback.py keeps it until a person
accepts it.
"""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.openai import ERRORS
from app.api.schema import ChatMessage, Closed
from app.errors import RequestError
from app.feedback import client_of
from app.guard import replies_of, without_answered
from app.versions import LoadedVersion
from llm.chat import Message
from llm.errors import UserError
from llm.objectives import CHAT, CLASSIFY
from tasks.data.files import tidy
from tasks.find import find_dataset
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


Correction = Annotated[EmailFeedback | AnswerFeedback, Field(discriminator="about")]


class Kept(BaseModel):
    """The outcome of feedback."""

    kept: bool
    """Whether it is new; false if this client sent the same before."""
    dataset: str
    model: str
    """The version that it is about."""


@router.post("/feedback", summary="Correct a label or an answer")
async def feedback(request: Request, correction: Correction) -> Kept:
    """Keep the right label of a mail, or an opinion on an answer. Nothing learns from it until a person accepts it."""
    return await keep(request.app.state, correction, request)


async def keep(state: Any, correction: EmailFeedback | AnswerFeedback, request: Request) -> Kept:
    """Keep a correction for the dataset that the version learned from, which loads outside of the request threads.

    Raises RequestError if the server takes no feedback or the dataset can't read the row, which would stop a training.
    """
    settings = state.settings
    if not settings.feedback:
        raise RequestError("this server takes no feedback", None, "feedback_off")
    if isinstance(correction, EmailFeedback):
        loaded = await state.versions.wait_for(correction.model, CLASSIFY)
        with loaded.classified_by(settings.queue):
            async with loaded.turn:  # without a thread that waits: there are few
                row = await run_in_threadpool(email_row, loaded, correction)
    else:
        loaded = await state.versions.wait_for(correction.model, CHAT)
        row = await run_in_threadpool(answer_row, correction, await replies_of(state))
    client = client_of(request, settings.api_keys)

    def add() -> bool:
        _check_lengths(loaded, row)
        return state.feedback.add(loaded.dataset, row, client=client, version=loaded.registered_name)

    return Kept(kept=await run_in_threadpool(add), dataset=loaded.dataset, model=loaded.registered_name)


def email_row(loaded: LoadedVersion, correction: EmailFeedback) -> dict[str, Any]:
    """A labelled mail. Raises RequestError for an unknown label and a mail without text."""
    labels = loaded.model.config.labels
    if correction.label not in labels:
        raise RequestError(f"label {correction.label!r} is not one of {', '.join(labels)}", "label")
    row: dict[str, Any] | str = correction.model_dump(include={"subject", "body", "message"}, exclude_none=True)
    if cleaning := cleaning_module(loaded.folder):
        (row,) = loaded.cleaner(cleaning.clean_row, [row])
    if isinstance(row, str):
        raise RequestError(row, "body" if correction.message is None else "message")
    subject = row.get("subject", "")
    body = row.get("body", "")
    if not f"{subject}{body}".strip():
        raise RequestError("there is no text in this mail", "body")
    return {"label": correction.label, "subject": subject, "body": body}


def answer_row(correction: AnswerFeedback, guard_replies: Collection[str] = ()) -> dict[str, Any]:
    """An instruction with the answer that a person wants, as the assistant read it.

    Raises RequestError for turns without order or text, and for an answer that is the guard's: the assistant must not
    learn when to decline from what the guard declines.
    """
    if {correction.answer.strip(), (correction.better or "").strip()} & {*guard_replies}:
        raise RequestError("the guard gave this answer, and the assistant does not learn from it", "answer")
    turns = without_answered([message.turn() for message in correction.messages], guard_replies)
    system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
    talk = [turn for turn in turns if turn.role != "system"]
    _check_talk(talk)
    for turn in turns:
        if len(turn.content) > LONGEST:
            raise RequestError(f"a message has {len(turn.content)} characters; the limit is {LONGEST}", "messages")
    if not all(tidy(turn.content) for turn in talk):
        raise RequestError("a message has no text", "messages")
    if correction.good and correction.better is not None:
        raise RequestError("a good answer needs no better one", "better")
    good = correction.good or correction.better is not None
    output = correction.answer if correction.better is None else correction.better
    if good and not tidy(output):
        raise RequestError("there is no text to learn from", "answer" if correction.better is None else "better")
    return {
        "instruction": talk[-1].content,
        "output": output,
        "system": system,
        "history": [turn.content for turn in talk[:-1]],
        "verdict": "good" if good else "bad",
    }


def _check_talk(talk: Sequence[Message]) -> None:
    """Raise RequestError unless user and assistant take turns and the user has the last one."""
    roles = [turn.role for turn in talk]
    if any(role != "user" for role in roles[::2]) or any(role != "assistant" for role in roles[1::2]):
        raise RequestError("user and assistant take turns, and the user begins", "messages")
    if len(talk) % 2 == 0:
        raise RequestError("the last message is not a user's", "messages")


def _check_lengths(loaded: LoadedVersion, row: dict[str, Any]) -> None:
    """Raise RequestError for a row that the version's dataset can't read."""
    try:
        texts = find_dataset(loaded.dataset).TEXTS if loaded.dataset else {}
    except UserError:  # another project's dataset
        texts = {}
    lengths = {name: most for name, (_, most) in texts.items() if isinstance(row.get(name), str)}
    if not lengths:
        learned_from = loaded.dataset or "an unknown dataset"
        raise RequestError(f"{loaded.name} learned from {learned_from}, which takes no such feedback", "model")
    for name, most in lengths.items():
        text = row[name]
        if len(text) > most or len(text := tidy(text)) > most:  # tidying makes a ligature two letters
            raise RequestError(f"{name} has {len(text)} characters; the limit is {most}", name)
