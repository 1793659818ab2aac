"""Feedback that waits: nothing learns from it until a person accepts it.

All rows stand in one table of a SQLite database, `data/feedback/waiting.db`. An accepted or dropped row leaves its time
and client there for a day, so that it still counts against the limit of that day.
"""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.inbox import FEEDBACK, INBOX
from tasks.registry.markup import cut, printable
from tasks.stages.lock import exclusive

DAY = 86_400
PATIENCE = 60
"""Seconds to wait for another process that writes."""
FULL = "too much feedback waits already; `threestage feedback` accepts or drops it"
TABLE = """CREATE TABLE IF NOT EXISTS waiting (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: a list that somebody read before stays true
    client TEXT, time REAL, dataset TEXT, version TEXT,
    row TEXT  -- as the dataset reads it, in JSON; NULL once a person has decided
)"""
ABOUT = ("subject", "body", "system", "history", "instruction")
"""The columns of the mail or conversation that a row is about; the others are the answer."""
COLUMNS = ("ID", "dataset", "says", "text", "client", "version")
SHOWN = 100
"""Characters of a text in a line."""

Decision = Literal["accepted", "dropped"]


@dataclass(frozen=True)
class Waiting:
    """A row that waits."""

    id: str
    client: str
    dataset: str
    row: Mapping[str, Any]
    """The row as the dataset reads it, with client, time and version."""

    @property
    def says(self) -> str:
        """The label or answer that the row wants, or that an answer is bad."""
        if self.row.get("verdict") == "bad":
            return "bad answer"
        return str(self.row.get("label", self.row.get("output", "")))

    @property
    def text(self) -> str:
        """The mail or the conversation that the row is about."""
        parts: list[str] = []
        for name in ABOUT:
            value = self.row.get(name) or ""
            parts += value if isinstance(value, list) else [value]
        return "\n".join(filter(None, parts))

    def cells(self, shown: int = SHOWN) -> list[str]:
        """Its line under COLUMNS, with so many characters of a text."""
        values = (self.id, self.dataset, self.says, self.text, self.client, str(self.row.get("version")))
        return [cut(value, shown) for value in values]

    def whole(self) -> str:
        """All of it. Texts are indented, so none passes for a heading."""
        lines = [f"{self.id}  {self.dataset}  {self.client}"]
        bad = str(self.row.get("output", "")) if self.says == "bad answer" else ""
        for name, content in (("says", self.says), ("answer", bad), ("text", self.text)):
            if content:
                lines += [f"{name}:", *(f"    {printable(line)}" for line in content.expandtabs(4).split("\n"))]
        return "\n".join(lines)


class Feedback:
    """The rows that wait. Several threads and servers may write at once; each call blocks for a moment."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path = settings.quarantine / "waiting.db"

    def add(self, dataset: str, row: Mapping[str, Any], *, client: str, version: str) -> bool:
        """Keep a row and return True. If this client's same row waits already, it counts as sent last; returns False.

        Raises Busy beyond the client's limit of a day, and Unavailable if too much waits or the database can't be
        written.
        """
        now = datetime.now(UTC).timestamp()
        text = json.dumps(row, ensure_ascii=False).encode(errors="replace").decode()
        with self._open() as store:
            same = "DELETE FROM waiting WHERE client = ? AND dataset = ? AND row = ?"
            is_new = not store.execute(same, (client, dataset, text)).rowcount
            self._check_room(store, client, size=len(text), now=now)
            values = (client, now, dataset, version, text)
            store.execute("INSERT INTO waiting VALUES (NULL, ?, ?, ?, ?, ?)", values)
        if is_new:
            WRITTEN.labels(dataset).inc()
        return is_new

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

    def _check_room(self, store: sqlite3.Connection, client: str, *, size: int, now: float) -> None:
        day = "SELECT time FROM waiting WHERE client = ? AND time > ? AND time <= ? ORDER BY time"
        today = store.execute(day, (client, now - DAY, now)).fetchall()  # a clock may have been wrong
        most = self.settings.feedback_a_client
        if len(today) >= most:
            wait = max(1, round(today[-most][0] + DAY - now))
            raise Busy(f"you sent {len(today)} rows of feedback in a day, which is the limit", wait)
        rows, bytes_ = store.execute("SELECT count(row), total(length(CAST(row AS BLOB))) FROM waiting").fetchone()
        if rows >= self.settings.feedback_rows or bytes_ + size > self.settings.feedback_bytes:
            raise Unavailable(FULL, None, "feedback_full")

    def _decide(self, ids: Collection[str], decision: Decision) -> int:
        with self._open() as store:
            chosen = [waiting for waiting in _waiting(store) if waiting.id in ids]
            if decision == "accepted":
                for dataset in sorted({waiting.dataset for waiting in chosen}):
                    _accept(dataset, [waiting.row for waiting in chosen if waiting.dataset == dataset])
            store.executemany("UPDATE waiting SET row = NULL WHERE id = ?", [(waiting.id,) for waiting in chosen])
            yesterday = datetime.now(UTC).timestamp() - DAY
            store.execute("DELETE FROM waiting WHERE row IS NULL AND time < ?", (yesterday,))
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
                    store.execute(TABLE)
                    yield store
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", error)  # without the path
            raise Unavailable(f"feedback can't be kept: {reason}", None, "feedback_not_kept") from error


def client_of(request: Request, keys: Sequence[str]) -> str:
    """The client of a request: which of the server's `keys` it has, else its network. An unchecked key would let one
    client pass for many."""
    key = request.headers.get("authorization", "").partition(" ")[2].strip()
    for number, known in enumerate(keys, 1):
        if is_key(key, [known]):
            return f"key {number}"
    return network_of(request) or "unknown"


def select(rows: Iterable[Waiting], words: Sequence[str]) -> list[str]:
    """The ids of the rows that words name: ids, clients, datasets, or `all`.

    Raises UserError for a word that names no row; `all` may name none.
    """
    listed = list(rows)
    chosen: dict[str, None] = {}
    for word in words:
        ids = [row.id for row in listed if word in ("all", row.dataset, row.id, row.client)]
        if not ids and word != "all":
            raise UserError(f"no feedback {word!r} waits; `threestage feedback` lists what does")
        chosen |= dict.fromkeys(ids)
    return list(chosen)


def _waiting(store: sqlite3.Connection) -> list[Waiting]:
    rows = store.execute("SELECT * FROM waiting WHERE row IS NOT NULL ORDER BY id")
    waiting = []
    for number, client, seconds, dataset, version, text in rows:
        time = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
        row = {**json.loads(text), "version": version, "time": time, "client": client}
        waiting.append(Waiting(id=str(number), client=client, dataset=dataset, row=row))
    return waiting


def _accept(dataset: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to an inbox, each once."""
    path = INBOX / dataset / FEEDBACK
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    lines += [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomic(path, "".join(f"{line}\n" for line in dict.fromkeys(filter(None, lines))))
