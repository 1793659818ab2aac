"""Ray, if THREESTAGE_RAY asks for it.

    THREESTAGE_RAY       local, auto (a cluster that this machine is part of) or ray://HOST:PORT; without it no Ray
    THREESTAGE_WORKERS   how many processes train one model; without it one a GPU, or two where there is none
    THREESTAGE_SHARDING  ddp: each worker holds the model; fsdp: each holds a part of it

They say where a stage runs, not what it computes, so none of them makes a stage stale. All machines must see the
project's folder under the same path.
"""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from llm.errors import UserError
from tasks.stages.process_pool import cores, pool

AHEAD = 2  # items a core that are in flight at once
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cluster:
    """The settings in the environment."""

    address: str
    workers: int | None
    sharding: Literal["ddp", "fsdp"]

    @classmethod
    def asked_for(cls) -> Self | None:
        """The cluster that THREESTAGE_RAY names, or None. Raises UserError naming the invalid variable."""
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
        return cls(
            address=address,
            workers=int(workers) if workers else None,
            sharding="fsdp" if sharding == "fsdp" else "ddp",
        )

    @contextmanager
    def connected(self) -> Generator[Any]:
        """Yield the module `ray`, connected to the cluster.

        Raises UserError if Ray is not installed or nobody answers.
        """
        try:
            import ray
        except ImportError:
            raise UserError("THREESTAGE_RAY asks for Ray, which is not installed: pip install '.[ray]'") from None
        if ray.is_initialized():
            yield ray
            return
        on_sigterm = signal.getsignal(signal.SIGTERM)
        options: dict[str, Any] = {"include_dashboard": False} if self.address == "local" else {}
        try:
            ray.init(
                address=self.address,
                runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
                log_to_driver=False,
                logging_level=logging.WARNING,
                **options,
            )
        except ConnectionError as error:
            raise UserError(f"THREESTAGE_RAY={self.address}: {error}") from None
        # Ray's own handler would end this process without telling the training
        signal.signal(signal.SIGTERM, on_sigterm)
        try:
            yield ray
        finally:
            ray.shutdown()


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Like `map`, in the order of the items: on all cores, or in Ray tasks if THREESTAGE_RAY asks for it.

    Only a few items and results a core are in memory at once. The function, items and results must be picklable; a
    single item is mapped in this process.
    """
    cluster = Cluster.asked_for()
    iterator = iter(items)
    first = list(islice(iterator, 2))
    every_item = chain(first, iterator)
    if cluster:
        with cluster.connected() as ray:
            yield from _map_in_ray(ray, function, every_item)
    elif cores() == 1 or len(first) < 2:
        yield from map(function, every_item)
    else:
        with pool() as processes:
            yield from _map_ahead(partial(processes.submit, function), Future.result, every_item, cores=cores())


def _map_in_ray(ray: Any, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    from ray.exceptions import RayTaskError

    folder = Path.cwd()

    def in_folder(item: Item) -> Result:  # a function, since Ray takes no partial
        os.chdir(folder)  # a Ray task may start in any folder; errors name files by their paths here
        return function(item)

    def result(reference: Any) -> Result:
        try:
            answer: Result = ray.get(reference)
        except RayTaskError as error:
            raise error.cause from None
        return answer

    cluster_cores = int(ray.cluster_resources().get("CPU", 1))
    yield from _map_ahead(ray.remote(in_folder).remote, result, items, cores=cluster_cores)


def _map_ahead(
    begin: Callable[[Item], Any], result: Callable[[Any], Result], items: Iterable[Item], *, cores: int
) -> Iterator[Result]:
    """The results in the order of the items; AHEAD items a core are begun before the first result is asked for."""
    under_way: deque[Any] = deque()
    for item in items:
        under_way.append(begin(item))
        if len(under_way) >= AHEAD * cores:
            yield result(under_way.popleft())
    while under_way:
        yield result(under_way.popleft())
