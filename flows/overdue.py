"""Fail if no retrain has finished lately: `python -m flows.overdue`, for cron, systemd or CI on any machine.

Messages of `flows/notify.py` come from the Prefect server, which can't report that it is down itself.
"""

import sys
from argparse import ArgumentParser
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

from flows.notify import FINISHED, OVERDUE, RETRAIN
from llm.errors import UserError
from tasks.stages.command import run_command
from tasks.stages.lock import STATE
from tasks.stages.server import prefect_page, prefect_server

HOUR = 3600


def last_retrain() -> FlowRun | None:
    """The last retrain that ended by itself: neither cancelled nor crashed."""
    states = FlowRunFilterState(name=FlowRunFilterStateName(any_=[*FINISHED]))
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


def main() -> int:
    """Print the last retrain; the exit code is 1 if it is overdue, or if the server does not answer."""
    parser = ArgumentParser(prog="python -m flows.overdue", description="Fail if no retrain has finished lately.")
    hours = OVERDUE.total_seconds() / HOUR
    parser.add_argument("--hours", type=float, default=hours, help=f"how long is too long (default {hours:g})")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()

    def work() -> None:
        if not PREFECT_API_URL.value():
            raise UserError("a standing Prefect server knows the runs: set PREFECT_API_URL")
        with prefect_server():
            sys.stdout.write(f"{check(options.hours)}\n")

    return run_command(work, STATE / "overdue" / "log", verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
