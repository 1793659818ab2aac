"""Everything in small, from the real data on, held against known numbers: `python -m flows.canary`.

Tests say of a change that it is right. A canary says, week after week, of this machine, these libraries and these
sources that what is committed still comes out as it did. Nothing that it makes stays: no model, no version.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Collection

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal

from flows.reproduce import make
from llm.errors import UserError
from tasks.registry.canary import SMALL, Canary, processor, read_small
from tasks.registry.known import KNOWN, Findings, as_known, compare, read_known, write_known
from tasks.registry.worktree import checkout
from tasks.stages.command import run_command
from tasks.stages.lock import STATE, exclusive
from tasks.stages.server import prefect_server, quiet_stops, run_as_child, tag_with_workspace
from tasks.stages.worker import depend_on_worker, end_stopped

NAME = "canary"
LONGEST = 6 * 3600  # seconds; only what hangs takes so long


@flow(name=NAME, flow_run_name=NAME, timeout_seconds=LONGEST)
def canary(models: list[str] | None = None, record: bool = False) -> str:
    """Run all stages with small parameters in a folder of their own, and hold what comes out against known numbers.

    Fails where a number is outside its tolerance. Returns the verdict.

    Args:
        models: those that are made and measured; without any, all
        record: take what comes out as known from now on, with tolerances that are measured
    """
    depend_on_worker(NAME)
    quiet_stops()
    context = FlowRunContext.get()
    client, flow_run = context.client, context.flow_run
    tag_with_workspace(client, flow_run)
    try:
        with exclusive(NAME, patience=0):
            found = _run(models or (), record, str(client.api_url))
    except (KeyboardInterrupt, TerminationSignal) as stop:
        end_stopped(client, flow_run.id, stop)
        raise
    create_table_artifact(_table(found), key=NAME, description=str(found))
    client.set_flow_run_name(flow_run.id, f"{NAME}: {'recorded' if record else found.word}")
    if found.outside:
        raise UserError(f"{NAME}: {found}")
    return f"recorded in {KNOWN}; commit it" if record else str(found)


def _run(models: Collection[str], record: bool, api_url: str) -> Findings:
    log, kind, small = get_run_logger(), processor(), read_small()
    if not (read_known() or record):
        raise UserError(f"{KNOWN}: no numbers are known yet; `python -m flows.canary --record` measures them")
    with checkout("HEAD") as tree:
        run = Canary(tree, small, models)
        if lacking := run.uncommitted():
            log.warning("%s; the canary is of the last commit", lacking)
        for dataset in run.datasets:
            if not run.bring(dataset):
                make(run, f"fetch@{dataset}", api_url)
            run.thin(dataset)
        for stage in run.stages:
            make(run, stage, api_url)
        measured = [run.measured()]
        for other in run.otherwise() if record else ():
            for stage in other.computing:
                make(other, stage, api_url)
            measured.append(other.measured())
    if record:
        write_known(kind, as_known(measured))
    return compare(read_known(), kind, measured[0])


def _table(found: Findings) -> list[dict[str, str | float]]:
    """What is outside first."""
    return [
        {
            "number": row.name,
            "known": row.known.value if row.known else "not known",
            "within": row.known.within if row.known else "",
            "now": "missing" if row.now is None else row.now,
            "": "OUTSIDE" if row.outside else "",
        }
        for row in sorted(found.rows, key=lambda row: not row.outside)
    ]


def main() -> int:
    """Run the flow on the configured Prefect server or on a temporary one; the exit code."""
    parser = ArgumentParser(
        prog="python -m flows.canary",
        description="Run everything in small, from the real data on, and hold what comes out against known numbers.",
        epilog=f"{SMALL} makes it small, {KNOWN} is what is known. It is of the last commit, in a temporary folder.",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="what is made and measured; without any, all")
    parser.add_argument("--record", action="store_true", help="measure the known numbers of this kind of processor")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of every error")
    options = parser.parse_args()

    def work() -> None:
        with prefect_server():
            said = run_as_child(canary, {"models": options.models or None, "record": options.record})
        sys.stdout.write(f"{said}\n")

    return run_command(work, STATE / NAME / "log", verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
