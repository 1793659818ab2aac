"""`threestage data`: how a dataset reads your files, and how a model reads a row."""

import json
import tempfile
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.project import in_project
from llm.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from tasks.data.findings import Findings

SHOWN = 3
"""Rows of a preview."""
NAMED = 20
"""Problems that are printed."""
LONGEST = 72
"""Characters of a value in a preview."""
MAPS = ("label_map", "label_of", "columns")
"""Parameters that the options fill."""
INDENT = " " * 6
"""Before an item of datasets.<name>.sources in params.yaml."""
NO_LINE_NEEDED = "what lies in data/inbox needs no line in params.yaml, which would add it twice: see data/README.md"


data = typer.Typer(
    name="data",
    help="Look at your own files before anything learns from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class Reading:
    """A dataset's reading of files."""

    dataset: str
    table: "pd.DataFrame"
    findings: "Findings"


Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="A dataset of params.yaml, such as emails.")]
Files = Annotated[str, typer.Argument(metavar="PATH", help="A file, a folder, a glob in quotes, or any other source.")]
Glob = Annotated[str, typer.Option("--files", metavar="GLOB", help="Read only these files of a folder or an archive.")]
Label = Annotated[
    list[str] | None, typer.Option(metavar="VALUE=LABEL", help="A value's label: 1=spam; repeat for more.")
]
LabelOf = Annotated[
    list[str] | None, typer.Option(metavar="GLOB=LABEL", help="The label of files: 'junk/*=spam'; repeat for more.")
]
Column = Annotated[
    list[str] | None, typer.Option(metavar="OURS=NAME", help="A column's name: label=folder; repeat for more.")
]


@dataclass(frozen=True)
class Checked:
    """Files that a dataset can learn from."""

    entry: dict[str, str]
    """The source as it stands in params.yaml."""
    changes: dict[str, dict[str, str]]
    """Entries of MAPS in the dataset's parameters."""


@data.command()
def check(
    dataset: Dataset,
    path: Files,
    glob: Glob = "*",
    label: Label = None,
    label_of: LabelOf = None,
    column: Column = None,
) -> None:
    """Print what a dataset reads from files: rows, problems, and the block to paste.

    Exit code: 1 where something stops `preprocess`.
    """
    in_project()
    changes = {
        "label_map": _pairs(label or [], "--label {}: write VALUE=LABEL, such as 1=spam"),
        "label_of": _pairs(label_of or [], "--label-of {}: write GLOB=LABEL, such as 'junk/*=spam'"),
        "columns": _pairs(column or [], "--column {}: write OURS=NAME, such as label=folder"),
    }
    checked = _check(dataset, path, glob=glob, changes=changes)
    if _is_in_inbox(path):
        typer.echo(NO_LINE_NEEDED)
        return
    typer.echo(f"to take them in, put this below datasets.{dataset}.sources in params.yaml:")
    typer.echo(_block(checked.entry))
    for key, values in checked.changes.items():
        if values:
            typer.echo(f"and below datasets.{dataset}.preprocess: {key}: {json.dumps(values)}")


@data.command()
def show(
    dataset: Dataset,
    row: Annotated[int, typer.Argument(help="Its number, from 0 on.")] = 0,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
) -> None:
    """Print a row of a dataset as each model reads it, token by token, with what is learned."""
    in_project()
    from tasks.data.splits import SPLITS
    from tasks.params import find_training, load_training
    from tasks.training.shown_row import show_row

    if split not in SPLITS:
        raise UserError(f"--split {split}: it is one of {', '.join(SPLITS)}")

    for model in _models_that_learn(dataset):
        shown = show_row(find_training(model), load_training(model), split=split, number=row)
        if shown is None:
            typer.echo(f"{model} does not say how it reads a row")
            continue
        title, *parts = shown.lines(model, between="|")
        typer.echo(title)
        for part in parts:
            typer.echo(f"  {part}")


def _models_that_learn(dataset: str) -> list[str]:
    """The models whose block names a dataset. Raises UserError for an unknown one, and where none learns it."""
    from tasks.params import model_blocks
    from tasks.stages.names import PARAMS_FILE, dataset_names
    from tasks.stages.yaml_text import read_yaml

    names = dataset_names()
    if dataset not in names:
        raise UserError(f"params.yaml has no dataset {dataset!r}; it has {', '.join(names)}")
    blocks = model_blocks(read_yaml(PARAMS_FILE))
    models = [model for model, block in blocks.items() if block.get("dataset") == dataset]
    if not models:
        raise UserError(f"no model learns {dataset}: name it as `dataset` of an application in params.yaml")
    return models


def _is_in_inbox(path: str) -> bool:
    """Whether a source lies in data/inbox, which every dataset reads by itself."""
    from tasks.data.inbox import INBOX  # which loads pandas

    return Path(path.removeprefix("file:")).resolve().is_relative_to(INBOX.resolve())


def _check(dataset: str, path: str, *, glob: str, changes: dict[str, dict[str, str]]) -> Checked:
    """Print how a dataset reads files. Exits with 1 where something stops `preprocess`."""
    from tasks.data.sources import Source, pinned, write_source

    source = pinned(Source(source=path, files=glob))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        fetched = write_source(source, folder)
        reading = _read(dataset, folder, changes)
    typer.echo(f"{path}: {fetched['bytes']:,} bytes")
    _print_reading(reading, folder)
    if reading.findings.problems or reading.table.empty:
        raise typer.Exit(1)
    sha256 = None if path.startswith("hf:") else fetched["sha256"]
    entry = {"source": source.source, "sha256": sha256, "files": glob}
    return Checked({key: value for key, value in entry.items() if value not in (None, "*")}, changes)


def _read(name: str, folder: Path, changes: Mapping[str, Mapping[str, str]]) -> Reading:
    """A dataset's reading of a folder; `changes` are added to its parameters MAPS."""
    import pandas as pd

    from tasks.data.findings import Findings
    from tasks.params import find_dataset, load_dataset
    from tasks.stages.names import dataset_names

    names = dataset_names()
    if name not in names:
        raise UserError(f"params.yaml has no dataset {name!r}; it has {', '.join(names)}")
    params = load_dataset(name).preprocess
    changed = {key: getattr(params, key) | new for key, new in changes.items() if new and hasattr(params, key)}
    params = type(params)(**params.model_dump() | changed)
    findings = Findings()
    table = pd.DataFrame()
    try:
        table = find_dataset(name).read(folder, params, findings)
    except UserError as error:
        findings.add_error(error)
    return Reading(name, table, findings)


def _pairs(texts: list[str], mistake: str) -> dict[str, str]:
    """The two sides of `=` of each text. Raises UserError with the line `mistake` for a text without it."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, mark, value = text.partition("=")
        if not mark:
            raise UserError(mistake.format(text))
        pairs[key] = value
    return pairs


def _print_reading(reading: Reading, folder: Path) -> None:
    counts = ""
    if "label" in reading.table:
        labels = reading.table["label"].value_counts()
        counts = ", ".join(f"{count} {label}" for label, count in labels.items())
    typer.echo(f"as {reading.dataset}: {len(reading.table)} rows{f' ({counts})' if counts else ''}")
    _print_problems(reading, f"{folder}/")
    _print_rows(reading)


def _print_problems(reading: Reading, folder: str) -> None:
    """The problems and the dropped rows, without the scratch folder in their places."""
    problems = list(map(str, reading.findings.problems))
    dropped = [f"{row['id']}: {row['reason']}" for row in reading.findings.dropped]
    for title, lines in (("problems that stop the stage", problems), ("rows left out", dropped)):
        if lines:
            typer.echo(f"{title}: {len(lines)}")
        for line in lines[:NAMED]:
            typer.echo(f"  {line}".replace(folder, ""))
        if len(lines) > NAMED:
            typer.echo(f"  and {len(lines) - NAMED} more")


def _print_rows(reading: Reading) -> None:
    if reading.table.empty:
        return
    from tasks.params import find_dataset
    from tasks.registry.markup import cut

    columns = [column for column in ("label", *find_dataset(reading.dataset).TEXTS) if column in reading.table]
    for row in reading.table.head(SHOWN).to_dict("records"):
        typer.echo(f"  {row['id']}")
        for column in columns:
            if str(row[column]).strip(" []"):
                typer.echo(f"    {column}: {cut(row[column], LONGEST)}")


def _block(entry: Mapping[str, str]) -> str:
    """A source as the lines that stand below `sources` in params.yaml."""
    import yaml

    lines = yaml.safe_dump([dict(entry)], sort_keys=False, allow_unicode=True, width=2**16)
    return textwrap.indent(lines, INDENT).rstrip()
