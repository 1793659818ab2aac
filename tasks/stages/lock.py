"""Who may write: one process a name, in this folder."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from llm.errors import UserError

STATE = Path(".threestage")
KEEP = "THREESTAGE_KEEP_CHECKPOINTS"
"""A variable by which a stage marks the checkpoints of a finished training with FINISHED, and does not remove them."""
FINISHED = "finished"


def workspace() -> str:
    """This machine and folder, as runs name it on servers that others use, too."""
    return f"{platform.node()}:{Path.cwd()}"


@contextmanager
def exclusive(name: str, patience: float | None = None) -> Iterator[None]:
    """Hold the lock `.threestage/<name>/lock`, which one process at a time has.

    Raises UserError, naming the process that holds it, after `patience` seconds; without them it waits.
    """
    path = STATE / name / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path).acquire(-1 if patience is None else patience)
    except Timeout:
        raise UserError(f"{path} is held by process {path.read_text()}, which still runs") from None
    with lock:
        path.write_text(str(os.getpid()))
        yield
