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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from llm.errors import UserError


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


def map_in_order(function: Callable[[list[str]], bytes], pieces: list[list[str]]) -> Iterator[bytes]:
    """As `map`; by Ray Data where THREESTAGE_RAY asks for it."""
    cluster = Cluster.asked_for()
    if cluster is None:
        yield from map(function, pieces)
        return
    with cluster.connected() as ray:
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        data = ray.data.from_items([{"texts": piece} for piece in pieces], override_num_blocks=len(pieces))
        for row in data.map(lambda row: {"found": function(list(row["texts"]))}).iter_rows():
            yield row["found"]
