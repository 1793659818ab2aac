"""The command line `threestage`.

Exit codes: 0 done; 1 an error, on one line; 2 a wrong option; 3 some mails or questions had no answer; 130
interrupted, and 143 terminated: the next call resumes.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from cli.chat import chat
from cli.classify import classify
from cli.data import data
from cli.export import export
from cli.feedback import feedback
from cli.review import approve, reject, review, rollback
from cli.run import run
from cli.serve import serve
from cli.shared import to_person
from llm.errors import UserError

ERROR, INTERRUPTED = 1, 130
SUMMARY = 60
"""Characters of a command's line in --help."""
EXTRA = ("fastapi", "gradio", "prometheus_client", "uvicorn")

COMMANDS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "The pipeline": (run,),
    "The registry": (review, approve, reject, rollback),
    "The models": (chat, classify, serve, export),
    "Your data": (data, feedback),
}


class OneLine(TyperGroup):
    """Errors you can fix print on one line; Ctrl-C, and a reader that leaves, are no errors."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a command; its end is an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except UserError as error:
            to_person(f"error: {error}")
            raise typer.Exit(ERROR) from None
        except ValidationError as error:
            mistake = error.errors()[0]
            key = ".".join(map(str, mistake["loc"]))
            reason = mistake["msg"].removeprefix("Value error, ")
            to_person(f"error: {key}: {reason}" if key else f"error: {reason}")
            raise typer.Exit(ERROR) from None
        except ModuleNotFoundError as error:
            if error.name not in EXTRA:
                raise
            to_person(f"error: {error.name} is not installed; pip install -e '.[app]'")
            raise typer.Exit(ERROR) from None
        except KeyboardInterrupt:
            to_person("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the rest of its buffer
            raise typer.Exit from None

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:
        """List the commands below the headings of COMMANDS."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", "Commands")
            sections.setdefault(heading, []).append((name, command.get_short_help_str(SUMMARY)))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


cli = typer.Typer(
    name="threestage",
    cls=OneLine,
    help="Build, try and serve language models made from scratch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done; 1 an error; 2 a wrong option; 3 some mails or questions had no answer; 130 "
    "interrupted, and 143 terminated: the next call resumes.",
)


def main() -> None:
    """The entry point."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    cli(prog_name="threestage")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"threestage {version('threestage')}")
        raise typer.Exit


@cli.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for heading, commands in COMMANDS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            cli.add_typer(command, rich_help_panel=heading)
        else:
            cli.command(rich_help_panel=heading)(command)
