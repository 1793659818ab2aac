"""Mails become text in a process of their own, each within a time.

A few bytes can keep Python's, ftfy's and Beautiful Soup's parsers busy for hours: tags in tags, entities in entities.
Nothing can stop a thread that is in there, and it would take time from those who write text; a process can be ended.
"""

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

Row = Mapping[str, Any]
Clean = Callable[[Row], dict[str, Any]]

MOST_SECONDS = 20.0
"""Time that a row has; 4 MB of the slowest ordinary text, without a letter of ASCII, took 4 s."""
MOST_ENDED = 3
"""Rows of one call for which the process may be ended; those behind them are not read."""

logger = logging.getLogger(__name__)


class Cleaner:
    """A process that cleans rows: started when the first come, and again where it had to be ended."""

    def __init__(self, seconds: float = MOST_SECONDS) -> None:
        self.seconds = seconds
        self._pool: ProcessPoolExecutor | None = None
        self._turn = threading.Lock()
        self._closing = False

    def __call__(self, clean: Clean, rows: Sequence[Row], seconds: float = math.inf) -> list[dict[str, Any] | str]:
        """Each row as `clean` gives it, or why there is nothing: its ValueError, or that it took too long.

        All of them have so many `seconds`, from when none of another call is read any more.
        """
        found: list[dict[str, Any] | str] = []
        ended = 0
        with self._turn:
            deadline = time.monotonic() + seconds
            while len(found) < len(rows) and ended < MOST_ENDED and not self._closing and time.monotonic() < deadline:
                ended += not self._clean(clean, rows[len(found) :], found, deadline)
        why = f"{MOST_ENDED} mails before it could not be read within {self.seconds:g} s each"
        why = why if ended == MOST_ENDED else "those before it took all of the time"
        lost = f"not read: {'the server is ending' if self._closing else why}"
        return found + [lost] * (len(rows) - len(found))

    def _clean(self, clean: Clean, rows: Sequence[Row], found: list[dict[str, Any] | str], deadline: float) -> bool:
        """Clean rows until one ends the process; whether none did."""
        pool, futures = self._started(clean), list[Future[dict[str, Any]]]()
        with suppress(BrokenProcessPool):  # by a row before this one, as that one's future says
            for row in rows:
                futures.append(pool.submit(clean, row))
        try:
            for future in futures:
                left = max(0.0, deadline - time.monotonic())
                try:
                    found.append(future.result(min(self.seconds, left)))
                except ValueError as error:  # the cleaning's own errors
                    found.append(str(error))
            if len(futures) < len(rows):  # none of these did: it ended while nothing was asked of it
                raise BrokenProcessPool
        except TimeoutError:
            of_all = "not read within the time of all"
            found.append(of_all if left < self.seconds else f"not readable within {self.seconds:g} s")
        except BrokenProcessPool:
            found.append("not readable: it ended the process that reads mails")
        else:
            return True
        logger.warning("a mail was %s", found[-1])
        self._end()
        return False

    def _started(self, clean: Clean) -> ProcessPoolExecutor:
        if self._pool is None:
            # no fork: this process has threads
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)
            self._pool.submit(clean, {}).exception()  # it imports what it needs outside of a row's time
        return self._pool

    def _kill(self) -> None:
        processes = getattr(self._pool, "_processes", None) or {}
        for process in list(processes.values()):
            process.kill()

    def _end(self) -> None:
        self._kill()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def close(self, patience: float = 0.0) -> None:
        """End the process: when it has nothing to do, or after `patience` seconds."""
        free = self._turn.acquire(timeout=patience)
        self._closing = True
        while not free:
            self._kill()
            free = self._turn.acquire(timeout=0.1)
        self._end()
        self._turn.release()


def _begin() -> None:
    """Ctrl-C is for the server, without which nobody reads what this process makes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
