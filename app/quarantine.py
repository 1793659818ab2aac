"""Feedback that waits: the server writes it down here, and nothing learns from it until a person accepts it.

All rows wait in one file, `data/feedback/waiting.jsonl`, each with its dataset, version, time and client. A row that
was accepted or dropped leaves its id, time and client there for a day, so that the shares of that day still hold.
"""

import fcntl
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from fastapi import Request

from app.clients import is_key, network_of
from app.errors import Busy, Unavailable
from app.metrics import FEEDBACK as WRITTEN
from app.pipeline import in_project
from app.settings import Settings
from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.inbox import FEEDBACK, INBOX, plain
from tasks.stages.graph import LOCK_FILE, track
from tasks.stages.lock import exclusive

DAY = 86_400
ASKED = ("subject", "body", "system", "history", "instruction")
"""The columns that say what a row is about: the mail, or the conversation."""
BESIDE = ("version", "time", "client")
SHARE_OF_BYTES = 10
"""One client may fill one in so many of the bytes."""
FULL = "too much feedback waits already; `threestage feedback` accepts or drops it"

Decision = Literal["accepted", "dropped"]


@dataclass(frozen=True)
class Waiting:
    """A row that waits, or the trace of one that was decided on."""

    id: str
    client: str
    time: float
    """Seconds since 1970."""
    dataset: str
    row: Mapping[str, Any]
    """As the dataset reads it, with client, time and version; empty for one that was decided on."""
    about: bytes
    """A hash of what it is about, case, spaces and punctuation apart."""
    says: bytes
    """A hash of that and of what it says."""
    size: int


class Quarantine:
    """The rows that people left. Any number of threads and servers may write."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.folder = settings, settings.quarantine
        self.path = self.folder / "waiting.jsonl"
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, ...], list[Waiting]] = ((), [])

    def add(self, dataset: str, row: Mapping[str, Any], client: str, version: str) -> bool:
        """Append a row, unless this client said the same last; whether it was.

        Raises Busy past the client's share of a day, and Unavailable where too much waits or nothing can be written.
        """
        with self._alone():
            now = datetime.now(UTC)
            time = now.isoformat(timespec="microseconds")  # the order of nearly equal rows
            beside = {"version": version, "time": time, "client": client}
            line = json.dumps({"dataset": dataset, **row, **beside}, ensure_ascii=False).encode(errors="replace")
            new, known = _waiting(line), self._known()
            before = next((each for each in reversed(known) if (each.client, each.about) == (client, new.about)), None)
            if before and before.says == new.says:
                return False
            self._check_room(new, known, now.timestamp())
            _append(self.path, line + b"\n")
            self._read = (_stamp(self.path), [*known, new])
        WRITTEN.labels(dataset).inc()
        return True

    def waiting(self) -> list[Waiting]:
        """The rows that wait, in the order in which they came."""
        with self._alone():
            return [each for each in self._known() if each.row]

    def decide(self, ids: Collection[str], decision: Decision) -> tuple[int, list[str]]:
        """Accept rows into the inboxes of their datasets, or drop them; how many, and the pointers for git.

        What was decided before stays so. A client, a dataset or `all` is accepted even if no row is left under that
        name. Raises UserError for what is none of these, and where nothing can be accepted: outside of a project, or
        while a stage runs.
        """
        if decision == "dropped":
            return self._decide(ids, decision), []
        in_project()
        with exclusive(LOCK_FILE, patience=0):  # a stage that runs would take the new rows for those that it read
            return self._decide(ids, decision), track(INBOX)

    def client_of(self, request: Request, keys: Sequence[str] = ()) -> str:
        """Who asks, as a short hash: of the key where it is one of the server's `keys`, else of the network.

        A key that nobody checks would make as many clients of one as it likes. Without the salt, which never leaves
        this machine, a network could be found from its hash by trying all. Raises Unavailable where no salt can be
        written.
        """
        key = request.headers.get("authorization", "").partition(" ")[2].strip()
        who = key if is_key(key, keys) else network_of(request) or ""
        with self._alone():
            salt = _salt(self.folder / ".salt")
        return hmac.new(salt, who.encode(), "sha256").hexdigest()[:12]

    def _check_room(self, new: Waiting, known: Sequence[Waiting], now: float) -> None:
        waiting = [each for each in known if each.row]
        own = [each for each in known if each.client == new.client]
        today = sorted(each.time for each in own if now - DAY < each.time <= now)  # a clock may have been wrong
        if len(today) >= (most := self.settings.feedback_a_client):
            wait = max(1, round(today[len(today) - most] + DAY - now))
            raise Busy(f"{len(today)} rows of feedback in a day; no more are taken", wait)
        room = self.settings.feedback_bytes
        if sum(each.size for each in own) + new.size > room // SHARE_OF_BYTES:
            raise Busy(f"{room // SHARE_OF_BYTES} bytes of your feedback wait; no more are taken", DAY)
        size = sum(each.size for each in waiting) + new.size
        if len(waiting) >= self.settings.feedback_rows or size > room:
            raise Unavailable(FULL, None, "feedback_full")

    def _decide(self, ids: Collection[str], decision: Decision) -> int:
        with self._alone():
            known = {each.id: each for each in self._known()}
            names = {"all", *known, *(name for each in known.values() for name in (each.client, each.dataset))}
            if unknown := sorted({*ids} - names):
                raise UserError(f"no feedback {unknown[0]!r} waits; `threestage feedback` lists what does")
            chosen = [each for each in map(known.get, dict.fromkeys(ids)) if each and each.row]
            gone = {each.id for each in chosen}
            if decision == "accepted":
                for dataset in sorted({each.dataset for each in chosen}):
                    _accept(dataset, [each.row for each in chosen if each.dataset == dataset])
            old, lines = datetime.now(UTC).timestamp() - DAY, []
            for each in known.values():
                time = datetime.fromtimestamp(each.time, UTC).isoformat(timespec="milliseconds")
                line: dict[str, Any] = {"dataset": each.dataset, **each.row}
                if each.id in gone or not each.row:
                    line = {"dataset": each.dataset, "decided": each.id, "time": time, "client": each.client}
                if each.time > old or "decided" not in line:
                    lines.append(json.dumps(line, ensure_ascii=False))
            write_atomic(self.path, "".join(f"{line}\n" for line in lines))
        return len(chosen)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While nothing else reads or writes what waits. Raises Unavailable where that is not possible."""
        with self._lock, _writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def _known(self) -> list[Waiting]:
        """What the file says, read again where another process changed it."""
        stamp = _stamp(self.path)
        if self._read[0] != stamp:
            lines = self.path.read_bytes().split(b"\n") if stamp else []
            self._read = (stamp, [each for line in lines if (each := _waiting(line))])
        return self._read[1]


def _accept(dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to an inbox, each once."""
    path = INBOX / dataset / FEEDBACK
    there = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    new = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomic(path, "".join(f"{line}\n" for line in dict.fromkeys([*filter(None, there), *new])))


def _waiting(line: bytes) -> Waiting | None:
    """What a line of the file says; None for one that a crash cut."""
    try:
        row = json.loads(line)
        client, time = str(row["client"]), datetime.fromisoformat(row["time"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
    dataset = row.pop("dataset", "")
    if "decided" in row:
        return Waiting(row["decided"], client, time, dataset, {}, b"", b"", 0)
    about = _digest([plain(json.dumps(row.get(name), ensure_ascii=False)) for name in ASKED])
    rest = sorted((name, value) for name, value in row.items() if name not in (*ASKED, *BESIDE))
    id_ = hashlib.sha256(line).hexdigest()[:10]
    return Waiting(id_, client, time, dataset, row, about, _digest([about.hex(), rest]), len(line))


def _digest(content: Any) -> bytes:
    return hashlib.sha256(json.dumps(content).encode()).digest()[:16]


def _salt(path: Path) -> bytes:
    """Random bytes, the same as long as their file is there."""
    if not path.exists():
        new = path.with_name(".salt.new")
        new.touch(0o600)
        new.write_bytes(os.urandom(16))
        new.replace(path)
    return path.read_bytes()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"feedback can't be kept: {error.strerror}", None, "feedback_not_kept") from error


def _stamp(path: Path) -> tuple[int, ...]:
    """What differs when a file has changed; nothing for none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _append(path: Path, line: bytes) -> None:
    """Add a line to a file, whole or not at all, behind whatever a crash left at its end."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            line = b"\n" + line
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise
