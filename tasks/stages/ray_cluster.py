"""Ray, where THREESTAGE_RAY asks for it.

    THREESTAGE_RAY       local, auto (a cluster that this machine is part of) or ray://HOST:PORT; without it no Ray
    THREESTAGE_WORKERS   how many processes train one model; without it one a GPU, or two where there is none
    THREESTAGE_SHARDING  ddp: each worker holds the model; fsdp: each holds a part of it

They say where a stage runs, not what comes out, so that none of them makes a stage stale. All machines must see the
project's folder under the same path.
"""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from llm.errors import UserError
from tasks.stages.process_pool import Submit, pool

AHEAD = 2  # items a core that are begun before the result of the first is taken
Item, Found = TypeVar("Item"), TypeVar("Found")
_kept: ContextVar[Submit | None] = ContextVar("processes", default=None)


@dataclass(frozen=True)
class Cluster:
    """What the environment asks for."""

    address: str
    workers: int | None
    sharding: Literal["ddp", "fsdp"]

    @classmethod
    def asked_for(cls) -> Self | None:
        """The cluster that THREESTAGE_RAY names, or None. Raises UserError naming the variable that is wrong."""
        address = os.environ.get("THREESTAGE_RAY")
        if not address:
            return None
        if address not in ("local", "auto") and not address.startswith("ray://"):
            raise UserError(f"THREESTAGE_RAY={address}: it is local, auto or ray://HOST:PORT")
        workers = os.environ.get("THREESTAGE_WORKERS")
        if workers is not None and not (workers.isdecimal() and int(workers)):
            raise UserError(f"THREESTAGE_WORKERS={workers}: it is a number from 1")
        sharding = os.environ.get("THREESTAGE_SHARDING", "ddp")
        if sharding not in ("ddp", "fsdp"):
            raise UserError(f"THREESTAGE_SHARDING={sharding}: it is ddp or fsdp")
        return cls(address, int(workers) if workers else None, sharding)

    @contextmanager
    def connected(self) -> Iterator[Any]:
        """Yield the module `ray`, connected, as it may be already.

        Raises UserError where it is not installed or nobody answers.
        """
        try:
            import ray
        except ImportError:
            raise UserError("THREESTAGE_RAY asks for Ray, which is not installed: pip install '.[ray]'") from None
        if ray.is_initialized():
            yield ray
            return
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address=self.address,
                runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
                log_to_driver=False,
                logging_level=logging.WARNING,
                **({"include_dashboard": False} if self.address == "local" else {}),
            )
        except ConnectionError as error:
            raise UserError(f"THREESTAGE_RAY={self.address}: {error}") from None
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own ends this process without a word to the training
        try:
            yield ray
        finally:
            ray.shutdown()


def _in_folder(folder: Path, function: Callable[[Item], Found], item: Item) -> Found:
    os.chdir(folder)  # a task of Ray's may start anywhere, and errors name files as they are called here
    return function(item)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def same_processes() -> Iterator[None]:
    """Inside, `map_in_order` uses the same processes each time: what they import takes a second."""
    with pool(_cores()) as place:
        token = _kept.set(place)
        try:
            yield
        finally:
            _kept.reset(token)


def map_in_order(function: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """As `map`, in the order of the items: on all cores, or by the tasks of Ray where THREESTAGE_RAY asks for it.

    Of items and results a few a core are in memory, however many there are. Both are picklable, and so is the function;
    a single item is worked on here.
    """
    cluster, items = Cluster.asked_for(), iter(items)
    cores = 1 if cluster else _cores()
    first = list(islice(items, 2))
    if cluster is None and (cores == 1 or len(first) < 2):
        yield from map(function, chain(first, items))
        return
    kept = _kept.get()
    with cluster.connected() if cluster else nullcontext(kept) if kept else pool(cores) as place:
        if cluster:
            from ray.exceptions import RayTaskError

            cores = int(place.cluster_resources().get("CPU", 1))
            here = Path.cwd()
            remote = place.remote(lambda item: _in_folder(here, function, item))  # Ray takes no partial
        under_way: deque[Any] = deque()

        def next_result() -> Found:
            if not cluster:
                return under_way.popleft().result()
            try:
                return place.get(under_way.popleft())
            except RayTaskError as error:
                raise error.cause from None

        for item in chain(first, items):
            under_way.append(remote.remote(item) if cluster else place(function, item))
            if len(under_way) >= AHEAD * cores:
                yield next_result()
        while under_way:
            yield next_result()
