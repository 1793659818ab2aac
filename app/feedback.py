"""/feedback: what people say of an answer becomes a row of the dataset from which the next training learns.

Rows are appended to `data/inbox/<dataset>/feedback.jsonl`, in the form in which that dataset reads people's own rows,
with the version, the verdict and the time beside. A row that is there already is not written again; of what one client
said twice of the same the last counts.
"""

import fcntl
import hashlib
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from app.errors import Busy, RequestError
from app.metrics import FEEDBACK
from app.openai_api import ERRORS, asked
from app.schema import ChatMessage
from app.settings import Settings
from app.versions import Loaded
from llm.applications.classifier import Classifier
from tasks.served import cleaning_module

FILE = "feedback.jsonl"
DAY = 86_400

router = APIRouter(tags=["feedback"], responses=ERRORS)


class EmailFeedback(BaseModel):
    """What a mail is, as a person says."""

    model_config = ConfigDict(extra="forbid")

    about: Literal["email"]
    subject: str = ""
    body: str = ""
    message: str | None = None
    """A raw message, instead of subject and body."""
    label: str
    """One of the classifier's labels."""
    model: str | None = None


class AnswerFeedback(BaseModel):
    """Whether an answer is good, as a person says, and what a better one is."""

    model_config = ConfigDict(extra="forbid")

    about: Literal["answer"]
    messages: list[ChatMessage] = Field(min_length=1, max_length=200)
    """The conversation up to the answer."""
    answer: str = Field(min_length=1, max_length=10_000)
    good: bool
    better: str | None = Field(default=None, min_length=1, max_length=10_000)
    """What the answer should have been; a bad answer without it is kept, and nothing learns from it."""
    model: str | None = None


Feedback = Annotated[EmailFeedback | AnswerFeedback, Field(discriminator="about")]


class Kept(BaseModel):
    """What became of it."""

    kept: bool
    """Whether a row was written; false where the same is there already."""
    dataset: str
    model: str
    """The version that it is about."""


class Inbox:
    """The rows that people left, in a file a dataset."""

    def __init__(self, settings: Settings) -> None:
        self.folder, self.most = settings.inbox, settings.feedback_a_client
        self._lock = threading.Lock()

    def add(self, dataset: str, row: dict[str, Any], client: str, version: str) -> bool:
        """Append a row, unless this client said the same last; whether it was. Raises Busy past the day's share."""
        path = self.folder / dataset / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # another server may write, too
            rows = _rows(path)
            same = [each for each in rows if each.get("client") == client and _asked(each) == _asked(row)]
            if same and all(same[-1].get(key) == value for key, value in row.items()):
                return False
            now = datetime.now(UTC)
            today = [each for each in rows if each.get("client") == client and _age(each, now) < DAY]
            if len(today) >= self.most:
                wait = max(1, int(DAY - max(_age(each, now) for each in today)))
                raise Busy(f"{len(today)} rows of feedback in a day; no more are taken", wait)
            more = {"version": version, "time": now.isoformat(timespec="seconds"), "client": client}
            line = json.dumps(row | more, ensure_ascii=False).encode(errors="replace") + b"\n"
            end = file.seek(0, os.SEEK_END)
            if end and not path.read_bytes().endswith(b"\n"):  # a row that a crash cut
                file.truncate(path.read_bytes().rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        FEEDBACK.labels(dataset).inc()
        return True


def _rows(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found


def _asked(row: dict[str, Any]) -> tuple[str, ...]:
    """What a row is about: the mail, or the conversation."""
    names = ("subject", "body", "system", "history", "instruction")
    return tuple(json.dumps(row.get(name)) for name in names)


def _age(row: dict[str, Any], now: datetime) -> float:
    try:
        return (now - datetime.fromisoformat(row["time"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return DAY


def email_row(loaded: Loaded, said: EmailFeedback) -> dict[str, Any]:
    """A labelled mail. Raises RequestError for an unknown label and a mail without text."""
    if not isinstance(loaded.model, Classifier):
        raise RequestError(f"{loaded.named} is no classifier", "model", "not_a_classifier")
    if said.label not in loaded.model.config.labels:
        known = ", ".join(loaded.model.config.labels)
        raise RequestError(f"label {said.label!r} is not one of {known}", "label")
    cleaning = cleaning_module(loaded.folder)
    row = {"subject": said.subject, "body": said.body} if said.message is None else {"message": said.message}
    try:
        row = cleaning.clean_row(row) if cleaning else row
    except ValueError as error:
        raise RequestError(str(error), "message") from None
    if not f"{row.get('subject', '')}{row.get('body', '')}".strip():
        raise RequestError("there is no text in this mail", "body")
    return {"label": said.label, "subject": row.get("subject", ""), "body": row.get("body", "")}


def answer_row(loaded: Loaded, said: AnswerFeedback) -> dict[str, Any]:
    """An instruction with the answer that a person wants. Raises RequestError for turns out of order."""
    if loaded.objective != "assistant":
        raise RequestError(f"{loaded.named} is no assistant", "model", "not_a_chat_model")
    turns = [each.turn() for each in said.messages]
    system = "\n\n".join(each.content for each in turns if each.role == "system")
    talk = [each for each in turns if each.role != "system"]
    if [each.role for each in talk] != [("user", "assistant")[place % 2] for place in range(len(talk))]:
        raise RequestError("user and assistant take turns, and the user begins", "messages")
    if len(talk) % 2 == 0 or not talk[-1].content.strip():
        raise RequestError("the last message is not a user's with text", "messages")
    good = said.good or said.better is not None
    return {
        "instruction": talk[-1].content,
        "output": said.better or said.answer,
        "system": system,
        "history": [each.content for each in talk[:-1]],
        "verdict": "good" if good else "bad",
    }


def client_of(request: Request) -> str:
    """Who asks, as a word that says nothing else: of the key where there is one, else of the address."""
    key = request.headers.get("authorization", "").partition(" ")[2]
    who = key or (request.client.host if request.client else "")
    return hashlib.sha256(who.encode()).hexdigest()[:12]


@router.post("/feedback", summary="Say what an answer is worth")
async def feedback(request: Request, said: Feedback) -> Kept:
    """A row for the next training: what a mail really is, or what an answer should have been."""
    name = "classifier" if isinstance(said, EmailFeedback) else "assistant"
    loaded = await asked(request, said.model, (name,))
    make = email_row if isinstance(said, EmailFeedback) else answer_row
    row = await run_in_threadpool(make, loaded, said)
    return await run_in_threadpool(keep, request.app.state.feedback, request.app.state.settings, loaded, row, client_of(request))


def keep(inbox: Inbox, settings: Settings, loaded: Loaded, row: dict[str, Any], client: str) -> Kept:
    """Write a row into the inbox of the dataset that a version learned from."""
    if not settings.feedback:
        raise RequestError("this server takes no feedback", None, "feedback_off")
    if loaded.dataset is None:
        raise RequestError(f"{loaded.named} does not say which dataset it learned from", "model")
    kept = inbox.add(loaded.dataset, row, client, loaded.registered_name)
    return Kept(kept=kept, dataset=loaded.dataset, model=loaded.registered_name)
