"""Everything in small, from the real data on, held against known numbers: `python -m flows.canary`.

Tests say of a change that it is right. A canary says, week after week, of this machine, these libraries and these
sources that what is committed still comes out as it did. Nothing that it makes stays: no model, no version.
"""

import sys
from argparse import ArgumentParser

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext

from flows.reproduce import make
from llm.errors import UserError
from tasks.registry.canary import SMALL, Canary, processor, read_small
from tasks.registry.known import KNOWN, Findings, as_known, compare, read_known, write_known
from tasks.registry.worktree import checkout
from tasks.stages.command import run_command
from tasks.stages.lock import STATE, exclusive
from tasks.stages.server import prefect_server, quiet_stops, run_as_child

NAME = "canary"
LONGEST = 2 * 3600  # seconds; only what hangs takes so long


@flow(name=NAME, flow_run_name=NAME, timeout_seconds=LONGEST)
def canary(models: list[str] | None = None, record: bool = False) -> str:
    """Run all stages with small parameters in a folder of their own, and hold what comes out against known numbers.

    Fails where a number is outside its tolerance. Returns the verdict.

    Args:
        models: those that are made and measured; without any, all
        record: take what comes out as known from now on, with tolerances that are measured
    """
    quiet_stops()
    context, log, known = FlowRunContext.get(), get_run_logger(), read_known()
    if not (known or record):
        raise UserError(f"{KNOWN}: no numbers are known yet; `python -m flows.canary --record` measures them")
    api_url, kind = str(context.client.api_url), processor()
    with exclusive(NAME, patience=0), checkout("HEAD") as tree:
        small = Canary(tree, read_small(), models or ())
        if lacking := small.uncommitted():
            log.warning("%s; the canary is of the last commit", lacking)
        for dataset in small.datasets:
            if not small.bring(dataset):
                make(small, f"fetch@{dataset}", api_url)
            small.thin(dataset)
        for stage in small.stages:
            make(small, stage, api_url)
        measured = [small.measured()]
        for other in small.otherwise() if record else ():
            for stage in other.computing:
                make(other, stage, api_url)
            measured.append(other.measured())
    if record:
        write_known(kind, as_known(measured))
    found = compare(read_known(), kind, measured[0])
    create_table_artifact(_table(found), key=NAME, description=str(found))
    context.client.set_flow_run_name(context.flow_run.id, f"{NAME}: {'recorded' if record else found.word}")
    if found.outside:
        raise UserError(f"{NAME}: {found}")
    return f"recorded in {KNOWN}; commit it" if record else str(found)


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
