"""`threestage run`, `review`, `lineage` and `reproduce`, which become the flows of these names, and `status`."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import typer

from app.project import in_project
from cli.shared import Json, missing_store

AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
"""Settings of a command that hands its arguments over."""
FLOWS = {
    "run": ("flows", "Bring models, evaluations and registry up to date."),
    "review": ("flows.review", "Compare challengers with champions, and decide."),
    "lineage": ("flows.lineage", "Show what a version was made from."),
    "reproduce": ("flows.reproduce", "Make a version again and compare the bytes."),
}
SHOWN = 3
"""Reasons of a stage that `status` prints; --json has all."""


def hand_over(module: str) -> Callable[[typer.Context], NoReturn]:
    """A command that becomes the command line of a flow, with its options, help and exit code."""

    def command(context: typer.Context) -> NoReturn:
        in_project()
        python = sys.executable
        os.execv(python, [python, "-m", "tasks.stages.parent_death", python, "-m", module, *context.args])

    return command


def status(as_json: Json = False) -> None:
    """Show stale stages and why, registered versions, interrupted trainings."""
    in_project()
    from tasks.params.load import check_outline

    check_outline()
    from tasks.registry.listing import list_versions
    from tasks.stages.graph import changes

    stale, interrupted = changes(), []
    if any(Path(".threestage/stages").glob("*/*/")):
        from tasks.training.interrupted import interrupted as find_interrupted  # which loads torch

        interrupted = find_interrupted()
    versions = [] if missing_store() else list_versions()
    if as_json:
        stopped = [{"stage": each.stage, "step": each.step, "folder": str(each.folder)} for each in interrupted]
        rows = [row._asdict() for row in versions]
        typer.echo(json.dumps({"stale": stale, "versions": rows, "interrupted": stopped}))
        return
    typer.echo("stale stages; `threestage run` runs them:" if stale else "no stage is stale")
    width = max(map(len, stale), default=0)
    for name, reasons in stale.items():
        more = f" and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
        typer.echo(f"  {name:{width}}  {', '.join(reasons[:SHOWN])}{more}")
    for each in interrupted:
        typer.echo(f"interrupted: {each}")
    typer.echo("the registry has these versions:" if versions else "the registry is empty")
    for row in versions:
        despite = [f"approved despite {' and '.join(row.despite)}"] if row.despite else []
        state = [row.state] if row.state else []
        remarks = ", ".join([*row.aliases, *state, *despite])
        typer.echo(f"  {row.model}/{row.version}  {row.created}  {remarks}".rstrip())
