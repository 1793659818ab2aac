"""The end states of stopped, killed and unreported runs in Prefect: no run stays open, and each says what happened."""

import logging
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterParentTaskRunId,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.states import Completed, Crashed

from llm.errors import UserError

TOLD_WITHIN = 5  # seconds for the end states of task runs to reach a server; it took 12 to 21 ms in 16 stopped runs
STOPS = (InterruptedError, KeyboardInterrupt, TerminationSignal)
"""Exceptions of a stopped run: Ctrl-C, SIGTERM, and a training that stopped after a checkpoint."""
LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
UNREPORTED = "It completed; the Prefect server was away when it ended."

Run = FlowRun | TaskRun


class _Stopped(logging.Filter):
    """Logs a stopped run on one line, which Prefect reports as an error.

    It also collects the task runs of this process that have ended, by flow run: Prefect logs every end at the level
    INFO.
    """

    aborted = "Execution was aborted by"
    interrupted = InterruptedError.__name__

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[str | None, list[UUID]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        message = str(record.msg)
        if message.startswith("Finished in state"):
            task_run = getattr(record, "task_run_id", None)
            if task_run:
                self.ended.setdefault(getattr(record, "flow_run_id", None), []).append(UUID(task_run))
            if self.aborted in message or self.interrupted in message:
                return False  # a state that `end_below` replaces at once
        if message.startswith("Finished in state Running("):  # Prefect's worker gives a cancelled run its state
            record.msg = "Stopped; the next run goes on where this one ended"
            record.args = ()
        if isinstance(error, STOPS) or message.startswith(f"Crash detected! {self.aborted}"):
            record.levelno = logging.INFO
            record.levelname = "INFO"
            record.exc_info = None
            record.msg = str(error or "") or "stopped"
            record.args = ()
        return True


_STOPPED = _Stopped()


def quiet_stops() -> None:
    """Have Prefect log stopped runs of this process on one line, and not as errors."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_STOPPED)


def _wait_for_ends(client: SyncPrefectClient, flow_run: UUID, deadline: float) -> None:
    """Wait until the server knows the end states of a flow run's task runs that ended in this process.

    Prefect sends them as events from a thread of its own, and the server stores them later. A state that comes after
    one of ours is dropped as older, and a run that the server does not know yet can't be given a state.
    """
    waiting = [*_STOPPED.ended.get(str(flow_run), ())]
    while waiting and time.monotonic() < deadline:
        with suppress(ObjectNotFound):
            state = client.read_task_run(waiting[-1]).state
            if state and state.is_final():
                waiting.pop()
                continue
        time.sleep(0.05)


def _descendants(client: SyncPrefectClient, flow_run: UUID, deadline: float = 0) -> list[tuple[UUID | None, Run]]:
    """All runs below a flow run, each with the id of its parent, which stands before it.

    Waits until `deadline` for reports of this process that have not reached the server.
    """
    runs: list[tuple[UUID | None, Run]] = []
    levels = [flow_run]
    while levels:
        for level in levels:
            _wait_for_ends(client, level, deadline)
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=levels)))
        runs += [(task.flow_run_id, task) for task in tasks]
        parents = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=levels))
        flows = client.read_flow_runs(flow_run_filter=parents)
        runs += [(flow.parent_task_run_id, flow) for flow in flows]
        levels = [flow.id for flow in flows]
    return runs


def _set_state(client: SyncPrefectClient, run: Run, state: State) -> None:
    set_state = client.set_flow_run_state if isinstance(run, FlowRun) else client.set_task_run_state
    set_state(run.id, state.fresh_copy(), force=True)


def _has_ended(run: Run) -> bool:
    return run.state is not None and run.state.is_final()


def _has_completed(run: Run) -> bool:
    return run.state is not None and run.state.is_completed()


def end_below(client: SyncPrefectClient, flow_run: UUID, state: State) -> None:
    """Set `state` for all descendants of a flow run that have not completed, whatever state they are in.

    A killed process reports no state, and Prefect has several states for a stopped one. Reports of this process may
    take TOLD_WITHIN seconds to arrive.
    """
    for _, run in _descendants(client, flow_run, time.monotonic() + TOLD_WITHIN):
        has_it = run.state is not None and run.state.name == state.name
        if not (has_it or _has_completed(run)):
            _set_state(client, run, state)


def end_lost(flow_run: UUID, state: State) -> None:
    """End a flow run whose process is gone, and every run below it that is still open.

    They get `state`; if a run had ended by itself, the ends of those below it were only not reported: below a completed
    run they completed, too.
    """
    with get_client(sync_client=True) as client:
        try:
            root = client.read_flow_run(flow_run)
        except ObjectNotFound:  # it is on another server, or removed
            return
        if not _has_ended(root):
            end_below(client, flow_run, state)
            _set_state(client, root, state)
            return
        completed = {root.id} if _has_completed(root) else set()
        for parent, run in _descendants(client, flow_run):
            if not _has_ended(run):
                end = Completed(message=UNREPORTED) if parent in completed else state
                _set_state(client, run, end)
                run.state = end
            if _has_completed(run):
                completed.add(run.id)


@contextmanager
def no_child_open(task_run: UUID) -> Generator[None]:
    """If the block raises UserError, end the flow runs below a task run that are open: a killed stage can't.

    Without a server they stay open, until the next run calls `end_lost`.
    """
    try:
        yield
    except UserError as error:
        below = FlowRunFilter(parent_task_run_id=FlowRunFilterParentTaskRunId(any_=[task_run]))
        with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
            for child in client.read_flow_runs(flow_run_filter=below):
                end_lost(child.id, Crashed(message=str(error)))
        raise
