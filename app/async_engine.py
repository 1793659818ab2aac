"""One engine for all who ask: a thread makes tokens, and each client waits for its own.

The engine (llm/generation/engine.py) lets texts join and leave between any two steps. Here requests come from asyncio:
a client's are a stream of events, and one that is closed before its end, because the client left, gives its place back.
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
from llm.generation.engine import Engine, Event, Request, check_request
from llm.model.gpt import GPT

logger = logging.getLogger(__name__)


class Stream:
    """The events of a client's requests, each with the place of its request among them, as they come.

    Iterate to the end, or `close` it before.
    """

    def __init__(self, engine: "AsyncEngine", requests: Sequence[Request], network: str | None) -> None:
        self.requests, self.network = requests, network
        self.left: set[int] = set()
        """Places of requests whose end nobody waits for."""
        self.began = time.monotonic()
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event] | Exception] = asyncio.Queue()
        self._open = set(range(len(requests)))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._open:
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, Exception):
            self._open.clear()
            raise event
        if event[1].ended:
            self._open.discard(event[0])
        return event

    def stop(self, place: int) -> None:
        """End one request at the next step, which is an event, too."""
        self._engine.leave(self, {place})

    def close(self) -> None:
        """Give back what places are left."""
        if self._open:
            self._engine.leave(self, self._open)
            self._open = set()

    def tell(self, event: tuple[int, Event] | Exception) -> None:
        """From the engine's thread; whoever listened may be gone with its loop."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class AsyncEngine:
    """Runs up to `rows` requests at once, lets `queue` more wait, and refuses others as Busy.

    One client network holds at most `share` of these places.
    """

    def __init__(
        self, model: GPT, *, rows: int, queue: int, context_length: int | None = None, share: float = 1.0
    ) -> None:
        self.model, self.rows, self.queue, self.share = model, rows, queue, max(1, int(share * (rows + queue)))
        self.context_length = min(context_length or model.config.context_length, model.config.context_length)
        self._here: set[tuple[Stream, int]] = set()
        self._inbox: list[tuple[Stream, int]] = []
        self._changed = threading.Condition()  # of a lock that its holder may take again
        self._closing = False
        self._seconds = 1.0  # that a request took of late, in the mean
        engine = Engine(model, rows, self.context_length)
        self._thread = threading.Thread(target=self._run, args=(engine,), name="engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Requests that are in a row, or soon."""
        return min(len(self._here), self.rows)

    @property
    def waiting(self) -> int:
        """Requests that wait for a row."""
        return max(0, len(self._here) - self.rows)

    def submit(self, requests: Sequence[Request], network: str | None = None) -> Stream:
        """Take all of a client's requests, or none. Without a network no share bounds them.

        Raises UserError as `check_request` does, RequestError for more than ever have room, Busy where the queue has no
        room for them now, and Unavailable where the engine is closing. Call it from a running event loop.
        """
        for request in requests:
            check_request(request, self.model.config.vocabulary_size, self.context_length)
        most = self.rows + self.queue if network is None else self.share
        if len(requests) > most:
            raise RequestError(f"{len(requests)} texts in one request; at most {most} have room", "n")
        stream = Stream(self, requests, network)
        parts = [(stream, place) for place in range(len(requests))]
        with self._changed:
            if self._closing:
                raise Unavailable("this version is being unloaded; ask again")
            own = [each for each in self._here if each[0].network == network]
            for here, room, whose in ((self._here, self.rows + self.queue, ""), (own, most, " of your network")):
                if len(here) + len(parts) > room:
                    ahead = (len(here) + len(parts)) / self.rows
                    raise Busy(
                        f"{len(here)} requests{whose} run or wait already, and at most {room} may",
                        retry_after=max(1, math.ceil(ahead * self._seconds)),
                    )
            self._here.update(parts)
            self._inbox += parts
            self._changed.notify_all()
        return stream

    def leave(self, stream: Stream, places: set[int]) -> None:
        """End requests at the next step."""
        with self._changed:
            stream.left |= places
            self._changed.notify_all()

    def close(self, patience: float = 0.0) -> bool:
        """Take no more requests, and end in `patience` seconds or soon after; whether all had come to their end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._here, patience)
            for stream in {stream for stream, _ in self._here}:
                stream.left.update(range(len(stream.requests)))
                stream.tell(Unavailable("the server is ending"))
            self._changed.notify_all()
        self._thread.join()
        return done

    def _run(self, engine: Engine) -> None:
        known: dict[int, tuple[Stream, int]] = {}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._inbox or known or self._closing)
                for stream, place in self._inbox:
                    if place in stream.left:
                        self._forget(stream, place, Event(-1, None, "cancelled"))
                    else:
                        known[engine.submit(stream.requests[place])] = stream, place
                self._inbox.clear()
                for handle, (stream, place) in known.items():
                    if place in stream.left:
                        engine.cancel(handle)
                if self._closing and not known:
                    return
            try:
                events = engine.step()
            except Exception:  # a bug, or no memory: those who wait hear of it, and others may come
                logger.exception("the engine failed with %d requests", len(known))
                for handle, (stream, place) in known.items():
                    self._forget(stream, place, Failed("the model failed at this text; the server's log says why"))
                    engine.cancel(handle)  # its rows are free at the next step
                known.clear()
                continue
            for event in events:
                if event.handle not in known:  # of those that failed
                    continue
                stream, place = known[event.handle]
                if event.ended:
                    del known[event.handle]
                    self._forget(stream, place, event)
                else:
                    stream.tell((place, event))

    def _forget(self, stream: Stream, place: int, last: Event | Exception) -> None:
        """A request has ended; its place is free before its client hears of it."""
        with self._changed:
            self._here.discard((stream, place))
            self._seconds += 0.2 * (time.monotonic() - stream.began - self._seconds)
            self._changed.notify_all()
        stream.tell(last if isinstance(last, Exception) else (place, last))
