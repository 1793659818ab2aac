"""The model card of a version: what it is, what it was made from, how good it is and where it fails.

One text, twice: `card.md`, and `card.html`, a file that needs no other. Everything in it is read from files of the
project, and the same files give the same bytes. What a model is for, what it is not for and where its limits lie is
prose that people write, in `tasks/applications/<model>.md`. Of the evidence of an evaluation a card shows its pictures
(`*.svg`), tables (`baselines.csv`, `slices*.csv`, `by_*.csv`), `errors.md` and `samples.md`: what an application
calls so is in its card.

The card is no part of a version's key: model, evidence and shipped code decide what a version is, and a better card of
the same version is no other version.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.errors import UserError
from llm.files import read_text, write_atomic
from tasks.registry.figures import figures_table
from tasks.registry.markup import as_html, first_entries, plain, table, tame
from tasks.stages.hashes import PREFIX, Hashes, flatten, locked
from tasks.stages.libraries import LIBRARIES
from tasks.stages.params import PARAMS_FILE, PUBLISHED, evaluation_stage, training_report, training_stage

TABLES = ("baselines.csv", "slices*.csv", "by_*.csv")
ROWS, ERRORS, SAMPLES = 70, 20, 10  # of a table, of errors.md, of samples.md
NOTES = 2000  # characters of what params.yaml says of a dataset
SENTENCE = 2000  # characters of what is not in git
NO_COMMIT = "none"
MACHINE = ("machine.cpu", "machine.cores", "machine.os", "machine.python", "device", "dtype", "threads")


@dataclass(frozen=True)
class Origin:
    """Where a version comes from."""

    training: Hashes
    """Of the stage that trained it, as dvc.lock has them."""
    evaluation: Hashes
    """Of the stage that measured it."""
    commit: str
    """The git commit that it was registered at; `none` without one."""
    uncommitted: str
    """What was not in that commit, such as `not in git: params.yaml, steps 900 -> 20`; empty where it held all."""
    training_run: str
    """Id of the MLflow run that trained it; `none` where another store has that."""
    run_tags: Mapping[str, str]
    """The tags of that run, which say of which commit it was and on what it ran; empty without one."""
    links: Mapping[str, str]
    """The pages of the runs that made it, by what they are called; of those that are known here."""
    key: str
    """The key of the version."""


def base_sentence(training: Hashes) -> str:
    """The model that training started from, as a sentence; empty where it started from nothing."""
    base = next((path for path in training.deps if path.startswith("models/")), None)
    if base is None:
        return ""
    weights = f", the weights `{locked('load_published').params[PUBLISHED]}`" if base == f"models/{PUBLISHED}" else ""
    return f"It started from `{base}` (`{training.deps[base]}`){weights}. "


def _commit(origin: Origin) -> str:
    if origin.commit == NO_COMMIT:
        return "**no git commit**"
    said = plain(origin.uncommitted, SENTENCE).replace("-\\>", "->")
    return f"git commit `{origin.commit}`" + (f"; **{said}**" if said else "")


def _made_by(model: str) -> str:
    return (
        f"{model.capitalize()}, trained by `{training_stage(model)}` and measured on the test split by "
        f"`{evaluation_stage(model)}`."
    )


def card(model: str, name: str, metrics: Mapping[str, float], origin: Origin) -> str:
    """The card in Markdown; `name` is what the registry calls the model.

    Pictures are named as they lie beside it among the artifacts of the version's run: `../evaluation/evidence/…`.
    """
    evidence, report = Path("reports/evaluation", model, "evidence"), training_report(model)
    prose = Path("tasks/applications", f"{model}.md")
    intended = read_text(prose).strip() if prose.exists() else f"## Use\n\nNobody has written it down, in `{prose}`."
    parts = [
        [f"# {plain(name)}", "", f"{_made_by(model)} {base_sentence(origin.training)}".rstrip()],
        [intended],
        ["## Figures", "", "On the test split, by which nothing of it was chosen.", "", *figures_table(metrics)],
        _pictures(evidence, "../evaluation/evidence"),
        *(_csv(path) for pattern in TABLES for path in sorted(evidence.glob(pattern))),
        _entries(evidence / "errors.md", "The worst errors", ERRORS),
        _entries(evidence / "samples.md", "Samples", SAMPLES),
        _data(origin.training),
        _training(model, origin, report),
        _lineage(model, origin),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _pictures(folder: Path, place: str) -> list[str]:
    lines = [f"![{plain(path.stem.replace('_', ' '))}]({place}/{path.name})" for path in sorted(folder.glob("*.svg"))]
    return ["## Pictures", "", *lines] if lines else []


def _numbers(values: Sequence[str]) -> list[str] | None:
    """The cells of a column as numbers of one form, whole where all are; None where one is no number."""
    try:
        found = [float(value) if value else None for value in values]
    except ValueError:
        return None
    known = [value for value in found if value is not None]
    whole = all(value.is_integer() for value in known) and max(map(abs, known), default=0) > 1
    return ["" if value is None else f"{value:.0f}" if whole else f"{value:.4f}" for value in found] if known else None


def _csv(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = list(csv.reader(file)) or [[]]
    if not columns:  # an empty file, or one that says that there is nothing
        return []
    cells = [_numbers(column) for column in zip(*rows, strict=True)]
    right = [place for place, numbers in enumerate(cells) if numbers is not None]
    for place in right:
        for row, number in zip(rows, cells[place], strict=True):
            row[place] = number
    lines = [f"## {plain(path.stem.replace('_', ' ').capitalize())}", "", *table(columns, rows[:ROWS], right)]
    if len(rows) > ROWS:
        lines += ["", f"The first {ROWS} of {len(rows)} rows; all are in `evaluation/evidence/{path.name}`."]
    return lines


def _entries(path: Path, title: str, number: int) -> list[str]:
    if not path.exists():
        return []
    shown, all_of_it = first_entries(read_text(path), number)
    rest = [] if all_of_it else ["", f"More are in `evaluation/evidence/{path.name}`."]
    return [f"## {title}", "", tame(shown), *rest]


def _notes(dataset: str) -> tuple[list[str], dict[str, str]]:
    """What the comments of params.yaml say of a dataset, its licences mostly: at its head, and behind a source."""
    text = read_text(PARAMS_FILE)
    block = re.search(rf"^  {re.escape(dataset)}:[^\n]*\n(?:(?:    [^\n]*)?\n)*", text, re.MULTILINE)
    head, _, rest = (block[0] if block else "").partition("\n    sources:")
    comments = [line.strip().removeprefix("#").strip() for line in head.splitlines() if line.strip().startswith("#")]
    return comments, dict(re.findall(r"source: (\S+)[ \t]+# (.*)", rest))


def _data(training: Hashes) -> list[str]:
    """The sources of the dataset and the rows that each split of it has."""
    data = next((Path(path) for path in training.deps if path.startswith("data/processed/")), None)
    if data is None:
        return []
    lines = ["## Data", "", f"Learned from `{data}` (`{training.deps[data.as_posix()]}`)."]
    try:
        sources = locked(f"fetch@{data.name}").params[f"datasets.{data.name}.sources"]
        sources = [{"source": each} if isinstance(each, str) else each for each in sources]
    except UserError:  # it came to this machine without being fetched
        sources = []
    head, notes = _notes(data.name)
    if sources:
        said = [
            {**source, **({"note": notes[source["source"]]} if source["source"] in notes else {})} for source in sources
        ]
        columns = list(dict.fromkeys(key for source in said for key in source))
        lines += ["", *table(columns, ([source.get(key, "") for key in columns] for source in said))]
    if head:
        lines += ["", plain(" ".join(head), NOTES)]
    report = Path("reports/quality", data.name, "validation.json")
    if report.exists():
        found = {each["column"]: each.get("observed") for each in json.loads(report.read_text())["expectations"]}
        rows = [
            (str(name).removesuffix("_rows"), count) for name, count in found.items() if str(name).endswith("_rows")
        ]
        lines += ["", *table(("split", "rows"), rows, right=(1,))]
    return lines


def _said(value: Any) -> str:
    """A value as YAML and JSON spell it."""
    return value if isinstance(value, str) else json.dumps(value)


def _training(model: str, origin: Origin, report: Path) -> list[str]:
    """The model's shape, how its training went, on what, with which parameters and libraries."""
    config = json.loads(Path("models", model, "config.json").read_text())
    parameters = flatten({key: value for key, value in origin.training.params.items() if key not in LIBRARIES})
    libraries = {key: value for key, value in origin.training.params.items() if key in LIBRARIES}
    machine = {name: origin.run_tags[tag] for name in MACHINE if (tag := f"{PREFIX}.{name}") in origin.run_tags}
    measured = report / "metrics.json"
    tables = {
        "How it went": json.loads(measured.read_text()) if measured.exists() else {},
        "Machine": machine,
        "The model": flatten(config),
        "Parameters": parameters,
        "Libraries": libraries,
    }
    lines = ["## Training"]
    if (report / "loss.svg").exists():
        lines += ["", "![loss by step](../training/loss.svg)"]
    if not machine:
        lines += ["", "On which machine is not known here: the training's run is in another store."]
    for title, values in tables.items():
        if values:
            lines += [
                "",
                f"### {title}",
                "",
                *table(("name", "value"), ((key, _said(value)) for key, value in values.items())),
            ]
    return lines


def _lineage(model: str, origin: Origin) -> list[str]:
    """From here one can walk back to the bytes that it was made from, and make it again."""
    training, evaluation = origin.training, origin.evaluation
    made = [*training.outs.items(), *evaluation.outs.items()]
    used = [(path, md5) for path, md5 in (*training.deps.items(), *evaluation.deps.items()) if _is_data(path)]
    rows = [
        ("git commit at registration", origin.commit),
        ("not in git", origin.uncommitted.removeprefix("not in git: ") or "nothing"),
        ("training run in MLflow", origin.training_run),
        ("git commit of that run", origin.run_tags.get(f"{PREFIX}.git.commit", "not known here")),
        ("key of this version", origin.key),
        *((f"made: {path}", md5) for path, md5 in made),
        *((f"from: {path}", md5) for path, md5 in dict(used).items() if path != f"models/{model}"),
    ]
    return ["## Lineage", "", "The hashes are DVC's, as dvc.lock has them.", "", *table(("what", "which"), rows)]


def _is_data(path: str) -> bool:
    return path.startswith(("data/", "models/"))


def write_card(folder: Path, model: str, name: str, metrics: Mapping[str, float], origin: Origin) -> None:
    """Write `card.md` and `card.html`, as logged with a version's run, into a folder that is there."""
    evidence, report = Path("reports/evaluation", model, "evidence"), training_report(model)
    pictures = {f"../evaluation/evidence/{path.name}": path for path in evidence.glob("*.svg")}
    pictures |= {f"../training/{path.name}": path for path in report.glob("*.svg")}
    markdown = card(model, name, metrics, origin)
    write_atomic(folder / "card.md", markdown)
    write_atomic(folder / "card.html", as_html(markdown, pictures))
