"""`threestage status` and `smoke`: look at the pipeline, and try it out."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.project import in_project
from cli.shared import Json, Verbose, missing_store, quick_imports, run_and_exit

if TYPE_CHECKING:
    from tasks.stages.graph import Plan

FINISHED = re.compile(r"^finished in (.+?)(?:;.*)?$", re.MULTILINE)
"""The last line of a stage's log (tasks/stages/command.py)."""
SHOWN = 3
"""Reasons of a stage that `status` prints; --json has all."""


def status(as_json: Json = False) -> None:
    """Show stale stages, versions and interrupted trainings."""
    in_project()
    from tasks.params import check_params

    check_params()
    from tasks.registry.listing import list_versions
    from tasks.stages.graph import plan

    planned = plan()
    trainings = []
    if any(Path(".threestage/stages").glob("*/*/")):
        from tasks.training.interrupted import interrupted  # which loads torch

        trainings = interrupted()
    versions = [] if missing_store() else list_versions()
    if as_json:
        stopped = [
            {"stage": training.stage, "step": training.step, "folder": str(training.folder)} for training in trainings
        ]
        rows = [version._asdict() for version in versions]
        follow = [stage for stage in planned.behind if stage not in planned.why]
        shown = {"stale": planned.why, "follow": follow, "versions": rows, "interrupted": stopped}
        typer.echo(json.dumps(shown))
        return
    _print_stages(planned)
    for training in trainings:
        typer.echo(f"interrupted: {training}")
    typer.echo("the registry has these versions:" if versions else "the registry is empty")
    for version in versions:
        remarks = list(version.aliases)
        if version.state:
            remarks.append(version.state)
        if version.despite:
            remarks.append(f"approved despite {' and '.join(version.despite)}")
        line = f"  {version.model}/{version.version}  {version.created}  {', '.join(remarks)}"
        typer.echo(line.rstrip())


def _print_stages(planned: "Plan") -> None:
    """The stale stages and those that follow, each with its reasons and how long it took last time."""
    if not planned.behind:
        typer.echo("no stage is stale")
        return
    typer.echo("stale stages, and what follows; `threestage run` runs them:")
    width = max(map(len, planned.behind))
    for stage in planned.behind:
        reasons = planned.why.get(stage, ["follows, if what it reads changes"])
        line = ", ".join(reasons[:SHOWN])
        if len(reasons) > SHOWN:
            line += f" and {len(reasons) - SHOWN} more"
        took = _last_time(stage)
        typer.echo(f"  {stage:{width}}  {line}{f' ({took} last time)' if took else ''}")


def _last_time(stage: str) -> str | None:
    """How long a stage took when it last finished; None if its log does not say so."""
    log = Path(".threestage/stages", stage, "log")
    if not log.exists():
        return None
    times: list[str] = FINISHED.findall(log.read_text(encoding="utf-8", errors="replace"))
    return times[-1] if times else None


def smoke(verbose: Verbose = False) -> None:
    """Run every stage at reduced scale, and check the results.

    It runs the last commit in a temporary folder.
    The section `smoke` of params.yaml says what makes it small, and the bounds.
    """
    in_project()
    with quick_imports():
        from tasks.params.load import load_smoke

        from flows.smoke import smoke as flow
        from tasks.stages.server import prefect_server, run_as_child

    def work() -> None:
        load_smoke()  # an error comes before a server starts
        with prefect_server():
            line = run_as_child(flow, {})
        typer.echo(line)

    run_and_exit("smoke", work, verbose)
