"""Feedback that waits: nothing learns from it until a person accepts it.

All rows wait in one SQLite database, `data/feedback/waiting.db`. An accepted or dropped row leaves its time and client
there for a day, so that it still counts against the limits of that day.
"""

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import Request

from app.clients import is_key, network_of
from app.errors import Busy, Unavailable
from app.metrics import FEEDBACK as WRITTEN
from app.project import in_project
from app.settings import Settings
from llm.files import write_atomic
from tasks.data.inbox import FEEDBACK, INBOX
from tasks.stages.lock import exclusive

DAY = 86_400
ABOUT = ("subject", "body", "system", "history", "instruction")
"""The columns of the mail or conversation that a row is about; the others are the answer."""
SHARE_OF_BYTES = 10
"""One client may fill a tenth of the bytes."""
PATIENCE = 60
"""Seconds to wait for another process that writes."""
FULL = "too much feedback waits already; `threestage feedback` accepts or drops it"
TABLES = (
    # `about` and `answer` are hashes. An id is never used twice: a list that somebody read before stays true.
    "CREATE TABLE IF NOT EXISTS feedback (id INTEGER PRIMARY KEY AUTOINCREMENT, client TEXT, time REAL, dataset TEXT, "
    "line TEXT, size INTEGER, about TEXT, answer TEXT)",
    "CREATE TABLE IF NOT EXISTS salt AS SELECT randomblob(16) AS value",
)

Decision = Literal["accepted", "dropped"]


@dataclass(frozen=True)
class Waiting:
    """A row that waits."""

    id: str
    client: str
    dataset: str
    row: Mapping[str, Any]
    """The row as the dataset reads it, with client, time and version."""


class Quarantine:
    """The rows that wait. Several threads and servers may write at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path = settings.quarantine / "waiting.db"

    def add(self, dataset: str, row: Mapping[str, Any], *, client: str, version: str) -> bool:
        """Keep a row and return True; False if the last row of this client about the same text has the same answer.

        Raises Busy beyond the client's limits, and Unavailable if too much waits or the database can't be written.
        """
        now = datetime.now(UTC)
        time = now.isoformat(timespec="microseconds")
        whole = {**row, "version": version, "time": time, "client": client}
        line = json.dumps(whole, ensure_ascii=False).encode(errors="replace")
        about = _digest([row.get(name) for name in ABOUT])
        answer = _digest(sorted((name, value) for name, value in row.items() if name not in ABOUT))
        with self._open() as store:
            last = "SELECT answer FROM feedback WHERE client = ? AND about = ? ORDER BY id DESC"
            if store.execute(last, (client, about)).fetchone() == (answer,):
                return False
            self._check_room(store, client, size=len(line), now=now.timestamp())
            values = (client, now.timestamp(), dataset, line.decode(), len(line), about, answer)
            store.execute("INSERT INTO feedback VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values)
        WRITTEN.labels(dataset).inc()
        return True

    def waiting(self) -> list[Waiting]:
        """The rows that wait, the oldest first."""
        with self._open() as store:
            return _waiting(store)

    def decide(self, ids: Collection[str], decision: Decision) -> tuple[int, list[str]]:
        """Accept rows into the inboxes of their datasets, or drop them; returns how many, and DVC's pointers for git.

        Ids of rows that do not wait are ignored. Raises UserError if rows can't be accepted: outside of a project, or
        while a stage runs.
        """
        if decision == "dropped":
            return self._decide(ids, decision), []
        in_project()
        from tasks.stages.dvc import track  # with DVC, which a server outside of a project lacks

        with exclusive("dvc.lock", patience=0):  # a running stage would record the new rows as those that it read
            return self._decide(ids, decision), track(INBOX)

    def client_of(self, request: Request, keys: Sequence[str] = ()) -> str:
        """A short hash of the client: of its key if that is one of the server's `keys`, else of its network.

        An unchecked key would let one client pass for many. The salt never leaves this machine: without it, nobody can
        find a network by hashing all of them. Raises Unavailable if the salt can't be written.
        """
        key = request.headers.get("authorization", "").partition(" ")[2].strip()
        who = key if is_key(key, keys) else network_of(request) or ""
        with self._open() as store:
            (salt,) = store.execute("SELECT value FROM salt").fetchone()
        return hmac.new(salt, who.encode(), "sha256").hexdigest()[:12]

    def _check_room(self, store: sqlite3.Connection, client: str, *, size: int, now: float) -> None:
        day = "SELECT time FROM feedback WHERE client = ? AND time > ? AND time <= ? ORDER BY time"
        today = store.execute(day, (client, now - DAY, now)).fetchall()  # a clock may have been wrong
        most = self.settings.feedback_a_client
        if len(today) >= most:
            wait = max(1, round(today[-most][0] + DAY - now))
            raise Busy(f"you sent {len(today)} rows of feedback in a day, which is the limit", wait)
        room = self.settings.feedback_bytes
        (own,) = store.execute("SELECT total(size) FROM feedback WHERE client = ?", (client,)).fetchone()
        if own + size > room // SHARE_OF_BYTES:
            raise Busy(f"{room // SHARE_OF_BYTES} bytes of your feedback wait, which is the limit", DAY)
        rows, waiting = store.execute("SELECT count(*), total(size) FROM feedback WHERE size > 0").fetchone()
        if rows >= self.settings.feedback_rows or waiting + size > room:
            raise Unavailable(FULL, None, "feedback_full")

    def _decide(self, ids: Collection[str], decision: Decision) -> int:
        with self._open() as store:
            chosen = [row for row in _waiting(store) if row.id in ids]
            if decision == "accepted":
                by_dataset: dict[str, list[Mapping[str, Any]]] = {}
                for waiting in chosen:
                    by_dataset.setdefault(waiting.dataset, []).append(waiting.row)
                for dataset, rows in sorted(by_dataset.items()):
                    _accept(dataset, rows)
            trace = "UPDATE feedback SET line = '', size = 0, about = '', answer = '' WHERE id = ?"
            store.executemany(trace, [(int(waiting.id),) for waiting in chosen])
            yesterday = datetime.now(UTC).timestamp() - DAY
            store.execute("DELETE FROM feedback WHERE size = 0 AND time < ?", (yesterday,))
        return len(chosen)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The database in a transaction of its own. Raises Unavailable if it can't be read or written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(0o600)
            with closing(sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)) as store:
                store.execute("PRAGMA secure_delete = ON")  # a dropped row leaves no bytes in the file
                store.execute("BEGIN IMMEDIATE")
                with store:
                    for table in TABLES:
                        store.execute(table)
                    yield store
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", error)  # without the path
            raise Unavailable(f"feedback can't be kept: {reason}", None, "feedback_not_kept") from error


def _waiting(store: sqlite3.Connection) -> list[Waiting]:
    rows = store.execute("SELECT id, client, dataset, line FROM feedback WHERE size > 0 ORDER BY id")
    waiting = []
    for number, client, dataset, line in rows:
        waiting.append(Waiting(id=str(number), client=client, dataset=dataset, row=json.loads(line)))
    return waiting


def _accept(dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to an inbox, each once."""
    path = INBOX / dataset / FEEDBACK
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    lines += [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomic(path, "".join(f"{line}\n" for line in dict.fromkeys(filter(None, lines))))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
