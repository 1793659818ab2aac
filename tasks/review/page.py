"""The comparison as an HTML page, the verdict first and then its evidence; and its verdict and gates as Markdown."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_USER

from llm.files import read_text, write_atomic
from tasks.registry.main_figures import lower_is_better
from tasks.registry.markup import as_source, first_entries, number, plain, render, signed
from tasks.review.changes import changed, changed_code, origin
from tasks.review.comparison import EVIDENCE, Comparison
from tasks.review.gates import Gate
from tasks.review.metrics import CHAMPION

TEMPLATE = Path(__file__).with_name("review.html.j2")
FIGURES, ROWS, SLICES, SAMPLES = 5, 8, 12, 8
MARKS = {True: "✓ passed", False: "✗ failed", None: "? not known"}


def verdict(comparison: Comparison, gates: Sequence[Gate]) -> str:
    """The verdict in Markdown: whether the challenger passes its gates, and how it compares by its main metric."""
    version = f"Version {comparison.challenger.version}"
    failed, unknown = ([gate for gate in gates if gate.passed is passed] for passed in (False, None))
    if failed or unknown:
        kinds = (("failed", failed), ("could not be computed", unknown))
        counts = " and ".join(f"{len(each)} {what}" for what, each in kinds if each)
        reasons = "; ".join(f"{gate.name} ({gate.finding})" for gate in (*failed, *unknown))
        first = f"**{version} does not pass: of {len(gates)} gates {counts}.** Not passed: {plain(reasons, 900)}."
    else:
        first = f"**{version} passes all {len(gates)} gates.**"
    return f"{first} {_by_main_metric(comparison)} {comparison.left_out}".rstrip()


def _by_main_metric(comparison: Comparison) -> str:
    metric, against, opponent = comparison.metrics.get(comparison.main), comparison.against, comparison.opponent
    start = "" if comparison.champion else "There is no champion. "
    if not (difference := metric and metric.difference(against)):
        reason = comparison.incomparable or "no evaluation measured it"
        return f"{start}How it compares with {opponent} is not known: {plain(reason)}."
    clause = {
        "no clear difference": f"it does not clearly differ from {opponent}",
        "not known": f"its difference from {opponent} has no interval",
    }.get(difference.verdict, f"it is **{difference.verdict}** than {opponent}")
    mine = metric.paired if comparison.champion and metric.paired is not None else metric.value
    other = metric.champion if comparison.champion else metric.baseline
    has_ends = difference.low is not None and not difference.is_none
    ends = f" ({signed(difference.low)} to {signed(difference.high)})" if has_ends else ""
    values = f"{number(mine)} against {number(other)}, {signed(difference.value)}{ends}"
    counts = f" Of {comparison.rows} {comparison.unit} it lost {len(comparison.lost)} and won {len(comparison.won)}."
    return f"{start}By {plain(metric.name)} {clause}: {values}.{counts if comparison.answered else ''}"


def title(name: str, version: str, opponent: str) -> str:
    """The heading of a review."""
    return f"{name}: challenger {version} against {opponent}"


def summary(name: str, version: str, champion: str | None, verdict: str, gates: Sequence[Gate]) -> str:
    """The verdict and the gates in Markdown."""
    lines = [f"| {plain(gate.name)} | {MARKS[gate.passed]} | {plain(gate.finding, 600)} |" for gate in gates]
    head = f"# {title(plain(name), version, f'champion {champion}' if champion else 'the baseline')}"
    return "\n".join([head, "", verdict, "", "## Gates", "", "| gate | | finding |", "|---|---|---|", *lines, ""])


def write_page(folder: Path, comparison: Comparison, gates: Sequence[Gate], how: Sequence[str] = ()) -> None:
    """Write `review.html` into an existing folder. `how` holds the ways to decide, one line of Markdown each."""
    compared = comparison.answered
    versions = {"challenger": comparison.challenger} | ({CHAMPION: comparison.champion} if comparison.champion else {})
    origins = {who: origin(version) for who, version in versions.items()}
    before, after = origins.get(CHAMPION), origins["challenger"]
    order = {name: place for place, name in enumerate(comparison.explained)}
    names = sorted(comparison.metrics, key=lambda name: order.get(name, len(order)))
    slices = sorted(
        comparison.slices, key=lambda each: each.difference.value * each.rows if compared else each.challenger
    )
    passed = {gate.passed for gate in gates}
    with TemporaryDirectory() as downloads:
        files = {who: _files(version, Path(downloads, who)) for who, version in versions.items()}
        pictures = sorted({name for each in files.values() for name in each if name.endswith(".svg")})
        page = render(
            TEMPLATE,
            title=title(comparison.challenger.name, comparison.challenger.version, comparison.opponent),
            comparison=comparison,
            compared=compared,
            gates=gates,
            marks=MARKS,
            state="bad" if False in passed else "open" if None in passed else "good",
            verdict=verdict(comparison, gates),
            registered=datetime.fromtimestamp(comparison.challenger.creation_timestamp / 1000, UTC),
            user=after.run.data.tags.get(MLFLOW_USER) if after.run else None,
            how=how,
            figures=names[:FIGURES],
            other_metrics=names[FIGURES:],
            lower_better=lower_is_better,
            slices=slices,
            shown_slices=SLICES,
            shown_rows=ROWS,
            origins=origins,
            code=changed_code(before.commit, after.commit) if before else None,
            parameters=sorted(changed(before.parameters, after.parameters)) if before else [],
            data=changed(before.data, after.data) if before else [],
            pictures={
                Path(name).stem.replace("_", " "): {
                    who: as_source(each[name]) for who, each in files.items() if name in each
                }
                for name in pictures
            },
            samples={
                who: first_entries(read_text(each["samples.md"]), SAMPLES)[0]
                for who, each in files.items()
                if "samples.md" in each
            },
        )
    write_atomic(folder / "review.html", page)


def _files(version: ModelVersion, folder: Path) -> dict[str, Path]:
    """The evidence of the evaluation, by name."""
    if not version.run_id or not MlflowClient().list_artifacts(version.run_id, EVIDENCE):
        return {}
    place = {"run_id": version.run_id, "artifact_path": EVIDENCE, "dst_path": str(folder)}
    return {file.name: file for file in Path(mlflow.artifacts.download_artifacts(**place)).iterdir()}
