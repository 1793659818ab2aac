"""`threestage feedback`: list, show, accept and drop feedback that waits."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.shared import Json
from llm.errors import UserError

if TYPE_CHECKING:
    from app.quarantine import Decision, Quarantine
    from app.waiting import Text

Which = Annotated[list[str], typer.Argument(metavar="WHICH", help="IDs from the list, networks, datasets, or all.")]
Yes = Annotated[bool, typer.Option("--yes", help="Decide on rows whose IDs you did not name.")]

feedback = typer.Typer(name="feedback", help="List, show, accept and drop feedback.", rich_markup_mode=None)


@feedback.callback(invoke_without_command=True)
def list_waiting(context: typer.Context, as_json: Json = False) -> None:
    """List the feedback that waits, by network and by what it would change.

    Nothing learns from a row until you accept it. Nearly equal rows are one text, whose ID names all of them.
    A line has the beginning of the text; `show` prints all of it.
    """
    if context.invoked_subcommand:
        return
    _, texts = _waiting()
    networks: dict[str, Counter[str]] = {}
    for text in texts:
        for client in text.rows.values():
            networks.setdefault(client, Counter())[text.change] += 1
    if as_json:
        typer.echo(json.dumps({"texts": [asdict(text) for text in texts], "networks": networks}))
        return
    rows = sum(len(text.rows) for text in texts)
    typer.echo(f"{rows} rows wait: {len(texts)} texts of {len(networks)} networks")
    for client, changes in networks.items():
        counts = ", ".join(f"{count} {change}" for change, count in changes.items())
        typer.echo(f"  network {client}: {counts}")
    for text in texts:
        typer.echo("  ".join(filter(None, text.cells())))


@feedback.command()
def show(which: Which) -> None:
    """Print whole texts, with each wording and its networks.

    If you accept a text with several wordings, training learns the first.
    """
    from app.waiting import select

    _, texts = _waiting()
    ids = set(select(texts, which))
    typer.echo("\n\n".join(text.whole() for text in texts if not ids.isdisjoint(text.rows)))


@feedback.command()
def accept(which: Which, yes: Yes = False) -> None:
    """Put rows into the inboxes of their datasets; the next `threestage run` learns from them."""
    _decide("accepted", which, yes)


@feedback.command()
def drop(which: Which, yes: Yes = False) -> None:
    """Delete rows that wait."""
    _decide("dropped", which, yes)


def _waiting() -> tuple["Quarantine", list["Text"]]:
    from app.quarantine import Quarantine
    from app.settings import Settings
    from app.waiting import texts

    quarantine = Quarantine(Settings())
    return quarantine, texts(quarantine.waiting())


def _decide(decision: "Decision", which: list[str], yes: bool) -> None:
    from app.waiting import select

    quarantine, texts = _waiting()
    ids = select(texts, which)
    if not yes and not set(ids) <= set(which):  # a name may mean more rows now than when the list was read
        number = sum(not text.rows.keys().isdisjoint(ids) for text in texts)
        raise UserError(f"{len(ids)} rows in {number} texts would be {decision}; name each row by its ID, or add --yes")
    decided, pointers = quarantine.decide(ids, decision)
    typer.echo(f"{decided} rows {decision}")
    if pointers:
        typer.echo(f"for git and DVC's remote: git add {' '.join(pointers)} && dvc push")
