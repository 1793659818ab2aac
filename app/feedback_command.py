"""`threestage feedback`: what people said of answers, and which of it may be learned from."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from app.pipeline import Json

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="As the list has them.")]
Networks = Annotated[list[str] | None, typer.Option("--network", help="All rows of a network or key.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="All rows for a dataset.")]
All = Annotated[bool, typer.Option("--all", help="All rows.")]

feedback = typer.Typer(help="List, accept and drop what people said of answers.", rich_markup_mode=None)


@feedback.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: Json = False) -> None:
    """List what waits, by network and by what it would change.

    Nothing learns from a row until you accept it. Nearly equal rows are one text, and the id of a text means all of
    them.
    """
    if context.invoked_subcommand:
        return
    from app.feedback_list import one_line, texts

    found = texts(_quarantine().waiting())
    networks = {client: Counter() for each in found for client in each.clients}
    for each in found:
        for client, rows in each.clients.items():
            networks[client][each.change] += rows
    if as_json:
        typer.echo(json.dumps({"texts": [asdict(each) for each in found], "networks": networks}))
        return
    rows = sum(len(each.rows) for each in found)
    typer.echo(f"{rows} rows wait: {len(found)} texts of {len(networks)} networks")
    for client, changes in networks.items():
        typer.echo(f"  network {client}: {', '.join(f'{count} {change}' for change, count in changes.items())}")
    for each in found:
        says = one_line(each.says) + (f" (train: {one_line(each.train_says)})" if each.train_says else "")
        who = ", ".join(f"{client} x{count}" for client, count in each.clients.items())
        typer.echo(f"{each.id}  {each.dataset}  {each.change}: {says}  [{who}; {', '.join(each.versions)}]")
        typer.echo(f"  {one_line(each.text)}")


@feedback.command()
def accept(
    ids: Ids = None, network: Networks = None, dataset: Datasets = None, all_: All = False, as_json: Json = False
) -> None:
    """Put rows into the inboxes of their datasets; the next `threestage run` learns from them."""
    count, pointers = _decide("accepted", ids, network, dataset, all_)
    if as_json:
        typer.echo(json.dumps({"accepted": count, "pointers": pointers}))
        return
    typer.echo(f"{count} rows accepted")
    if pointers:
        typer.echo(f"for git and DVC's remote: git add {' '.join(pointers)} && dvc push")


@feedback.command()
def drop(
    ids: Ids = None, network: Networks = None, dataset: Datasets = None, all_: All = False, as_json: Json = False
) -> None:
    """Delete rows that wait."""
    count, _ = _decide("dropped", ids, network, dataset, all_)
    typer.echo(json.dumps({"dropped": count}) if as_json else f"{count} rows dropped")


def _quarantine() -> Any:
    from app.quarantine import Quarantine
    from app.settings import Settings

    return Quarantine(Settings())


def _decide(
    decision: Any, ids: list[str] | None, networks: list[str] | None, datasets: list[str] | None, everything: bool
) -> tuple[int, list[str]]:
    from app.feedback_list import select, texts

    if not (ids or networks or datasets or everything):
        raise typer.BadParameter("name rows: ID, --network, --dataset or --all")
    quarantine = _quarantine()
    found = texts(quarantine.waiting())
    return quarantine.decide(select(found, ids or (), networks or (), datasets or (), everything), decision)
