"""`threestage register` and `lineage`: the registry's versions and their origins."""

import sys
from typing import Annotated

import typer

from app.project import in_project
from cli.shared import Verbose, run_and_exit, tracebacks

WIDE = 200
"""Columns, if the output is no terminal."""
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
    from tasks.stages.prefect import prefect_server, run_flow

    def work() -> str:
        configure_tracking()  # if the server is away at the start, say so at once
        with prefect_server():
            run_flow(flow, {})
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
