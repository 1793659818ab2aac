"""DVC's lock, which one dvc at a time holds in a folder: how a run waits for it, and DVC's errors on one line."""

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from dvc.exceptions import DvcException
from dvc.lock import LockError

from llm.errors import UserError
from tasks.stages.lock import LONGEST_WAIT

ASKS_EVERY = 1  # seconds; DVC itself first tries for three
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class BusyError(UserError):
    """Another dvc works in this folder; a retry may work."""


@contextmanager
def dvc_errors() -> Generator[None]:
    """Raise BusyError if another dvc holds a lock, and UserError, on one line, for DVC's other errors."""
    try:
        yield
    except DvcException as error:
        kind = BusyError if isinstance(error, LockError) else UserError
        raise kind(" ".join(str(error).split())) from None


def when_free(work: Callable[[], Result]) -> Result:
    """The result of `work`, which is repeated while another dvc works in this folder.

    Raises BusyError after LONGEST_WAIT seconds.
    """
    deadline = time.monotonic() + LONGEST_WAIT
    while True:
        try:
            return work()
        except BusyError as error:
            if time.monotonic() >= deadline:
                raise BusyError(f"another dvc works in this folder, for {LONGEST_WAIT} s by now: {error}") from None
            logger.info("waiting for another dvc: %s", error)
            time.sleep(ASKS_EVERY)
