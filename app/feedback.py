"""/feedback: what people say of an answer becomes a row of the dataset from which the next training learns.

Rows are appended to `data/inbox/<dataset>/feedback.jsonl`, in the form in which that dataset reads people's own rows,
with the version, the verdict, the time and the client beside. What a client said last of the same is not written again.
What becomes of the rows is said in tasks/data/inbox.py and by the datasets.
"""

import fcntl
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from app.errors import Busy, RequestError, Unavailable
from app.limits import network_of
from app.metrics import FEEDBACK as WRITTEN
from app.openai_api import ERRORS, asked
from app.schema import ChatMessage, Closed
from app.settings import Settings
from app.versions import Loaded
from llm.applications.classifier import Classifier
from tasks.data.inbox import FEEDBACK
from tasks.data.textfiles import tidy
from tasks.datasets import find
from tasks.served import cleaning_module

DAY = 86_400
SALT = ".salt"  # beside the datasets, of which none has it
ASKED = ("subject", "body", "system", "history", "instruction")
"""What a row is about: the mail, or the conversation."""
BESIDE = ("version", "time", "client")
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
    """Whether a row was written; false where this client said the same before."""
    dataset: str
    model: str
    """The version that it is about."""


class _Said(NamedTuple):
    """What is remembered of a row."""

    client: str
    asked: bytes
    all: bytes
    time: float
    """Seconds since 1970."""


class Inbox:
    """The rows that people left, in a file a dataset. Any number of threads and servers may write."""

    def __init__(self, settings: Settings) -> None:
        self.folder, self.most = settings.inbox, settings.feedback_a_client
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, ...], list[_Said]]] = {}

    def add(self, dataset: str, row: dict[str, Any], client: str, version: str) -> bool:
        """Append a row, unless this client said the same last; whether it was.

        Raises Busy past the client's share of a day, over all datasets, and Unavailable where nothing can be written.
        """
        path = self.folder / dataset / FEEDBACK
        with self._lock, _writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder):
                added = self._add(path, row, client, version)
        if added:
            WRITTEN.labels(dataset).inc()
        return added

    def client_of(self, request: Request, keys: Sequence[str] = ()) -> str:
        """Who asks, as a short hash: of the key where it is one of the server's `keys`, else of the address.

        A key that nobody checks would make as many clients of one as it likes. Without the salt, which never leaves
        this machine, an address could be found from its hash by trying all. Raises Unavailable as `add`.
        """
        key = request.headers.get("authorization", "").partition(" ")[2].strip()
        known = any(hmac.compare_digest(key.encode(), each.encode()) for each in keys)
        who = key if known else (request.client.host if request.client else "")
        with self._lock, _writing():
            salt = _salt(self.folder / SALT)
        return hmac.new(salt, who.encode(), "sha256").hexdigest()[:12]

    def _add(self, path: Path, row: dict[str, Any], client: str, version: str) -> bool:
        now = datetime.now(UTC)
        row = row | {"version": version, "time": now.isoformat(timespec="seconds"), "client": client}
        new, said = _said(row), self._known(path)
        before = next((each for each in reversed(said) if (each.client, each.asked) == (client, new.asked)), None)
        if before and before.all == new.all:
            return False
        files = self.folder.glob(f"*/{FEEDBACK}")
        since = now.timestamp() - DAY
        today = sorted(each.time for file in files for each in self._known(file) if each.client == client)
        today = [time for time in today if since < time <= now.timestamp()]  # a clock may have been wrong
        if len(today) >= self.most:
            wait = max(1, round(today[len(today) - self.most] - since))
            raise Busy(f"{len(today)} rows of feedback in a day; no more are taken", wait)
        _append(path, json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n")
        self._read[path] = (_stamp(path), [*said, new])
        return True

    def _known(self, path: Path) -> list[_Said]:
        """What the rows of a file say, read again where another changed it."""
        stamp = _stamp(path)
        if path not in self._read or self._read[path][0] != stamp:
            lines = path.read_bytes().split(b"\n") if stamp else []
            self._read[path] = (stamp, [_said(row) for row in map(_row, lines) if row is not None])
        return self._read[path][1]


def _salt(path: Path) -> bytes:
    """Random bytes, the same as long as their file is there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, made = mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(16))
                file.flush()
                os.fsync(descriptor)
            with suppress(FileExistsError):
                os.link(made, path)  # of several servers the first one's counts
        finally:
            Path(made).unlink()
        return path.read_bytes()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"feedback can't be kept: {error.strerror}", None, "feedback_not_kept") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other server writes below the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs when a file has changed; nothing for none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _said(row: Mapping[str, Any]) -> _Said:
    def digest(names: Sequence[str]) -> bytes:
        return hashlib.sha256(json.dumps([(name, row.get(name)) for name in names]).encode()).digest()[:16]

    try:
        time = datetime.fromisoformat(row["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        time = 0.0
    return _Said(str(row.get("client")), digest(ASKED), digest(sorted(row.keys() - set(BESIDE))), time)


def _append(path: Path, line: bytes) -> None:
    """Add a line to a file, whole or not at all. What a crash cut at its end goes, a whole row there stays."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            content = path.read_bytes()
            begin = content.rfind(b"\n") + 1
            if _row(content[begin:]) is None:
                file.truncate(begin)
                end = begin
            else:
                line = b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def email_row(loaded: Loaded, said: EmailFeedback) -> dict[str, Any]:
    """A labelled mail. Raises RequestError for an unknown label and a mail without text."""
    if not isinstance(loaded.model, Classifier):
        raise RequestError(f"{loaded.named} is no classifier", "model", "not_a_classifier")
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
    if loaded.objective != "assistant":
        raise RequestError(f"{loaded.named} is no assistant", "model", "not_a_chat_model")
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
    """A row for the next training: what a mail really is, or what an answer should have been."""
    settings: Settings = request.app.state.settings
    _check_on(settings)
    name = "classifier" if isinstance(said, EmailFeedback) else "assistant"
    loaded = await asked(request, said.model, (name,))
    if isinstance(said, EmailFeedback):
        row = await labelled(loaded, said, settings.queue, network_of(request))
    else:
        row = await run_in_threadpool(answer_row, loaded, said)
    client = await run_in_threadpool(request.app.state.feedback.client_of, request, settings.api_keys)
    return await run_in_threadpool(keep, request.app.state.feedback, settings, loaded, row, client)


def keep(inbox: Inbox, settings: Settings, loaded: Loaded, row: dict[str, Any], client: str) -> Kept:
    """Write a row into the inbox of the dataset that a version learned from.

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
    kept = inbox.add(loaded.dataset, row, client, loaded.registered_name)
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
