"""Processes for a stage, one a core, which end with it: also when it is killed."""

import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from typing import TypeVar

from tasks.stages.parent_death import die_with_parent

AHEAD = 2  # items a core that are in flight at once
Item = TypeVar("Item")
Result = TypeVar("Result")
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


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Like `map`, in the order of the items, on all cores.

    Only a few items and results a core are in memory at once. The function, items and results must be picklable; a
    single item is mapped in this process.
    """
    iterator = iter(items)
    first = list(islice(iterator, 2))
    every_item = chain(first, iterator)
    if cores() == 1 or len(first) < 2:
        yield from map(function, every_item)
        return
    under_way: deque[Future[Result]] = deque()
    with pool() as processes:
        for item in every_item:
            under_way.append(processes.submit(function, item))
            if len(under_way) >= AHEAD * cores():
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
