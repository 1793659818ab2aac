"""Mails become text in a process of their own, each within a time limit.

A few bytes can keep the parsers of Python, ftfy and lxml busy for hours: tags in tags, entities in entities. A thread
in a parser can't be stopped and takes time from the threads that write text; a process can be ended.
"""

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

Row = Mapping[str, Any]
Clean = Callable[[Row], dict[str, Any]]

MOST_SECONDS = 20.0
"""Time limit of a row; 4 MB of the slowest ordinary text, without a letter of ASCII, took 4 s."""

logger = logging.getLogger(__name__)


class Cleaner:
    """A process that cleans rows, started with the first one and again after it had to be ended."""

    def __init__(self, seconds: float = MOST_SECONDS) -> None:
        self.seconds = seconds
        self._pool: ProcessPoolExecutor | None = None
        self._turn = threading.Lock()
        self._closing = False

    def __call__(self, clean: Clean, rows: Sequence[Row], seconds: float = math.inf) -> list[dict[str, Any] | str]:
        """Clean all rows. A row that fails gives the reason instead: the text of its ValueError, or the time limit.

        All rows together have `seconds`, counted from the end of the call before.
        """
        with self._turn:
            deadline = time.monotonic() + seconds
            return [self._row(clean, row, deadline) for row in rows]

    def _row(self, clean: Clean, row: Row, deadline: float) -> dict[str, Any] | str:
        seconds = min(self.seconds, deadline - time.monotonic())
        if self._closing:
            return "not read: the server is ending"
        if seconds <= 0:
            return "not read: the mails before it took all of the time"
        try:
            return self._started(clean).submit(clean, row).result(seconds)
        except ValueError as error:  # the cleaning's own errors
            return str(error)
        except TimeoutError:
            reason = f"not readable within {seconds:.3g} s"
        except BrokenProcessPool:
            reason = "not readable: it ended the process that reads mails"
        logger.warning("a mail was %s", reason)
        self._end()
        return reason

    def _started(self, clean: Clean) -> ProcessPoolExecutor:
        if self._pool is None:
            # no fork: this process has threads
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin)
            self._pool.submit(clean, {}).exception()  # so that imports are no part of a row's time
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
        """End the process once it is idle, or after `patience` seconds."""
        free = self._turn.acquire(timeout=patience)
        self._closing = True
        while not free:
            self._kill()
            free = self._turn.acquire(timeout=0.1)
        self._end()
        self._turn.release()


def _begin() -> None:
    """Leave Ctrl-C to the server, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
