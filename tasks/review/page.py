"""A review as Markdown, the verdict first and then its evidence, and the same as an HTML page."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from markupsafe import Markup
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_USER

from llm.files import read_text, write_atomic
from tasks.registry.html_page import State, html_page
from tasks.registry.main_figures import lower_is_better
from tasks.registry.markup import entries_markdown, first_entries, number, plain, render_markdown, signed
from tasks.review.changes import Origin, changed, changed_code, origin
from tasks.review.comparison import EVIDENCE, Comparison, Slice
from tasks.review.gates import Gate
from tasks.review.metrics import CHAMPION, Difference, Metric

VERDICT = Path(__file__).with_name("verdict.md.j2")
WHOLE = Path(__file__).with_name("review.md.j2")
FIGURES, ROWS, SLICES, SAMPLES = 5, 8, 12, 8
MARKS = {True: "✓ passed", False: "✗ failed", None: "? not known"}


def verdict(comparison: Comparison, gates: Sequence[Gate]) -> str:
    """The verdict in Markdown: whether the challenger passes its gates, and how it compares by its main metric."""
    version = f"Version {comparison.challenger.version}"
    failed = [gate for gate in gates if gate.passed is False]
    unknown = [gate for gate in gates if gate.passed is None]
    counts = []
    if failed:
        counts.append(f"{len(failed)} failed")
    if unknown:
        counts.append(f"{len(unknown)} could not be computed")
    if counts:
        reasons = "; ".join(f"{gate.name} ({gate.finding})" for gate in (*failed, *unknown))
        sentence = f"**{version} does not pass: of {len(gates)} gates {' and '.join(counts)}.**"
        sentence += f" Not passed: {plain(reasons, 900)}."
    else:
        sentence = f"**{version} passes all {len(gates)} gates.**"
    return f"{sentence} {_by_main_metric(comparison)} {comparison.left_out}".rstrip()


def _by_main_metric(comparison: Comparison) -> str:
    """How the challenger compares with the champion, or else with the baseline."""
    opponent = comparison.opponent
    start = "" if comparison.champion else "There is no champion. "
    metric = comparison.metrics.get(comparison.main)
    difference = metric.difference(comparison.against) if metric else None
    if metric is None or difference is None:
        reason = comparison.incomparable or "no evaluation measured it"
        return f"{start}How it compares with {opponent} is not known: {plain(reason)}."
    if difference.verdict == "no clear difference":
        clause = f"it does not clearly differ from {opponent}"
    elif difference.verdict == "not known":
        clause = f"its difference from {opponent} has no interval"
    else:
        clause = f"it is **{difference.verdict}** than {opponent}"
    values = _values(metric, difference, against_champion=comparison.champion is not None)
    sentence = f"{start}By {plain(metric.name)} {clause}: {values}."
    if not comparison.answered:
        return sentence
    counts = f"it lost {len(comparison.lost)} and won {len(comparison.won)}"
    return f"{sentence} Of {comparison.rows} {comparison.unit} {counts}."


def _values(metric: Metric, difference: Difference, *, against_champion: bool) -> str:
    """Both values of a metric, and their difference with its interval."""
    value = metric.paired if against_champion and metric.paired is not None else metric.value
    opponents = metric.champion if against_champion else metric.baseline
    ends = ""
    if difference.low is not None and difference.high is not None and not difference.is_none:
        ends = f" ({signed(difference.low)} to {signed(difference.high)})"
    return f"{number(value)} against {number(opponents)}, {signed(difference.value)}{ends}"


def summary(name: str, version: str, champion: str | None, verdict: str, gates: Sequence[Gate]) -> str:
    """The beginning of a review in Markdown: the verdict and the gates."""
    title = _title(name, version, opponent=f"champion {champion}" if champion else "the baseline")
    beginning = {"title": title, "verdict": verdict, "gates": gates, "marks": MARKS}
    return render_markdown(VERDICT, **beginning, ways=(), registered="")


def _title(name: str, version: str, opponent: str) -> str:
    return f"{name}: challenger {version} against {opponent}"


def write_page(folder: Path, comparison: Comparison, gates: Sequence[Gate], ways: Sequence[str] = ()) -> None:
    """Write `review.html` into an existing folder. `ways` holds the ways to decide, one line of Markdown each."""
    challenger = comparison.challenger
    versions = {"challenger": challenger}
    if comparison.champion:
        versions[CHAMPION] = comparison.champion
    origins = {who: origin(version) for who, version in versions.items()}
    explained = [name for name in comparison.explained if name in comparison.metrics]
    names = [*explained, *(name for name in comparison.metrics if name not in explained)]
    with TemporaryDirectory() as downloads:
        pictures, samples = _evidence(versions, Path(downloads))
        markdown = render_markdown(
            WHOLE,
            title=_title(challenger.name, challenger.version, comparison.opponent),
            verdict=verdict(comparison, gates),
            version=challenger.version,
            ways=ways,
            registered=_registered(challenger, origins["challenger"]),
            gates=gates,
            marks=MARKS,
            comparison=comparison,
            figures=names[:FIGURES],
            other_metrics=names[FIGURES:],
            paired_names=[name for name, metric in comparison.metrics.items() if _has_other_paired_value(metric)],
            lower_is_better=lower_is_better,
            slices=sorted(comparison.slices, key=_loss),
            shown_slices=SLICES,
            shown_rows=ROWS,
            origins=origins,
            **_changes(origins),
            pictures=sorted({address.partition("/")[2] for address in pictures}),
            addresses=pictures.keys(),
            samples=samples,
        )
        page = html_page(markdown, pictures, _state(gates))
    write_atomic(folder / "review.html", page)


def _state(gates: Sequence[Gate]) -> State:
    passed = {gate.passed for gate in gates}
    if False in passed:
        return "bad"
    return "open" if None in passed else "good"


def _registered(version: ModelVersion, made_from: Origin) -> str:
    """When a version was registered, by whom, and from which commit."""
    at = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    user = made_from.run.data.tags.get(MLFLOW_USER) if made_from.run else None
    by = f" by {user}" if user else ""
    return f"{at:%Y-%m-%d %H:%M} UTC{by}, from commit {made_from.commit[:10]}"


def _has_other_paired_value(metric: Metric) -> bool:
    """Whether the challenger's value on the rows of both versions reads differently from its own."""
    return metric.paired is not None and number(metric.paired) != number(metric.value)


def _loss(part: Slice) -> float:
    """The score that all rows of a slice lost to the champion's, below zero; without a champion, its score."""
    return part.difference.value * part.rows if part.difference else part.challenger


def _changes(origins: Mapping[str, Origin]) -> dict[str, Any]:
    """What changed since the champion, as the template's values."""
    if CHAMPION not in origins:
        return {"code": "", "commits": [], "parameters": [], "data": []}
    before = origins[CHAMPION]
    after = origins["challenger"]
    commits, sentence = changed_code(before.commit, after.commit)
    return {
        "code": sentence,
        "commits": commits,
        "parameters": sorted(changed(before.parameters, after.parameters)),
        "data": changed(before.data, after.data),
    }


def _evidence(versions: Mapping[str, ModelVersion], folder: Path) -> tuple[dict[str, Path], dict[str, Markup]]:
    """Of the evaluations' evidence the pictures by address, such as `champion/roc.svg`, and samples by version."""
    pictures: dict[str, Path] = {}
    samples: dict[str, Markup] = {}
    for who, version in versions.items():
        if version.run_id and MlflowClient().list_artifacts(version.run_id, EVIDENCE):
            options = {"run_id": version.run_id, "artifact_path": EVIDENCE, "dst_path": str(folder / who)}
            files = Path(mlflow.artifacts.download_artifacts(**options))
            pictures |= {f"{who}/{path.name}": path for path in files.glob("*.svg")}
            if (files / "samples.md").exists():
                shown = first_entries(read_text(files / "samples.md"), SAMPLES)
                samples[who] = entries_markdown(shown)
    return pictures, samples
