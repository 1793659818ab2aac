"""Runs that a Prefect worker starts: one at a time in a folder, ended with their worker, and with the right end
state."""

import logging
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.states import Cancelled, Crashed

from llm.errors import UserError
from llm.files import write_atomic
from tasks.stages.dvc_process import OF_A_RUN
from tasks.stages.end_states import end_below, end_lost
from tasks.stages.lock import STATE, exclusive
from tasks.stages.parent_death import die_with_parent
from tasks.stages.server import patiently

OF_A_WORKER = f"{OF_A_RUN}FLOW_RUN_ID"  # set if a Prefect worker started this process
WORKER_IS_GONE = signal.SIGUSR1
LATER = "the next run goes on from the last checkpoint."

logger = logging.getLogger(__name__)


@contextmanager
def in_turn(name: str, flow_run: UUID | None, seconds: float | None = None) -> Generator[None]:
    """Hold the lock of that name; while another run in this folder holds it, this run's name in Prefect says so.

    Raises UserError if the other run takes longer than `seconds`.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(name, patience=0))
        except UserError as held:
            logger.info("waiting for the run before: %s", held)
            if flow_run:
                with suppress(httpx.HTTPError, ObjectNotFound), get_client(sync_client=True) as client:
                    client.set_flow_run_name(flow_run, f"{name}: waits for the run before")
            stack.enter_context(exclusive(name, patience=seconds))
        yield


@contextmanager
def alone(name: str, flow_run: UUID, seconds: float) -> Generator[None]:
    """Wait until no other run of that name is in this folder, and close what the run before left open in Prefect.

    A run whose process is gone is marked as crashed. Raises UserError if the other run takes longer than `seconds`.
    """
    with in_turn(name, flow_run, seconds):
        last = STATE / name / "flow_run"
        if last.exists():
            with suppress(ValueError):
                if (before := UUID(last.read_text())) != flow_run:
                    patiently(partial(end_lost, before, Crashed(message=f"Its process is gone; {LATER}")))
        write_atomic(last, str(flow_run))
        yield


def run_of_worker() -> UUID | None:
    """The flow run for which a Prefect worker started this process, or its parent."""
    return UUID(os.environ[OF_A_WORKER]) if OF_A_WORKER in os.environ else None


def depend_on_worker(name: str) -> None:
    """If a Prefect worker started this process, end properly when the worker ends.

    The worker's console is then gone, so nothing is written to it. The log is in `.threestage/<name>/log`, that of the
    previous run in `log.1`.
    """
    if OF_A_WORKER not in os.environ:
        return
    log = STATE / name / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name("log.1"))
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    signal.signal(WORKER_IS_GONE, partial(_terminate, iter([signal.SIGTERM])))
    die_with_parent(WORKER_IS_GONE)


def _terminate(once: Iterator[int], number: int, _: FrameType | None) -> None:
    """Handle SIGTERM once: a second one would interrupt the work of the first, such as restoring the last good model.

    It may come before the first line of this handler has run.
    """
    signal.signal(number, signal.SIG_IGN)
    for stop in once:
        signal.raise_signal(stop)


def end_stopped(client: SyncPrefectClient, flow_run: UUID, stop: BaseException) -> None:
    """Set the end state of a stopped run and its children: Crashed if its worker is gone, else Cancelled.

    It is set here, as Prefect's worker checks only every three seconds whether the process has ended.
    """
    state = client.read_flow_run(flow_run).state
    asked = state is not None and (state.is_cancelling() or state.is_cancelled())
    word: State = Cancelled(message=f"The run was cancelled; {LATER}")
    if OF_A_WORKER in os.environ and isinstance(stop, TerminationSignal) and not asked:
        word = Crashed(message=f"Its worker is gone; {LATER}")
    end_below(client, flow_run, word)
    client.set_flow_run_state(flow_run, word.fresh_copy(), force=True)
