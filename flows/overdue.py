"""Fail if no retrain has finished lately: `threestage overdue`, for cron, systemd or CI on any machine.

The messages of deploy/automations.yaml come from the Prefect server, which can't report that it is down itself.
"""

from datetime import UTC, datetime

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL

from llm.errors import UserError
from tasks.stages.server import prefect_page

RETRAIN = "retrain"
FINISHED = ("Completed", "Failed", "TimedOut")
"""Prefect's names for the states of a run that ended by itself."""
HOUR = 3600  # seconds


def last_retrain() -> FlowRun | None:
    """The last retrain that ended by itself: neither cancelled nor crashed."""
    states = FlowRunFilterState(name=FlowRunFilterStateName(any_=list(FINISHED)))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[RETRAIN])),
            flow_run_filter=FlowRunFilter(state=states),
            sort=FlowRunSort.END_TIME_DESC,
            limit=1,
        )
    return runs[0] if runs else None


def check(hours: float) -> str:
    """A line about the last retrain that finished. Raises UserError if that was longer than `hours` ago."""
    last = last_retrain()
    if last is None:
        raise UserError(f"no retrain has finished yet on {PREFECT_API_URL.value()}")
    age = (datetime.now(UTC) - last.end_time).total_seconds() / HOUR
    line = f"{last.name} ended as {last.state_name} {age:.1f} hours ago: {prefect_page(str(last.id))}"
    if age > hours:
        way_out = "do the worker and the training machine run?"
        raise UserError(f"no retrain finished for {hours:g} hours ({line}); {way_out}")
    return line
