"""Commands that hand over to a flow of the same name, in a process of its own: run, review, lineage, reproduce."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from llm.errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the traceback of every error.")]
Version = Annotated[
    str, typer.Argument(metavar="VERSION", help="models:/NAME/VERSION, models:/NAME@ALIAS, or a model's name.")
]


def in_project() -> None:
    """Raise UserError outside of a project's folder."""
    if not Path("dvc.yaml").exists():
        raise UserError(f"there is no dvc.yaml in {Path.cwd()}: go to the project's folder")


def _hand_over(module: str, *arguments: str) -> NoReturn:
    """Become the command line of a flow, whose exit code it is."""
    in_project()
    python = sys.executable
    os.execv(python, [python, "-m", "tasks.stages.lifeline", python, "-m", module, *arguments])


def run(verbose: Verbose = False) -> None:
    """Bring models, evaluations and registry up to date."""
    _hand_over("flows", *(["--verbose"] if verbose else []))


def review(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Whose challenger is reviewed; all without any.")
    ] = None,
    auto: Annotated[bool, typer.Option("--auto", help="The gates decide, or a person if one is not known.")] = False,
    wait: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Wait for a person; Prefect shows a form meanwhile.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Of a decision; it is kept with it.")] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who decides; without it, this user.")] = None,
    despite_gates: Annotated[
        bool, typer.Option("--despite-gates", help="Approve a version that failed gates; the history keeps it.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Compare challengers with champions, and decide.

    \b
    threestage review approve MODEL[/VERSION] --reason TEXT [--by NAME] [--despite-gates]
    threestage review reject MODEL[/VERSION] --reason TEXT [--by NAME]
    threestage review rollback MODEL --reason TEXT [--by NAME]
    threestage review history MODEL
    """
    options = [flag for flag, given in (("--auto", auto), ("--despite-gates", despite_gates)) if given]
    options += ["--wait", str(wait)] if wait is not None else []
    options += [f"--{name}={value}" for name, value in (("reason", reason), ("by", by)) if value is not None]
    _hand_over("flows.review", *(words or []), *options, *(["--verbose"] if verbose else []))


def lineage(
    version: Version,
    as_json: Json = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flow chart.")] = False,
    verbose: Verbose = False,
) -> None:
    """Show what a version was made from."""
    options = [*(["--json"] if as_json else []), *(["--mermaid"] if mermaid else [])]
    _hand_over("flows.lineage", version, *options, *(["--verbose"] if verbose else []))


def reproduce(version: Version, verbose: Verbose = False) -> None:
    """Make a version again and compare the bytes.

    Exit codes: 0 they are identical; 1 a stage made others; 2 it can't be tried.
    """
    _hand_over("flows.reproduce", version, *(["--verbose"] if verbose else []))
