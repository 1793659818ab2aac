"""`threestage register`, `lineage`, `reproduce` and `tidy`: the registry's versions, their origins, and what may go."""

import sys
from typing import Annotated

import typer

from app.project import in_project
from cli.shared import Verbose, run_and_exit, tracebacks

WIDE = 200
"""Columns, if the output is no terminal."""
DIFFERS, UNTRIED = 1, 2
"""Exit codes of `reproduce`."""
Version = Annotated[
    str,
    typer.Argument(
        help="models:/NAME/VERSION, models:/NAME@ALIAS, or a model's name: its champion or else challenger."
    ),
]


def register(verbose: Verbose = False) -> None:
    """Register models as challengers, after `dvc repro`."""
    in_project()
    from flows.register import register as flow
    from tasks.registry.store import configure_tracking
    from tasks.registry.summary import next_step
    from tasks.stages.names import model_names
    from tasks.stages.server import prefect_server, run_as_child

    def work() -> str:
        configure_tracking()  # if the server is away at the start, say so at once
        with prefect_server():
            run_as_child(flow, {})
        return next_step(model_names())

    run_and_exit("register", work, verbose)


def lineage(version: Version, verbose: Verbose = False) -> None:
    """Show what a version was made from."""
    in_project()
    from rich.console import Console

    from tasks.registry.lineage import find_lineage
    from tasks.registry.tree import as_text

    with tracebacks(verbose):
        root = find_lineage(version)
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    with console.capture() as tree:
        console.print(as_text(root))
    typer.echo(tree.get(), nl=False)  # a pipe that is closed is no error of rich's


def reproduce(version: Version, verbose: Verbose = False) -> None:
    """Make a version again from its commit, and compare the bytes.

    It runs in a temporary folder (below TMPDIR), which needs several times the space of the model and its data, and
    stops at the first difference. Exit codes: 0 identical; 1 a stage made other bytes; 2 it can't be made here.
    """
    in_project()
    from prefect.settings import get_current_settings

    from tasks.registry.reproduce import Comparison, make_again, registered
    from tasks.stages.command import run_command
    from tasks.stages.lock import STATE
    from tasks.stages.parent_death import tie_to_parent
    from tasks.stages.server import prefect_server

    tie_to_parent()
    comparisons: list[Comparison] = []

    def work() -> None:
        recorded = registered(version)  # before a server starts
        with prefect_server() as url:
            home = str(get_current_settings().home.absolute())  # its profile may hold credentials
            comparisons.append(make_again(recorded, {"PREFECT_API_URL": url, "PREFECT_HOME": home}))

    code = run_command(work, STATE / "reproduce" / "log", verbose=verbose)
    if code:
        raise typer.Exit(UNTRIED if code == 1 else code)  # 130 and 143: it was stopped
    typer.echo(comparisons[0])
    if comparisons[0].differs:
        raise typer.Exit(DIFFERS)


def tidy(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    days: Annotated[float, typer.Option(help="Keep what is newer than so many days.")] = 30,
    verbose: Verbose = False,
) -> None:
    """List what nothing needs any more, or remove it."""
    in_project()
    from contextlib import nullcontext

    from tasks.registry.tidy import old_versions, unused_weights
    from tasks.stages.lock import exclusive
    from tasks.training.interrupted import old_trainings

    def work() -> None:
        with exclusive("retrain", patience=0) if yes else nullcontext():
            # Versions are first: what a removed one leaves behind goes in the same run.
            for kind in (old_versions, unused_weights, old_trainings):
                for item in kind(days):
                    typer.echo(str(item))
                    if yes:
                        item.remove()
        typer.echo("removed" if yes else "`threestage tidy --yes` removes it, and then the weights of its versions")

    run_and_exit("tidy", work, verbose)
