"""`threestage feedback`: what people said of answers, and which of it may be learned from."""

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.pipeline import Json

if TYPE_CHECKING:
    from app.quarantine import Decision

Which = Annotated[list[str], typer.Argument(metavar="WHICH", help="IDs as the list has them, networks, datasets, all.")]

feedback = typer.Typer(help="List, accept and drop what people said of answers.", rich_markup_mode=None)


@feedback.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: Json = False) -> None:
    """List what waits, by network and by what it would change.

    Nothing learns from a row until you accept it. Nearly equal rows are one text, whose ID means all of them.
    """
    if context.invoked_subcommand:
        return
    from app.feedback_list import texts
    from app.quarantine import Quarantine
    from app.settings import Settings

    found, networks = texts(Quarantine(Settings()).waiting()), dict[str, Counter[str]]()
    for each in found:
        for client in each.rows.values():
            networks.setdefault(client, Counter())[each.change] += 1
    if as_json:
        typer.echo(json.dumps({"texts": [asdict(each) for each in found], "networks": networks}))
        return
    rows = sum(len(each.rows) for each in found)
    typer.echo(f"{rows} rows wait: {len(found)} texts of {len(networks)} networks")
    for client, changes in networks.items():
        typer.echo(f"  network {client}: {', '.join(f'{count} {change}' for change, count in changes.items())}")
    for each in found:
        typer.echo("  ".join(filter(None, each.cells())))


@feedback.command()
def accept(which: Which, as_json: Json = False) -> None:
    """Put rows into the inboxes of their datasets; the next `threestage run` learns from them."""
    _decide("accepted", which, as_json)


@feedback.command()
def drop(which: Which, as_json: Json = False) -> None:
    """Delete rows that wait."""
    _decide("dropped", which, as_json)


def _decide(decision: "Decision", which: list[str], as_json: bool) -> None:
    from app.feedback_list import select, texts
    from app.quarantine import Quarantine
    from app.settings import Settings

    quarantine = Quarantine(Settings())
    count, pointers = quarantine.decide(select(texts(quarantine.waiting()), which), decision)
    if as_json:
        typer.echo(json.dumps({decision: count, "pointers": pointers}))
        return
    typer.echo(f"{count} rows {decision}")
    if pointers:
        typer.echo(f"for git and DVC's remote: git add {' '.join(pointers)} && dvc push")
