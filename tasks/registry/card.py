"""The model card of a version: how good it is, its use and limits, where it fails, and its origins.

`card.html` is one file without links to others; `card.md` is its beginning as Markdown: figures, use and limits.
Everything in them is read from files of the project, and the same files give the same bytes. People describe use and
limits in `tasks/applications/<model>/card.md`. The card shows an evaluation's pictures (`*.svg`), tables
(`baselines.csv`, `slices*.csv`, `by_*.csv`), `errors.md` and `samples.md`, and the gates of a version that was approved
despite them.

The card is no part of a version's key: a better card of the same model and evidence makes no new version.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from markupsafe import Markup
from mlflow import MlflowClient
from pandas.api.types import is_numeric_dtype

from llm.errors import UserError
from llm.files import read_text, write_atomic
from tasks.registry.html_page import as_html, html_page
from tasks.registry.main_figures import OTHERS, main_figures, own_figures
from tasks.registry.markup import entries_markdown, first_entries, plain, render_markdown, table_markdown
from tasks.registry.record import holds
from tasks.stages.hashes import Hashes, flatten, locked
from tasks.stages.libraries import LIBRARIES
from tasks.stages.names import PUBLISHED, evaluation_stage, training_report, training_stage

BEGINNING = Path(__file__).with_name("card.md.j2")
WHOLE = Path(__file__).with_name("full_card.md.j2")
TABLES = ("baselines.csv", "slices*.csv", "by_*.csv")
ENTRIES = {"errors.md": ("The worst errors", 20), "samples.md": ("Samples", 10)}
MAIN_FIGURES = re.compile(r"^## Main figures\n+(?:- .*\n?)*\n*", re.MULTILINE)  # the table of figures has them
ROWS = 70  # of a table
MACHINE = ("machine.cpu", "machine.cores", "machine.os", "machine.python", "device", "dtype", "threads")
NOTE = "Approved despite these gates:"


@dataclass(frozen=True)
class CardSource:
    """What a card is written from, besides the files of the project."""

    model: str
    name: str
    """Its name in the registry."""
    metrics: Mapping[str, float]
    training: Hashes
    """The hashes of its training in dvc.lock."""
    evaluation: Hashes
    """The hashes of its evaluation in dvc.lock."""
    facts: Mapping[str, str]
    """The facts of the version's record."""
    trained: Mapping[str, str]
    """The facts of its training's record; empty if that is in another store."""


@dataclass(frozen=True)
class Section:
    """A part of the card, in Markdown."""

    title: str
    text: Markup
    note: str = ""
    """What is left out, and where it is."""


def made_by(model: str, training: Hashes) -> str:
    """Describe in Markdown how a model was trained, measured and started."""
    base = next((path for path in training.deps if path.startswith("models/")), None)
    trained = f"{model.capitalize()}, trained by `{training_stage(model)}`"
    stages = f"{trained} and measured on the test split by `{evaluation_stage(model)}`."
    if base is None:
        return stages
    start = f"{stages} It started from `{base}` (`{training.deps[base]}`)"
    if base != f"models/{PUBLISHED}":
        return f"{start}."
    weights = locked("load_published").params[PUBLISHED]
    return f"{start}, the weights `{weights}`."


def _prose(model: str) -> str:
    path = Path("tasks/applications", model, "card.md")
    if not path.exists():
        return f"## Use\n\nNobody has written it down yet, in `{path}`."
    return MAIN_FIGURES.sub("", read_text(path)).strip()


def _title(path: Path) -> str:
    return path.stem.replace("_", " ").capitalize()


def _table(path: Path) -> Section | None:
    """A table of the evidence; None for an empty file."""
    try:
        rows = pd.read_csv(path, keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError:
        return None
    note = ""
    if len(rows) > ROWS:
        note = f"The first {ROWS} of {len(rows)} rows; all are in `evaluation/evidence/{path.name}`."
    return Section(_title(path), _frame_markdown(rows.head(ROWS)), note)


def _frame_markdown(rows: pd.DataFrame) -> Markup:
    """A Markdown table of a frame; counts that it has as floats are whole numbers."""
    numbers = [index for index, name in enumerate(rows) if is_numeric_dtype(rows[name])]
    counts = [name for name in rows.columns[numbers] if _is_count(rows[name])]
    values = rows.astype(dict.fromkeys(counts, "Int64")).astype(object)
    cells = values.where(values.notna(), "").to_numpy().tolist()
    return table_markdown(list(rows.columns), cells, numbers)


def _is_count(column: pd.Series) -> bool:
    """Whether a column of numbers holds whole ones, and not just zeros and ones, which are shares."""
    return bool((column.dropna() % 1 == 0).all() and column.max() > 1)


def _entries(path: Path) -> Section:
    title, count = ENTRIES[path.name]
    text, is_whole = first_entries(read_text(path), count)
    note = f"More are in `evaluation/evidence/{path.name}`."
    return Section(title, entries_markdown(text), "" if is_whole else note)


def _data(training: Hashes) -> Markup:
    """The dataset with its hash, its sources with licences and notes, and the rows of each split."""
    path = next((Path(path) for path in training.deps if path.startswith("data/processed/")), None)
    if path is None:
        return Markup()
    parts = [f"Learned from `{path.as_posix()}` (`{training.deps[path.as_posix()]}`)."]
    sources = _sources(path.name)
    if sources:
        parts.append(_frame_markdown(pd.DataFrame(sources)))
    splits = _splits(path.name)
    if splits:
        parts.append(table_markdown(("split", "rows"), splits.items(), (1,)))
    return Markup("\n\n".join(parts))


def _sources(dataset: str) -> list[dict[str, Any]]:
    """The pinned sources of a dataset; none if the data was pulled, not fetched."""
    try:
        sources = locked(f"fetch@{dataset}").params[f"datasets.{dataset}.sources"]
    except UserError:
        return []
    return [_source(source) for source in sources]


def _source(source: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"source": source} if isinstance(source, str) else dict(source)


def _splits(dataset: str) -> dict[str, Any]:
    """The number of rows of each split, from the report on the data's quality."""
    report = Path("reports/quality", dataset, "validation.json")
    expectations = json.loads(report.read_text())["expectations"] if report.exists() else []
    return {
        str(expectation["column"]).removesuffix("_rows"): expectation.get("observed")
        for expectation in expectations
        if str(expectation["column"]).endswith("_rows")
    }


def _spelled(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as YAML and JSON spell them."""
    spelled = {}
    for key, value in flatten(values).items():
        spelled[key] = value if isinstance(value, str) else json.dumps(value)
    return spelled


def _training(source: CardSource) -> dict[str, dict[str, str]]:
    """The training's metrics, machine, parameters and libraries, and the model's shape."""
    measured = training_report(source.model) / "metrics.json"
    params = source.training.params
    return {
        "How it went": _spelled(json.loads(measured.read_text()) if measured.exists() else {}),
        "Machine": {name: source.trained[name] for name in MACHINE if name in source.trained},
        "The model": _spelled(json.loads(Path("models", source.model, "config.json").read_text())),
        "Parameters": _spelled({key: value for key, value in params.items() if key not in LIBRARIES}),
        "Libraries": _spelled({key: value for key, value in params.items() if key in LIBRARIES}),
    }


def _lineage(source: CardSource) -> dict[str, str]:
    """The hashes and runs that lead back to the bytes that it was made from."""
    facts = source.facts
    lineage = {
        "git commit at registration": facts["git.commit"],
        "not in git": facts["uncommitted"].removeprefix("not in git: ") or "nothing",
        "training run in MLflow": facts["run.training"],
        "git commit of that run": source.trained.get("git.commit", "not known here"),
        "key of this version": facts["key"],
    }
    for path, md5 in (source.training.outs | source.evaluation.outs).items():
        lineage[f"made: {path}"] = md5
    for path, md5 in (source.training.deps | source.evaluation.deps).items():
        if path.startswith(("data/", "models/")) and path != f"models/{source.model}":
            lineage[f"from: {path}"] = md5
    return lineage


def write_card(folder: Path, source: CardSource) -> None:
    """Write `card.md` and `card.html`, which a version's run logs, into an existing folder."""
    evidence = Path("reports/evaluation", source.model, "evidence")
    pictures = {path.name: path for path in sorted(evidence.glob("*.svg"))}
    meanings = main_figures(source.model)
    beginning = {
        "name": source.name,
        "made_by": made_by(source.model, source.training),
        "figures": sorted(own_figures(source.metrics), key=lambda figure: figure.name not in meanings),
        "meanings": meanings,
        "prose": _prose(source.model),
    }
    tables = [_table(path) for pattern in TABLES for path in sorted(evidence.glob(pattern))]
    whole = render_markdown(
        WHOLE,
        **beginning,
        others={name: value for name, value in source.metrics.items() if name.startswith(OTHERS)},
        tables=[section for section in tables if section],
        pictures={_title(path): name for name, path in pictures.items()},
        entries=[_entries(evidence / name) for name in ENTRIES if (evidence / name).exists()],
        data=_data(source.training),
        training=_training(source),
        lineage=_lineage(source),
    )
    write_atomic(folder / "card.md", render_markdown(BEGINNING, **beginning))
    write_atomic(folder / "card.html", html_page(whole, pictures))


def note_gates(run_id: str | None, gates: Sequence[str]) -> None:
    """Note on the card of a version's run the gates despite which it was approved; without any, remove the note."""
    note = f"\n**{NOTE} {plain(', '.join(gates))}.**\n" if gates else ""
    _note(run_id, "card/card.md", heading=r"\A# .*\n", earlier=rf"\n\*\*{NOTE}.*\n", note=note)
    _note(run_id, "card/card.html", heading=r"</h1>\n", earlier=rf"<p><strong>{NOTE}.*\n", note=as_html(note))


def _note(run_id: str | None, path: str, *, heading: str, earlier: str, note: str) -> None:
    """Put a note below the heading of an artifact, in place of an earlier one; both are regular expressions."""
    if not holds(run_id, path):
        return
    text = mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")
    pattern = f"({heading})(?:{earlier})?"
    noted = re.sub(pattern, lambda match: match[1] + note, text, count=1)
    if noted != text:
        MlflowClient().log_text(run_id, noted, path)
