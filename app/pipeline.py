"""Commands that hand over to a flow of the same name, in a process of its own: run, review, lineage, reproduce.

The flow has the options, the help and the exit code.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from llm.errors import UserError

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")]
AS_IT_IS = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}
"""Settings of a command whose arguments are the flow's."""
FLOWS = {
    "run": ("flows", "Bring models, evaluations and registry up to date."),
    "review": ("flows.review", "Compare challengers with champions, and decide."),
    "lineage": ("flows.lineage", "Show what a version was made from."),
    "reproduce": ("flows.reproduce", "Make a version again and compare the bytes."),
}


def in_project() -> None:
    """Raise UserError outside of a project's folder."""
    if not Path("dvc.yaml").exists():
        raise UserError(f"there is no dvc.yaml in {Path.cwd()}: go to the project's folder")


def hand_over(module: str) -> Callable[[typer.Context], NoReturn]:
    """A command that becomes the command line of a flow."""

    def command(context: typer.Context) -> NoReturn:
        in_project()
        python = sys.executable
        os.execv(python, [python, "-m", "tasks.stages.parent_death", python, "-m", module, *context.args])

    return command
