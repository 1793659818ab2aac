"""The page of a review: the verdict first and then its evidence, as one HTML file that loads nothing.

A picture's bytes are in its address, so that no script in it runs and the page asks no other host.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

import jinja2
from mlflow.utils.mlflow_tags import MLFLOW_USER

from llm.files import read_text
from tasks.measures.metrics import lower_is_better
from tasks.registry.git import git_text
from tasks.registry.main_figures import main_figures
from tasks.registry.markup import cut, number, signed
from tasks.registry.store import mlflow_pages
from tasks.registry.tracking import COMMIT, NO_COMMIT, UNCOMMITTED
from tasks.review.compare import Comparison, changed_rows, judged, read_evidence, worst_rows
from tasks.review.gates import Gate

TEMPLATE = Path(__file__).with_name("review.html.j2")
MARKS = {True: ("✓ passed", "good"), False: ("✗ failed", "bad"), None: ("? not known", "open")}
FIGURES = 5
SAMPLES = 6_000  # characters
HASH = 10
"""Characters of a hash that people see."""
CODE = ("*.py", "dvc.yaml", "pyproject.toml", "requirements.lock", ":(exclude)tests", ":(exclude)benchmarks")


class Verdict(NamedTuple):
    """What a review says first."""

    gates: str
    """Whether all gates are passed."""
    comparison: str
    """How the challenger compares with champion or baseline."""


def write_page(path: Path, comparison: Comparison, gates: Sequence[Gate]) -> Verdict:
    """Write the page of a comparison. Returns its verdict."""
    conclusion = verdict(comparison, gates)
    lost, won = changed_rows(comparison)
    explained = {**main_figures(comparison.model), **comparison.evaluation.explained}
    first = [name for name in explained if name in comparison.metrics]
    names = [*first, *(name for name in comparison.metrics if name not in first)]
    ordered = [comparison.metrics[name] for name in names]
    version = comparison.challenger.version
    joined = comparison.joined
    with TemporaryDirectory() as folder:
        evidence = read_evidence(comparison.challenger, folder)
        page = (
            _environment()
            .get_template(TEMPLATE.name)
            .render(
                title=f"{version.name}: challenger {version.version} against {comparison.opponent}",
                verdict=conclusion,
                state=_state(gates),
                gates=gates,
                marks=MARKS,
                champion=comparison.champion,
                main=ordered[:FIGURES],
                others=ordered[FIGURES:],
                explained=explained,
                baseline=comparison.evaluation.baseline,
                notes=comparison.notes,
                unit=comparison.evaluation.unit,
                compared=0 if joined is None else len(judged(comparison.evaluation, joined)),
                lost=lost.to_dict("records"),
                won=won.to_dict("records"),
                worst=worst_rows(comparison).head(8).to_dict("records"),
                which=f"{comparison.model}/{version.version}",
                failed=any(gate.passed is False for gate in gates),
                page=version_page(version.name, comparison.challenger.number),
                origin=_origin(comparison),
                changes=_changes(comparison),
                slices=_slices(comparison),
                pictures=_pictures(evidence) if evidence else {},
                samples=_samples(evidence) if evidence else {},
                parameters=sorted(comparison.challenger.run.data.params.items()),
            )
        )
    path.write_text(page, encoding="utf-8")
    return conclusion


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"cut": cut, "number": number, "signed": signed, "first_word": _first_word}
    environment.tests["lower_is_better"] = lower_is_better  # pyrefly: ignore[unsupported-operation]: jinja2 lacks a type
    return environment


def _first_word(text: str) -> str:
    return text.partition(" ")[0]


def version_page(name: str, version: str) -> str:
    """The address of a version's page in MLflow."""
    return f"{mlflow_pages()}/#/models/{name}/versions/{version}"


def _state(gates: Sequence[Gate]) -> Literal["good", "bad", "open"]:
    passed = {gate.passed for gate in gates}
    if False in passed:
        return "bad"
    return "open" if None in passed else "good"


def verdict(comparison: Comparison, gates: Sequence[Gate]) -> Verdict:
    """Whether the challenger passes its gates, and how it compares by its main metric."""
    version = f"Version {comparison.challenger.number}"
    open_gates = [gate for gate in gates if gate.passed is not True]
    sentence = f"{version} passes all {len(gates)} gates."
    if open_gates:
        reasons = "; ".join(f"{gate.name}: {MARKS[gate.passed][0][2:]} ({gate.finding})" for gate in open_gates)
        sentence = f"{version} does not pass {len(open_gates)} of {len(gates)} gates: {cut(reasons, 900)}."
    return Verdict(sentence, _by_main_metric(comparison))


def _by_main_metric(comparison: Comparison) -> str:
    start = "" if comparison.champion else "There is no champion. "
    name = comparison.evaluation.main
    metric = comparison.metrics.get(name)
    change = metric.difference(beside_champion=comparison.champion is not None) if metric else None
    if metric is None or change is None:
        reason = comparison.incomparable or "no evaluation measured it"
        return f"{start}How it compares with {comparison.opponent} is not known: {reason}."
    ends = ""
    if change.low is not None and change.high is not None and change.verdict != "the same":
        ends = f" (95 % interval {signed(change.low)} to {signed(change.high)})"
    against = metric.champion if comparison.champion else metric.baseline
    values = f"{number(metric.value)} against {number(against)} of {comparison.opponent}"
    return f"{start}By {name}, {values}: {change.verdict}{ends}."


def _origin(comparison: Comparison) -> list[str]:
    """When the challenger was registered, by whom, from which commit, and the commits since the champion's."""
    challenger = comparison.challenger
    at = datetime.fromtimestamp(challenger.version.creation_timestamp / 1000, UTC)
    tags = challenger.run.data.tags
    commit = tags.get(COMMIT, NO_COMMIT)
    lines = [
        f"Registered {at:%Y-%m-%d %H:%M} UTC by {tags.get(MLFLOW_USER, 'nobody known')}, from commit {commit[:HASH]}."
    ]
    if tags.get(UNCOMMITTED):
        lines.append(f"Not in git: {tags[UNCOMMITTED]}.")
    origins = [f"{path} ({md5[:HASH]})" for path, md5 in challenger.data.items()]
    lines.append(f"Trained and measured with {', '.join(origins)}.")
    if comparison.champion:
        before = comparison.champion.run.data.tags.get(COMMIT, NO_COMMIT)
        files = None if NO_COMMIT in (before, commit) else git_text(f"diff --name-only {before} {commit} --", *CODE)
        if files is None:
            lines.append(f"The champion is from commit {before[:HASH]}, which this repository can't compare.")
        else:
            count = len(files.splitlines())
            lines.append(f"git diff {before[:HASH]} {commit[:HASH]} shows {count} changed files of code.")
    return lines


def _changes(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The parameters and hashes of data that differ from the champion's, with both values."""
    if comparison.champion is None:
        return []
    before = comparison.champion.run.data.params
    after = comparison.challenger.run.data.params
    names = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
    return [(name, before.get(name, "-"), after.get(name, "-")) for name in names]


def _slices(comparison: Comparison) -> list[dict[str, Any]]:
    """The mean score of each slice of the rows; beside a champion what lost most comes first, else the worst."""
    table = comparison.joined if comparison.joined is not None else comparison.table
    rows = judged(comparison.evaluation, table)
    slices = []
    for column in comparison.evaluation.slices:
        for name, part in rows.groupby(column, sort=True):
            score = float(part["score"].mean())
            opponents = None if part["other"].isna().any() else float(part["other"].mean())
            slices.append({"by": column, "name": str(name), "rows": len(part), "score": score, "other": opponents})
    if comparison.joined is not None:
        return sorted(slices, key=_lost)
    return sorted(slices, key=_score)


def _lost(part: Mapping[str, Any]) -> float:
    return (part["score"] - (part["other"] or 0.0)) * part["rows"]


def _score(part: Mapping[str, Any]) -> float:
    return part["score"]


def _pictures(evidence: Path) -> dict[str, str]:
    """The SVG files of an evaluation as addresses that hold their bytes."""
    pictures = {}
    for path in sorted(evidence.glob("*.svg")):
        pictures[path.stem] = f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return pictures


def _samples(evidence: Path) -> dict[str, str]:
    path = evidence / "samples.md"
    return {"challenger": read_text(path)[:SAMPLES]} if path.exists() else {}
