"""Who may write: one process a name, in this folder."""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    deadline = None if patience is None else time.monotonic() + patience
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline is not None and time.monotonic() > deadline:
                    file.seek(0)
                    raise UserError(f"{path} is held by process {file.read()}, which still runs") from None
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
