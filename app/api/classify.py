"""/classify: labels for mails, one or thousands, as text or as raw messages."""

import math
import time
from functools import partial
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.api.openai import ERRORS
from app.api.schema import Closed
from app.errors import Gone, RequestError, Timeout
from app.metrics import EMAILS
from app.settings import Settings
from app.versions import LoadedVersion
from llm.loaded_model import LoadedModel
from llm.objectives import CLASSIFY
from llm.objectives.classifier import UNSURE, email_text, probabilities
from llm.objectives.classifier.explanations import moved_by
from tasks.served import cleaning_module

AT_ONCE = 64
"""Mails of a request that are read before it is another request's turn."""
MOST_EXPLAINED = 16
"""An explanation costs as much as forty mails."""
LONGEST_EXPLAINED = 50_000
"""Characters of a mail with an explanation, for which it is read forty times."""
MOST_SECONDS = 60.0
"""Time in which AT_ONCE mails must become text, as other requests wait for their turn."""

router = APIRouter(tags=["email"], responses=ERRORS)


class Email(Closed):
    """A mail: subject and body, or the whole `message`."""

    subject: str | None = None
    body: str | None = None
    message: str | None = None
    """A raw message: headers, an empty line, and the rest."""


class ClassifyRequest(Closed):
    """Mails to classify."""

    emails: list[Email] = Field(min_length=1, max_length=10_000, fail_fast=True)
    model: str | None = Field(default=None, max_length=200)
    """A name as in /v1: `classifier` is its champion, `classifier/3` a version."""
    explain: int = Field(default=0, ge=0, le=100)
    """Number of phrases to list that moved each decision most; for at most 16 mails of 50,000 characters."""


class Moved(BaseModel):
    """A phrase of a mail, the label that it makes likelier, and by how much: the log-odds that it adds."""

    text: str
    label: str
    effect: float


class Verdict(BaseModel):
    """The label of a mail, or why it has none."""

    label: str | None = None
    """One of the labels, or `unsure`."""
    leaning: str | None = None
    """The label, or the one that an unsure verdict leans to."""
    probability: float | None = None
    """Of the label that it leans to."""
    probabilities: dict[str, float] | None = None
    moved_by: list[Moved] | None = None
    """The strongest phrases first."""
    error: str | None = None


class Unreadable(NamedTuple):
    """Why a mail has no text."""

    reason: str


class Classification(BaseModel):
    """A verdict for each mail, in their order."""

    model: str
    """The version that answers, such as `threestage-classifier/3`."""
    threshold: float | None
    """A mail leans to the last label if its probability is above this; null takes the likeliest."""
    unsure: tuple[float, float] | None
    """Between these probabilities of the last label a mail gets none, but `unsure`; null always decides."""
    labels: list[str]
    verdicts: list[Verdict]


@router.post("/classify", summary="Classify mails")
async def classify(request: Request, body: ClassifyRequest) -> Classification:
    """A verdict for each mail; one that can't be read has an error, and the others have their verdicts."""
    loaded = await request.app.state.versions.wait_for(body.model, CLASSIFY)
    rows = [email.model_dump(exclude_none=True) for email in body.emails]
    return await _classified(request, loaded, rows, explained=body.explain)


async def _classified(
    request: Request, loaded: LoadedVersion, rows: list[dict[str, Any]], *, explained: int
) -> Classification:
    settings: Settings = request.app.state.settings
    deadline = time.monotonic() + settings.request_seconds
    if explained and len(rows) > MOST_EXPLAINED:
        raise RequestError(f"{len(rows)} mails with explain; at most {MOST_EXPLAINED} are explained at once", "explain")
    verdicts: list[Verdict] = []
    with loaded.classified_by(settings.queue):
        for first in range(0, len(rows), AT_ONCE):
            async with loaded.turn:  # and not a thread that waits: there are few
                if await request.is_disconnected():
                    raise Gone("the client has left")
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    raise Timeout(f"{first} of {len(rows)} mails were classified in the time that a request may take")
                part = rows[first : first + AT_ONCE]
                verdicts += await run_in_threadpool(
                    partial(verdicts_of, loaded, part, explained=explained, seconds=min(seconds, MOST_SECONDS))
                )
    config = loaded.model.config
    EMAILS.labels(loaded.registered_name).inc(len(rows))
    return Classification(
        model=loaded.registered_name,
        threshold=config.threshold,
        unsure=config.unsure,
        labels=list(config.labels),
        verdicts=verdicts,
    )


def verdicts_of(
    loaded: LoadedVersion, rows: list[dict[str, Any]], *, explained: int = 0, seconds: float = math.inf
) -> list[Verdict]:
    """A verdict for each row, after the version's own cleaning within `seconds`; a row may be an `error` already.

    Hold the version's `turn`.
    """
    config = loaded.model.config
    labels = config.labels
    texts = _texts(loaded, rows, seconds)
    verdicts = [_verdict_without_label(text, explained) for text in texts]
    readable = {number: text for number, text in enumerate(texts) if verdicts[number].error is None}
    if not readable:
        return verdicts
    read = partial(probabilities, LoadedModel(loaded.model, loaded.encoding))
    shares = read(list(readable.values()))
    decisions = zip(readable, shares, config.decide(shares), config.is_unsure(shares), strict=True)
    for number, row, label, unsure in decisions:
        verdict = verdicts[number]
        verdict.leaning = labels[label]
        verdict.label = UNSURE if unsure else verdict.leaning
        verdict.probability = float(row[label])
        verdict.probabilities = dict(zip(labels, map(float, row), strict=True))
        if explained:
            phrases = moved_by(read, labels, readable[number])[:explained]
            verdict.moved_by = [Moved(**phrase._asdict()) for phrase in phrases]
    return verdicts


def _texts(loaded: LoadedVersion, rows: list[dict[str, Any]], seconds: float) -> list[str | Unreadable]:
    """The text that the classifier reads of each row, or why there is none."""
    readable = [row for row in rows if "error" not in row]
    cleaning = cleaning_module(loaded.folder)
    clean = loaded.cleaner(cleaning.clean_row, readable, seconds) if cleaning else map(_as_it_is, readable)
    clean_rows = iter(clean)
    texts: list[str | Unreadable] = []
    for row in rows:
        cleaned = row["error"] if "error" in row else next(clean_rows)
        if isinstance(cleaned, str):
            texts.append(Unreadable(cleaned))
        else:
            texts.append(email_text(cleaned.get("subject", ""), cleaned.get("body", "")))
    return texts


def _verdict_without_label(text: str | Unreadable, explained: int) -> Verdict:
    """An empty verdict, or the error of a text that can't be classified or explained."""
    if isinstance(text, Unreadable):
        return Verdict(error=text.reason)
    if explained and len(text) > LONGEST_EXPLAINED:
        return Verdict(error=f"{len(text)} characters; at most {LONGEST_EXPLAINED} are explained")
    if not text.strip():
        return Verdict(error="there is no text to classify")
    return Verdict()


def _as_it_is(row: dict[str, Any]) -> dict[str, Any] | str:
    return "this model reads no raw messages; give subject and body" if "message" in row else row
