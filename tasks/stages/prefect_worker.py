"""A run that a worker of Prefect's starts: alone in its folder, gone with its worker, and in which word it ends."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from uuid import UUID

from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Crashed, State

from llm.errors import UserError
from llm.files import write_atomic
from tasks.stages.graph import OF_A_RUN
from tasks.stages.lock import STATE, exclusive
from tasks.stages.parent_death import die_with_parent
from tasks.stages.server import end_below, end_lost

OF_A_WORKER = f"{OF_A_RUN}FLOW_RUN_ID"  # set where a worker of Prefect's started this process
WORKER_IS_GONE = signal.SIGUSR1
LATER = "the next run goes on from the last checkpoint."


@contextmanager
def alone(name: str, flow_run: UUID, seconds: float) -> Iterator[None]:
    """Be the one run of that name in this folder, after any that is before; one whose process is gone has crashed.

    Raises UserError where the one before takes longer than `seconds`.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(name, patience=0))
        except UserError as held:
            get_run_logger().info("waiting for the run before: %s", held)
            stack.enter_context(exclusive(name, patience=seconds))
        holder = STATE / name / "flow_run"
        if holder.exists():
            with suppress(ValueError):
                if (before := UUID(holder.read_text())) != flow_run:
                    end_lost(before, Crashed(message=f"Its process is gone; {LATER}"))
        write_atomic(holder, str(flow_run))
        yield
        holder.unlink()


def depend_on_worker(name: str) -> None:
    """Where a worker started this process, end with it, but well: nothing here or below writes to its console.

    That breaks off with the worker; what was said is in `.threestage/<name>/log`, and of the run before in `log.1`.
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
    """SIGTERM, once: a second one would break off what the first began, such as putting the last good model back.

    The next thread's end may be heard before the first line here.
    """
    signal.signal(number, signal.SIG_IGN)
    for stop in once:
        signal.raise_signal(stop)


def end_stopped(client: SyncPrefectClient, flow_run: UUID, stop: BaseException) -> None:
    """Say of a run that was stopped, and of all below it, how it ended: Crashed where its worker went away, else
    Cancelled.

    At once, as Prefect's worker looks only every three seconds whether the process has ended.
    """
    state = client.read_flow_run(flow_run).state
    asked = state is not None and (state.is_cancelling() or state.is_cancelled())
    word: State = Cancelled(message=f"The run was cancelled; {LATER}")
    if OF_A_WORKER in os.environ and isinstance(stop, TerminationSignal) and not asked:
        word = Crashed(message=f"Its worker is gone; {LATER}")
    end_below(client, flow_run, word)
    client.set_flow_run_state(flow_run, word.fresh_copy(), force=True)
