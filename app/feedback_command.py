"""`threestage feedback`: what people said of answers, and which of it may be learned from."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.pipeline import Json
from llm.errors import UserError

if TYPE_CHECKING:
    from app.feedback_list import Text
    from app.quarantine import Decision, Quarantine

Which = Annotated[list[str], typer.Argument(metavar="WHICH", help="IDs as the list has them, networks, datasets, all.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask about rows whose IDs you did not name.")]

feedback = typer.Typer(help="List, show, accept and drop what people said of answers.", rich_markup_mode=None)


@feedback.callback(invoke_without_command=True)
def list_waiting(context: typer.Context, as_json: Json = False) -> None:
    """List what waits, by network and by what it would change.

    Nothing learns from a row until you accept it. Nearly equal rows are one text, whose ID means all of them.
    A line has the beginning of the text; `show` prints it whole.
    """
    if context.invoked_subcommand:
        return
    _, found = _waiting()
    networks: dict[str, Counter[str]] = {}
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
def show(which: Which, as_json: Json = False) -> None:
    """Print texts whole, each different wording of their rows with its networks.

    If you accept a text with several wordings, training learns the first.
    """
    from app.feedback_list import select

    _, found = _waiting()
    chosen = []
    for word in which:
        rows = select(found, [word])
        named = [each for each in found if not each.rows.keys().isdisjoint(rows)]
        if not named:
            raise UserError(f"no feedback {word!r} waits; `threestage feedback` lists what does")
        chosen += [each for each in named if each not in chosen]
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in chosen]))
        return
    typer.echo("\n\n".join(each.whole() for each in chosen))


@feedback.command()
def accept(which: Which, yes: Yes = False, as_json: Json = False) -> None:
    """Put rows into the inboxes of their datasets; the next `threestage run` learns from them.

    Asks first if you named a group of rows, such as a network, and not each row by its ID.
    """
    _decide("accepted", which, yes, as_json)


@feedback.command()
def drop(which: Which, yes: Yes = False, as_json: Json = False) -> None:
    """Delete rows that wait.

    Asks first if you named a group of rows, such as a network, and not each row by its ID.
    """
    _decide("dropped", which, yes, as_json)


def _waiting() -> tuple["Quarantine", list["Text"]]:
    from app.feedback_list import texts
    from app.quarantine import Quarantine
    from app.settings import Settings

    quarantine = Quarantine(Settings())
    return quarantine, texts(quarantine.waiting())


def _decide(decision: "Decision", which: list[str], yes: bool, as_json: bool) -> None:
    from app.feedback_list import select

    quarantine, found = _waiting()
    ids = dict.fromkeys(select(found, which))
    if not yes and not ids.keys() <= {*which}:  # a name may mean more rows now than when the list was read
        verb = {"accepted": "accept", "dropped": "drop"}[decision]
        among = sum(not each.rows.keys().isdisjoint(ids) for each in found)
        what = f"{sum(len(each.rows.keys() & ids.keys()) for each in found)} rows in {among} texts"
        if not sys.stdin.isatty():
            raise UserError(f"this would {verb} {what}; name each row by its ID, or add --yes")
        typer.confirm(f"{verb} {what}?", abort=True, err=True)
    decided, pointers = quarantine.decide(ids, decision)
    if as_json:
        typer.echo(json.dumps({decision: decided, "pointers": pointers}))
        return
    typer.echo(f"{decided} rows {decision}")
    if pointers:
        typer.echo(f"for git and DVC's remote: git add {' '.join(pointers)} && dvc push")
