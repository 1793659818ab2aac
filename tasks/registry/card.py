"""The model card of a version: how good it is, where it fails, its use and limits, and its origins.

`card.html` is one file without links to others; `card.md` is a short text: figures, use and limits. Everything in them
is read from files of the project, and the same files give the same bytes. People describe use and limits in
`tasks/applications/<model>/card.md`. The card shows an evaluation's pictures (`*.svg`), tables (`baselines.csv`,
`slices*.csv`, `by_*.csv`), `errors.md` and `samples.md`, and the gates of a version that was approved despite
them.

The card is no part of a version's key: a better card of the same model and evidence makes no new version.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from markupsafe import escape
from mlflow import MlflowClient

from llm.errors import UserError
from llm.files import read_text, write_atomic
from tasks.registry.main_figures import OTHERS, compared, figures_table, lower_is_better, main_figures
from tasks.registry.markup import as_source, first_entries, plain, render
from tasks.registry.record import holds
from tasks.stages.hashes import Hashes, flatten, locked
from tasks.stages.libraries import LIBRARIES
from tasks.stages.names import PUBLISHED, evaluation_stage, training_report, training_stage

TEMPLATE = Path(__file__).with_name("card.html.j2")
TABLES = ("baselines.csv", "slices*.csv", "by_*.csv")
ENTRIES = {"errors.md": ("The worst errors", 20), "samples.md": ("Samples", 10)}
MAIN_FIGURES = re.compile(r"^## Main figures\n+(?:- .*\n?)*\n*", re.MULTILINE)  # the table of figures has them
ROWS = 70  # of a table
MACHINE = ("machine.cpu", "machine.cores", "machine.os", "machine.python", "device", "dtype", "threads")


def _made_by(model: str, training: Hashes) -> str:
    base = next((path for path in training.deps if path.startswith("models/")), None)
    stages = f"trained by `{training_stage(model)}` and measured on the test split by `{evaluation_stage(model)}`."
    if base is None:
        return f"{model.capitalize()}, {stages}"
    weights = f", the weights `{locked('load_published').params[PUBLISHED]}`" if base == f"models/{PUBLISHED}" else ""
    return f"{model.capitalize()}, {stages} It started from `{base}` (`{training.deps[base]}`){weights}."


def _prose(model: str) -> str:
    path = Path("tasks/applications", model, "card.md")
    return read_text(path).strip() if path.exists() else f"## Use\n\nNobody has written it down yet, in `{path}`."


def _title(path: Path) -> str:
    return path.stem.replace("_", " ").capitalize()


def _cells(column: Sequence[str]) -> list[Any]:
    """A column of a CSV file: numbers, whole ones where all are whole, or text where one is not a number."""
    try:
        values = [float(each) if each else None for each in column]
    except ValueError:
        return list(column)
    known = [each for each in values if each is not None]
    whole = all(map(float.is_integer, known)) and max(map(abs, known), default=0) > 1
    return [int(each) if whole and each is not None else each for each in values]


def _table(path: Path) -> dict[str, Any] | None:
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = list(csv.reader(file)) or [[]]
    if not columns:
        return None
    cells = list(zip(*map(_cells, zip(*rows, strict=True)), strict=True))
    more = len(rows) if len(rows) > ROWS else 0
    return {"title": _title(path), "file": path.name, "columns": columns, "rows": cells[:ROWS], "more": more}


def _entries(path: Path) -> dict[str, Any]:
    title, count = ENTRIES[path.name]
    text, whole = first_entries(read_text(path), count)
    return {"title": title, "file": path.name, "text": text, "whole": whole}


def _data(training: Hashes) -> dict[str, Any] | None:
    """The sources of the dataset with their licences and notes, and the rows of each split."""
    data = next((Path(path) for path in training.deps if path.startswith("data/processed/")), None)
    if data is None:
        return None
    try:
        sources = locked(f"fetch@{data.name}").params[f"datasets.{data.name}.sources"]
    except UserError:  # the data was pulled, not fetched
        sources = []
    sources = [dict(each) if isinstance(each, Mapping) else {"source": each} for each in sources]
    columns = list(dict.fromkeys(key for each in sources for key in each))
    report, splits = Path("reports/quality", data.name, "validation.json"), {}
    for each in json.loads(report.read_text())["expectations"] if report.exists() else ():
        if (name := str(each["column"])).endswith("_rows"):
            splits[name.removesuffix("_rows")] = each.get("observed")
    return {
        "path": data.as_posix(),
        "md5": training.deps[data.as_posix()],
        "columns": columns,
        "sources": [[each.get(key, "") for key in columns] for each in sources],
        "splits": splits,
    }


def _spelled(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as YAML and JSON spell them."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flatten(values).items()}


def _training(model: str, params: Mapping[str, Any], trained: Mapping[str, str], report: Path) -> dict[str, Any]:
    """The training's metrics, machine, parameters and libraries, and the model's shape."""
    measured = report / "metrics.json"
    return {
        "How it went": _spelled(json.loads(measured.read_text()) if measured.exists() else {}),
        "Machine": {name: trained[name] for name in MACHINE if name in trained},
        "The model": _spelled(json.loads(Path("models", model, "config.json").read_text())),
        "Parameters": _spelled({key: value for key, value in params.items() if key not in LIBRARIES}),
        "Libraries": _spelled({key: value for key, value in params.items() if key in LIBRARIES}),
    }


def _lineage(
    model: str, training: Hashes, evaluation: Hashes, facts: Mapping[str, str], trained: Mapping[str, str]
) -> dict[str, str]:
    """The hashes and runs that lead back to the bytes that it was made from."""
    deps = training.deps | evaluation.deps
    used = {path: md5 for path, md5 in deps.items() if path.startswith(("data/", "models/"))}
    return {
        "git commit at registration": facts["git.commit"],
        "not in git": facts["uncommitted"].removeprefix("not in git: ") or "nothing",
        "training run in MLflow": facts["run.training"],
        "git commit of that run": trained.get("git.commit", "not known here"),
        "key of this version": facts["key"],
        **{f"made: {path}": md5 for path, md5 in (training.outs | evaluation.outs).items()},
        **{f"from: {path}": md5 for path, md5 in used.items() if path != f"models/{model}"},
    }


def write_card(
    folder: Path,
    model: str,
    name: str,
    metrics: Mapping[str, float],
    training: Hashes,
    evaluation: Hashes,
    facts: Mapping[str, str],
    trained: Mapping[str, str],
) -> None:
    """Write `card.md` and `card.html`, which a version's run logs, into an existing folder.

    `training` and `evaluation` are the hashes of these stages in dvc.lock, `facts` the facts of the version's record,
    and `trained` those of its training's record, or empty if that is in another store.
    """
    evidence, report = Path("reports/evaluation", model, "evidence"), training_report(model)
    made_by, prose = _made_by(model, training), _prose(model)
    figures, meanings = "\n".join(figures_table(metrics)), main_figures(model)
    write_atomic(folder / "card.md", f"# {plain(name)}\n\n{made_by}\n\n## Figures\n\n{figures}\n\n{prose}\n")
    tables = (_table(path) for pattern in TABLES for path in sorted(evidence.glob(pattern)))
    page = render(
        TEMPLATE,
        title=name,
        made_by=made_by,
        prose=MAIN_FIGURES.sub("", prose),
        figures=sorted(compared(metrics), key=lambda each: each.name not in meanings),
        meanings=meanings,
        lower_better=lower_is_better,
        others={each: value for each, value in metrics.items() if each.startswith(OTHERS)},
        tables=[each for each in tables if each],
        pictures={_title(path): as_source(path) for path in sorted(evidence.glob("*.svg"))},
        entries=[_entries(evidence / each) for each in ENTRIES if (evidence / each).exists()],
        data=_data(training),
        training=_training(model, training.params, trained, report),
        lineage=_lineage(model, training, evaluation, facts, trained),
    )
    write_atomic(folder / "card.html", page)


def note_gates(run_id: str | None, gates: Sequence[str]) -> None:
    """Note on the card of a version's run the gates despite which it was approved; without any, remove the note."""
    html = f'<p id="despite" class="verdict bad">Approved despite these gates: {escape(", ".join(gates))}.</p>\n'
    markdown = f"**Approved despite these gates: {plain(', '.join(gates))}.**\n\n"
    for path, heading, before, note in (
        ("card/card.html", r"(</h1>\n)", r'(?:<p id="despite".*</p>\n)?', html),
        ("card/card.md", r"\A(# .*\n\n)", r"(?:\*\*Approved despite .*\n\n)?", markdown),
    ):
        if holds(run_id, path):
            text = mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")
            noted = re.sub(heading + before, lambda match, note=note: match[1] + (note if gates else ""), text, count=1)
            if noted != text:
                MlflowClient().log_text(run_id, noted, path)
