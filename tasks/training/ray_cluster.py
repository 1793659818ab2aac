"""Ray for trainings, if THREESTAGE_RAY asks for it.

    THREESTAGE_RAY       local, auto (a cluster that this machine is part of) or ray://HOST:PORT; without it no Ray
    THREESTAGE_WORKERS   how many processes train one model; without it one a GPU, or two where there is none
    THREESTAGE_SHARDING  ddp: each worker holds the model; fsdp: each holds a part of it

They say where a stage runs, not what it computes, so none of them makes a stage stale. All machines must see the
project's folder under the same path.
"""

import logging
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from llm.errors import UserError


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
