"""`threestage data check`: print what is in your files, and the lines of params.yaml that add them."""

import json
import re
import shlex
import tempfile
import textwrap
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from app.project import in_project
from llm.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from tasks.data.problems import Problem

SHOWN = 3
"""Rows of a preview."""
NAMED = 20
"""Problems that are printed."""
LONGEST = 72
"""Characters of a value in a preview."""
INDENT = " " * 6
"""Before an item of datasets.<name>.sources in params.yaml."""
NO_LINE_NEEDED = "what lies in data/inbox needs no line in params.yaml, which would add it twice: see data/README.md"


class Read(NamedTuple):
    """A dataset's reading of the files."""

    dataset: str
    table: "pd.DataFrame"
    problems: list["Problem"]

    def stopping(self) -> list["Problem"]:
        """The problems that stop `preprocess`."""
        return [problem for problem in self.problems if not problem.left_out]

    def fits(self) -> tuple[bool, int, int]:
        """How well the dataset suits the files: whether it reads any, then how few problems it has. A label that it
        does not know is none, since that can be mapped."""
        own = [problem for problem in self.problems if not problem.other_form]
        foreign = len(self.problems) - len(own)
        stopping = sum(not problem.left_out and not _unknown_labels([problem]) for problem in own)
        return len(self.table) > 0 or stopping < len(own), -stopping - foreign, -foreign


data = typer.Typer(
    help="Look at your own files before anything learns from them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@data.command()
def check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A file, a folder, a glob in quotes, or any other source.")
    ],
    dataset: Annotated[
        str | None, typer.Option("--as", metavar="DATASET", help="corpus, emails or instructions; else the best fit.")
    ] = None,
    files: Annotated[str, typer.Option(metavar="GLOB", help="Read only these of a folder or an archive.")] = "*",
    encoding: Annotated[str | None, typer.Option(metavar="NAME", help="Encoding, if not UTF-8: windows-1252.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="VALUE=LABEL", help="A value's label: 1=spam; repeat for more.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=NAME", help="A column's name: label=folder; repeat for more.")
    ] = None,
) -> None:
    """Print what is in files: form, rows, problems, and the block to paste.

    Exit code: 1 where something stops `preprocess`.
    """
    in_project()
    from tasks.data.folders import files_below
    from tasks.data.sources import Source, pinned, write_source

    label_map = dict(_pair(f"--label {text}: write VALUE=LABEL, such as 1=spam", text) for text in label or [])
    columns = dict(_pair(f"--column {text}: write OURS=NAME, such as label=folder", text) for text in column or [])
    source = pinned(Source(source=path, files=files, encoding=encoding))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        fetched = write_source(source, folder)
        typer.echo(f"{path}: {_forms(files_below(folder))}, {fetched['bytes']:,} bytes")
        best = _best(folder, dataset, {"label_map": label_map, "columns": columns})
        has_labels = "label" in best[0].table and not best[0].table.empty
        hint = None if has_labels or "label" in columns else _label_hint(path, folder, dataset)
    for found in best:
        labels = found.table["label"].value_counts().items() if "label" in found.table else ()
        counts = ", ".join(f"{count} {name}" for name, count in labels)
        typer.echo(f"as {found.dataset}: {len(found.table)} rows{f' ({counts})' if counts else ''}")
        _print_problems(found, f"{folder}/")
        _preview(found)
    if hint:
        typer.echo(hint)
    if hint or len(best) > 1 or best[0].stopping() or best[0].table.empty:
        raise typer.Exit(1)
    from tasks.data.inbox import INBOX

    if Path(path.removeprefix("file:")).resolve().is_relative_to(INBOX.resolve()):
        typer.echo(NO_LINE_NEEDED)
        return
    name = best[0].dataset
    typer.echo(f"to take them in, put this below datasets.{name}.sources in params.yaml:")
    sha256 = None if path.startswith("hf:") else fetched["sha256"]
    typer.echo(_block(source=source.source, sha256=sha256, files=files, encoding=encoding))
    for key, values in {"label_map": label_map, "columns": columns}.items():
        if values:
            typer.echo(f"and below datasets.{name}.preprocess: {key}: {json.dumps(values)}")


def _pair(mistake: str, text: str) -> tuple[str, str]:
    """The two sides of `=`. Raises UserError with the line `mistake` without it."""
    key, mark, value = text.partition("=")
    if not mark:
        raise UserError(mistake)
    return key, value


def _label_hint(source: str, folder: Path, dataset: str | None) -> str | None:
    """A line on a table of mails whose column of labels has no usual name; None if there is no such table."""
    from tasks.data.folders import files_below
    from tasks.data.formats.mails import likely_label
    from tasks.params.slices import find_dataset

    if dataset and find_dataset(dataset).labels is None:
        return None
    for path in files_below(folder):
        with suppress(UserError):  # reported with its file
            if likely := likely_label(path):
                values = ", ".join(f"{count} {value!r}" for value, count in likely.counts.most_common(SHOWN))
                again = f"threestage data check {shlex.quote(source)}"
                mails = f"{again} --as emails --column {shlex.quote(f'label={likely.column}')}"
                texts = "" if dataset else f"; if they are texts without labels: {again} --as corpus"
                return f"these may be mails with their labels under {likely.column!r} ({values}): {mails}{texts}"
    return None


def _forms(paths: list[Path]) -> str:
    from tasks.data.sniff import sniff

    def form(path: Path) -> str:
        try:
            return sniff(path)
        except UserError:  # the dataset that reads it prints the reason
            return "broken"

    counts = Counter(map(form, paths))
    return ", ".join(f"{count} {form}" if len(paths) > 1 else form for form, count in counts.most_common())


def _best(folder: Path, wanted: str | None, changes: dict[str, dict[str, str]]) -> list[Read]:
    """The dataset that suits the files best; of equals the one that demands most of them.

    If none reads anything, all that suit equally well; one entry if all have the same problems.
    """
    from tasks.stages.names import dataset_names

    names = dataset_names()
    if wanted and wanted not in names:
        raise UserError(f"there is no dataset {wanted!r}; those are {', '.join(names)}")
    found: list[Read] = []
    refused: ValueError | None = None
    for name in [wanted] if wanted else names:
        try:
            found.append(_read(name, folder, changes))
        except ValueError as error:  # a label or column of another dataset
            refused = error
    if refused and not found:
        raise refused
    best = max(reversed(found), key=Read.fits)
    if best.fits()[0]:
        return [best]
    equal = [each for each in found if each.fits() == best.fits()]
    alike = len(equal) > 1 and all(each.problems == equal[0].problems for each in equal)
    return [equal[0]._replace(dataset="any dataset")] if alike else equal


def _read(name: str, folder: Path, changes: dict[str, dict[str, str]]) -> Read:
    import pandas as pd

    from tasks.data.problems import Problem
    from tasks.params.load import load_preprocess
    from tasks.params.slices import find_dataset

    dataset, params, problems = find_dataset(name), load_preprocess(name), []
    given = {key: getattr(params, key) | new for key, new in changes.items() if new and hasattr(params, key)}
    if given:
        params = type(params)(**params.model_dump() | given)
    try:
        table = dataset.check(folder, params, problems) if dataset.check else dataset.read(folder, params)
    except UserError as error:
        table = pd.DataFrame()
        problems.append(Problem(*str(error).split(": ", 1)))
    return Read(name, table, problems)


def _unknown_labels(problems: list["Problem"]) -> set[str]:
    return {found[1] for each in problems if (found := re.match(r"label '(.*)' is not one of", each.reason))}


def _print_problems(found: Read, folder: str) -> None:
    """The problems, without the scratch folder in their places, and what to do about unknown labels."""
    problems, stopping = found.problems, len(found.stopping())
    if not problems:
        return
    left_out = f", {len(problems) - stopping} rows left out" if len(problems) > stopping else ""
    typer.echo(f"problems: {stopping} that stop the stage{left_out}")
    reasons: dict[str, list[Problem]] = {}
    for problem in problems:
        reasons.setdefault(problem.reason, []).append(problem)
    for same in list(reasons.values())[:NAMED]:
        more = f" (and {len(same) - 1} more)" if len(same) > 1 else ""
        typer.echo(f"  {same[0]}{more}".replace(folder, ""))
    if len(reasons) > NAMED:
        typer.echo(f"  and {len(reasons) - NAMED} other reasons")
    if unknown := sorted(_unknown_labels(problems))[:NAMED]:
        typer.echo(f"map these labels with {' '.join(f'--label {shlex.quote(value)}=…' for value in unknown)}")
        labels = [*(found.table["label"].unique() if "label" in found.table else ()), *unknown]
        typer.echo(f"or keep them, below datasets.{found.dataset}.preprocess: labels: [{', '.join(labels)}]")


def _preview(found: Read) -> None:
    if found.table.empty:
        return
    from tasks.params.slices import find_dataset
    from tasks.registry.markup import cut

    columns = [
        column for column in ("label", "text", *(find_dataset(found.dataset).feedback or ())) if column in found.table
    ]
    for row in found.table.head(SHOWN).to_dict("records"):
        typer.echo(f"  {row['id']}")
        for column in columns or [column for column in row if column != "id"]:
            if str(row[column]).strip():
                typer.echo(f"    {column}: {cut(row[column], LONGEST)}")


def _block(**entry: str | None) -> str:
    """A source as the lines that stand below `sources` in params.yaml."""
    import yaml

    given = {key: value for key, value in entry.items() if value not in (None, "*")}
    lines = yaml.safe_dump([given], sort_keys=False, allow_unicode=True, width=2**16)
    return textwrap.indent(lines, INDENT).rstrip()
