"""One engine for all clients: a thread generates tokens, and each client waits for its own.

The engine (llm/generation/engine.py) lets texts join and leave between any two steps. Here requests come from asyncio:
those of a client are a stream of events, which gives its places back if it is closed before its end.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from app.errors import Busy, Failed, RequestError, Unavailable
from llm.generation.engine import Engine
from llm.generation.request import Event, Request, check_request
from llm.model.gpt import GPT

logger = logging.getLogger(__name__)


def check_room(held: int, new: int, *, room: int, seconds: float) -> None:
    """Raise Busy if `new` requests don't fit next to those that are `held`, to be tried after `seconds` a request."""
    if held + new > room:
        reason = f"{held} requests run or wait already, and at most {room} may"
        raise Busy(reason, retry_after=max(1, math.ceil((held + new) * seconds)))


class Stream:
    """The events of a client's requests, each with the number of its request among them.

    Iterate to the end, or `close` it before.
    """

    def __init__(self, engine: "AsyncEngine", requests: Sequence[Request]) -> None:
        self.requests = requests
        self.cancelled: set[int] = set()
        """Numbers of requests that the client gave up."""
        self.began = time.monotonic()
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event] | Exception] = asyncio.Queue()
        self._open = set(range(len(requests)))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._open:
            raise StopAsyncIteration
        item = await self._events.get()
        if isinstance(item, Exception):
            self._open.clear()
            raise item
        number, event = item
        if event.ended:
            self._open.discard(number)
        return item

    def stop(self, number: int) -> None:
        """End one request at the next step, which is an event, too."""
        self._engine.cancel(self, {number})

    def close(self) -> None:
        """Give back what places are left."""
        if self._open:
            self._engine.cancel(self, self._open)
            self._open = set()

    def put(self, event: tuple[int, Event] | Exception) -> None:
        """Called by the engine's thread; the client's loop may be gone."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class AsyncEngine:
    """Runs up to `rows` requests at once, lets `queue` more wait, and refuses others as Busy."""

    def __init__(self, model: GPT, *, rows: int, queue: int, context_length: int | None = None) -> None:
        self.model = model
        self.rows = rows
        self.room = rows + queue
        self.context_length = min(context_length or model.config.context_length, model.config.context_length)
        self._here: set[tuple[Stream, int]] = set()
        self._new: list[tuple[Stream, int]] = []
        self._changed = threading.Condition()  # of a lock that its holder may take again
        self._closing = False
        self._seconds = 1.0  # of a recent request, on average
        self._engine = Engine(model, rows, self.context_length)
        self._running: dict[int, tuple[Stream, int]] = {}  # by the engine's handles; the thread's own
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that are in a row, or soon."""
        return min(len(self._here), self.rows)

    @property
    def waiting(self) -> int:
        """Requests that wait for a row."""
        return max(0, len(self._here) - self.rows)

    def submit(self, requests: Sequence[Request]) -> Stream:
        """Accept all requests of a client, or none.

        Raises UserError as `check_request` does, RequestError for more than ever have room, Busy if the queue has no
        room for them now, and Unavailable if the engine is closing. Call it from a running event loop.
        """
        for request in requests:
            check_request(request, self.model.config.vocabulary_size, self.context_length)
        if len(requests) > self.room:
            raise RequestError(f"{len(requests)} texts in one request; at most {self.room} have room", "n")
        stream = Stream(self, requests)
        parts = [(stream, number) for number in range(len(requests))]
        with self._changed:
            if self._closing:
                raise Unavailable("this version is being unloaded; ask again")
            check_room(len(self._here), len(parts), room=self.room, seconds=self._seconds / self.rows)
            self._here.update(parts)
            self._new += parts
            self._changed.notify_all()
        return stream

    def cancel(self, stream: Stream, numbers: set[int]) -> None:
        """End requests at the next step."""
        with self._changed:
            stream.cancelled |= numbers
            self._changed.notify_all()

    def close(self, patience: float = 0.0) -> bool:
        """Accept no more requests, and end within `patience` seconds or soon after; whether all requests had ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._here, patience)
            for stream in {stream for stream, _ in self._here}:
                stream.cancelled.update(range(len(stream.requests)))
                stream.put(Unavailable("the server is ending"))
            self._changed.notify_all()
        self._thread.join()
        return done

    def _run(self) -> None:
        while self._take_changes():
            try:
                events = self._engine.step()
            except Exception:  # a bug, or no memory: these requests fail, and others may come
                logger.exception("the engine failed with %d requests", len(self._running))
                self._fail_running()
                continue
            for event in events:
                if event.handle in self._running:  # not of those that failed
                    self._pass_on(event)

    def _take_changes(self) -> bool:
        """Wait until there is work; submit and cancel what clients asked for. False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._new or self._running or self._closing)
            for stream, number in self._new:
                if number in stream.cancelled:
                    self._finish(stream, number, Event(-1, None, "cancelled"))
                else:
                    self._running[self._engine.submit(stream.requests[number])] = stream, number
            self._new.clear()
            for handle, (stream, number) in self._running.items():
                if number in stream.cancelled:
                    self._engine.cancel(handle)
            return bool(self._running) or not self._closing

    def _fail_running(self) -> None:
        for handle, (stream, number) in self._running.items():
            self._finish(stream, number, Failed("the model failed at this text; the server's log says why"))
            self._engine.cancel(handle)  # its rows are free at the next step
        self._running.clear()

    def _pass_on(self, event: Event) -> None:
        stream, number = self._running[event.handle]
        if event.ended:
            del self._running[event.handle]
            self._finish(stream, number, event)
        else:
            stream.put((number, event))

    def _finish(self, stream: Stream, number: int, last: Event | Exception) -> None:
        """End a request: its number is free before its client gets the last event."""
        with self._changed:
            self._here.discard((stream, number))
            self._seconds += 0.2 * (time.monotonic() - stream.began - self._seconds)
            self._changed.notify_all()
        stream.put(last if isinstance(last, Exception) else (number, last))
