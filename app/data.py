"""`threestage data check`: what is in people's own files, and the lines of params.yaml that take them in."""

import json
import re
import shlex
import tempfile
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.pipeline import in_project
from llm.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from tasks.data.formats import Problem
    from tasks.data.sources import Source

SHOWN = 3
"""Rows of a preview."""
NAMED = 20
"""Problems that are said."""
INDENT = 6
"""Spaces before an item of datasets.<name>.sources in params.yaml."""
LONGEST = 72
"""Characters of a value in a preview."""
SHOWN_FIRST = ("label", "text")
ANY = "any dataset"
NO_LINE_NEEDED = "what lies in data/inbox needs no line in params.yaml, which would add it twice: see data/README.md"
Read = tuple[str, "pd.DataFrame", list["Problem"]]
"""A dataset, the rows that it finds in files, and what it can't read."""

data = typer.Typer(
    help="Look at your own files before anything learns from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Place = Annotated[
    str, typer.Argument(metavar="PATH", help="A file, a folder, a glob in quotes, or what else a source may be.")
]
Files = Annotated[str, typer.Option(metavar="GLOB", help="Of a folder or an archive, only these.")]
Meanings = Annotated[
    list[str] | None, typer.Option("--label", metavar="VALUE=LABEL", help="What a value means: 1=spam; once for each.")
]
Encoding = Annotated[str | None, typer.Option(metavar="NAME", help="Of texts that are not UTF-8: windows-1252.")]


@data.command()
def check(
    path: Place,
    dataset: Annotated[
        str | None, typer.Option("--as", metavar="DATASET", help="corpus, emails, instructions; without it, what fits.")
    ] = None,
    files: Files = "*",
    encoding: Encoding = None,
    label: Meanings = None,
) -> None:
    """Say what is in files: form, rows, problems, and the block to paste.

    Exit code: 1 where something stops `preprocess`.
    """
    in_project()
    from tasks.data.folders import files_below
    from tasks.data.sources import fetch_source, pinned

    source = pinned(_source(source=path, files=files, encoding=encoding))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        fetched = fetch_source.fn(source, folder)
        typer.echo(f"{path}: {_forms(files_below(folder))}, {_size(fetched['bytes'])}")
        best = _best(folder, dataset, dict(map(_meaning, label or [])))
    for dataset, table, problems in best:
        stopping = [problem for problem in problems if not problem.left_out]
        typer.echo(f"as {dataset}: {len(table)} rows{_labels(table)}")
        _say_problems(problems, stopping, str(folder), dataset, table)
        _preview(dataset, table)
    if len(best) > 1 or stopping or table.empty:
        raise typer.Exit(1)
    if _is_in_inbox(path):
        typer.echo(NO_LINE_NEEDED)
        return
    typer.echo(f"to take them in, put this below datasets.{dataset}.sources in params.yaml:")
    sha256 = None if path.startswith("hf:") else fetched["sha256"]
    typer.echo(_block({"source": source.source, "sha256": sha256, "files": files, "encoding": encoding}))
    if label:
        typer.echo(f"and below datasets.{dataset}.preprocess: label_map: {json.dumps(dict(map(_meaning, label)))}")


def _is_in_inbox(path: str) -> bool:
    from tasks.data.inbox import INBOX

    return Path(path.removeprefix("file:")).resolve().is_relative_to(INBOX.resolve())


def _source(**values: str | None) -> "Source":
    from pydantic import ValidationError

    from tasks.data.sources import Source

    try:
        return Source(**values)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {reason}, not {first['input']!r}") from None


def _forms(paths: list[Path]) -> str:
    from tasks.data.formats.sniff import sniff

    def form(path: Path) -> str:
        try:
            return sniff(path)
        except UserError:  # whoever reads it says that with its place
            return "broken"

    counts = Counter(map(form, paths))
    return ", ".join(f"{count} {form}" if len(paths) > 1 else form for form, count in counts.most_common())


def _size(count: int) -> str:
    return f"{count / 1e6:.3g} MB" if count >= 1e5 else f"{count:,} bytes"


def _best(folder: Path, asked: str | None, meanings: dict[str, str]) -> list[Read]:
    """The dataset that reads most of the files, and what it finds; of equals the one that asks most of them.

    A label that it does not know can be named. Where none reads anything, those whose form the files have, as each may
    be what was meant: one entry where all say the same.
    """
    from tasks.stages.params import dataset_names

    names = [asked] if asked else dataset_names()
    if asked and asked not in dataset_names():
        raise UserError(f"there is no dataset {asked!r}; those are {', '.join(dataset_names())}")
    found: list[Read] = [(name, *_read(name, folder, meanings)) for name in reversed(names)]

    def fits(each: Read) -> tuple[bool, int, int]:
        _, table, problems = each
        own = [problem for problem in problems if not problem.other_form]
        others = [problem for problem in own if not problem.left_out and not _strange_labels([problem])]
        foreign = [problem for problem in problems if problem.other_form]
        return len(table) > 0 or len(others) < len(own), -len(others) - len(foreign), -len(foreign)

    best = max(found, key=fits)
    if fits(best)[0]:
        return [best]
    equal = [each for each in reversed(found) if fits(each) == fits(best)]
    alike = len(equal) > 1 and all(each[2] == equal[0][2] for each in equal)
    return [(ANY, *equal[0][1:])] if alike else equal


def _strange_labels(problems: list["Problem"]) -> set[str]:
    return {found[1] for each in problems if (found := re.match(r"label '(.*)' is not one of", each.reason))}


def _read(name: str, folder: Path, meanings: dict[str, str]) -> tuple["pd.DataFrame", list["Problem"]]:
    import pandas as pd
    from pydantic import ValidationError

    from tasks.data.formats import Problem
    from tasks.datasets import find
    from tasks.stages.params import load_preprocess

    dataset, params, problems = find(name), load_preprocess(name), []
    if meanings and hasattr(params, "label_map"):
        try:
            params = type(params)(**{**params.model_dump(), "label_map": {**params.label_map, **meanings}})
        except ValidationError as error:
            raise UserError(f"--label: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    try:
        if dataset.check:
            return dataset.check(folder, params, problems), problems
        return dataset.read(folder, params), problems
    except UserError as error:
        return pd.DataFrame(), [*problems, Problem(*str(error).split(": ", 1))]


def _labels(table: "pd.DataFrame") -> str:
    if "label" not in table or table.empty:
        return ""
    return f" ({', '.join(f'{count} {label}' for label, count in table['label'].value_counts().items())})"


def _say_problems(
    problems: list["Problem"], stopping: list["Problem"], folder: str, dataset: str, table: "pd.DataFrame"
) -> None:
    if not problems:
        return
    left_out = len(problems) - len(stopping)
    typer.echo(f"problems: {len(stopping)} that stop the stage" + (f", {left_out} rows left out" if left_out else ""))
    for problem in problems[:NAMED]:
        typer.echo(f"  {problem}".replace(f"{folder}/", ""))
    if len(problems) > NAMED:
        typer.echo(f"  and {len(problems) - NAMED} more")
    if strange := _strange_labels(problems):
        meanings = " ".join(f"--label {shlex.quote(value)}=…" for value in sorted(strange)[:NAMED])
        typer.echo(f"say what these labels mean with {meanings}")
        labels = [*(table["label"].unique() if "label" in table else ()), *sorted(strange)]
        if 2 < len(labels) <= NAMED:
            own = f"labels: [{', '.join(labels)}]"
            typer.echo(f"or, as labels of their own, below datasets.{dataset}.preprocess: {own}")
        typer.echo("or, where they are not for mails, what the rows are for: --as corpus")


def _preview(name: str, table: "pd.DataFrame") -> None:
    if table.empty:
        return
    from tasks.datasets import find

    columns = [column for column in (*SHOWN_FIRST, *(find(name).feedback or ())) if column in table]
    for row in table.head(SHOWN).to_dict("records"):
        typer.echo(f"  {row['id']}")
        for column in columns or [column for column in row if column != "id"]:
            if str(row[column]).strip():
                typer.echo(f"    {column}: {_short(row[column])}")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _block(entry: dict[str, Any]) -> str:
    """A source as the lines that stand below `sources` in params.yaml."""
    import yaml

    said = {key: value for key, value in entry.items() if value not in (None, "*")}
    return textwrap.indent(
        yaml.safe_dump([said], sort_keys=False, allow_unicode=True, width=2**16), " " * INDENT
    ).rstrip()


def _meaning(said: str) -> tuple[str, str]:
    value, mark, label = said.partition("=")
    if not mark:
        raise UserError(f"--label {said}: write VALUE=LABEL, such as 1=spam")
    return value, label
