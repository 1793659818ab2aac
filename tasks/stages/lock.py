"""Locks: one process at a time holds a name in this folder."""

import logging
import os
import platform
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from llm.errors import UserError

STATE = Path(".threestage")
KEEP = "THREESTAGE_KEEP_CHECKPOINTS"
"""If this variable is set, a finished training marks its checkpoints with the file FINISHED and does not remove
them."""
FINISHED = "finished"
LONGEST_WAIT = 600
"""Seconds that a stage of a night waits for a Prefect server that is away."""

logger = logging.getLogger(__name__)


def workspace() -> str:
    """This machine and folder: the tag of its runs on a shared server."""
    return f"{platform.node()}:{Path.cwd()}"


@contextmanager
def exclusive(name: str, patience: float | None = None) -> Generator[None]:
    """Hold the lock `.threestage/<name>/lock`.

    Raises UserError, naming the process that holds it, after `patience` seconds; without `patience` it waits as long as
    it takes.
    """
    path = STATE / name / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(patience or 0)
    except Timeout:
        held = f"{path} is held by process {path.read_text()}, which still runs"
        if patience is not None:
            raise UserError(held) from None
        logger.info("waiting: %s", held)
        lock.acquire()
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()
