"""A pool of processes for a stage, one a core, which end with it: also when it is killed."""

import os
import signal
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import get_context, parent_process

from tasks.stages.parent_death import die_with_parent

_current: ContextVar[ProcessPoolExecutor | None] = ContextVar("pool", default=None)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pool() -> Generator[ProcessPoolExecutor]:
    """Yield a pool: the one of an enclosing block, or a new one, which ends with the block.

    Its processes are spawned by this thread and end with it. Their imports take a second, so enclose several uses.
    """
    if current := _current.get():
        yield current
        return
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn"), initializer=_begin) as processes:
        token = _current.set(processes)
        try:
            yield processes
        finally:
            _current.reset(token)
            processes.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the stage ends its processes itself
    die_with_parent(signal.SIGKILL)
    parent = parent_process()
    if parent and not parent.is_alive():  # it was killed before the line above
        signal.raise_signal(signal.SIGKILL)
