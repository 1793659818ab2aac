"""`threestage feedback`: list, show, accept and drop feedback that waits."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.shared import Json
from llm.errors import UserError

if TYPE_CHECKING:
    from app.feedback import Decision, Feedback

Which = Annotated[list[str], typer.Argument(metavar="WHICH", help="IDs from the list, clients, datasets, or all.")]
Yes = Annotated[bool, typer.Option("--yes", help="Decide on rows whose IDs you did not name.")]

feedback = typer.Typer(name="feedback", help="List, show, accept and drop feedback.", rich_markup_mode=None)


@feedback.callback(invoke_without_command=True)
def list_waiting(context: typer.Context, as_json: Json = False) -> None:
    """List the feedback that waits, a line a row; `show` prints a row whole.

    Nothing learns from a row until you accept it.
    """
    if context.invoked_subcommand:
        return
    rows = _feedback().waiting()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows]))
        return
    typer.echo(f"{len(rows)} rows wait")
    for row in rows:
        typer.echo("  ".join(filter(None, row.cells())))


@feedback.command()
def show(which: Which) -> None:
    """Print whole rows."""
    from app.feedback import select

    rows = _feedback().waiting()
    ids = select(rows, which)
    typer.echo("\n\n".join(row.whole() for row in rows if row.id in ids))


@feedback.command()
def accept(which: Which, yes: Yes = False) -> None:
    """Put rows into the inboxes of their datasets; the next `threestage run` learns from them."""
    _decide("accepted", which, yes)


@feedback.command()
def drop(which: Which, yes: Yes = False) -> None:
    """Delete rows that wait."""
    _decide("dropped", which, yes)


def _feedback() -> "Feedback":
    from app.feedback import Feedback
    from app.settings import Settings

    return Feedback(Settings())


def _decide(decision: "Decision", which: list[str], yes: bool) -> None:
    from app.feedback import select

    table = _feedback()
    ids = select(table.waiting(), which)
    if not yes and not set(ids) <= set(which):  # a name may mean more rows now than when the list was read
        raise UserError(f"{len(ids)} rows would be {decision}; name each row by its ID, or add --yes")
    decided, pointers = table.decide(ids, decision)
    typer.echo(f"{decided} rows {decision}")
    if pointers:
        typer.echo(f"for git and DVC's remote: git add {' '.join(pointers)} && dvc push")
