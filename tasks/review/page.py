"""The comparison as one HTML page, the verdict first and then its evidence; and its verdict and gates as Markdown."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_USER

from llm.files import read_text, write_atomic
from tasks.registry.figures import lower_is_better
from tasks.registry.git import git_text
from tasks.registry.markup import as_source, first_entries, number, plain, render, signed
from tasks.review.changes import HASH, changes, commit, made_from, parameters, uncommitted
from tasks.review.comparison import EVIDENCE, Comparison
from tasks.review.gates import Gate
from tasks.review.metrics import CHAMPION, judged

TEMPLATE = Path(__file__).with_name("review.html.j2")
FIGURES, ROWS, SLICES, SAMPLES = 5, 8, 12, 8
MARKS = {True: "✓ passed", False: "✗ failed", None: "? not known"}


def verdict(comparison: Comparison, gates: Sequence[Gate]) -> str:
    """Whether the challenger passes its gates and how it compares by its main metric, in sentences of Markdown."""
    version = f"Version {comparison.challenger.version}"
    kinds = {"failed": False, "could not be computed": None}
    found = {what: [gate for gate in gates if gate.passed is passed] for what, passed in kinds.items()}
    if any(found.values()):
        counts = " and ".join(f"{len(each)} {what}" for what, each in found.items() if each)
        reasons = "; ".join(f"{gate.name} ({gate.said})" for each in found.values() for gate in each)
        first = f"**{version} does not pass: of {len(gates)} gates {counts}.** Not passed: {plain(reasons, 900)}."
    else:
        first = f"**{version} passes all {len(gates)} gates.**"
    return f"{first} {_by_main_metric(comparison)} {comparison.left_out}".rstrip()


def _by_main_metric(comparison: Comparison) -> str:
    metric, against, opponent = comparison.metrics.get(comparison.main), comparison.against, comparison.opponent
    start = "" if comparison.champion else "There is no champion yet. "
    found = metric and metric.difference(against)
    if not found:
        reason = comparison.incomparable or "nobody measured it"
        return f"{start}How it compares with {opponent} is not known: {plain(reason)}."
    judgement = metric.verdict(against)
    said = {
        "no clear difference": f"it does not clearly differ from {opponent}",
        "not known": f"its difference from {opponent} has no interval",
    }.get(judgement, f"it is **{judgement}** than {opponent}")
    mine, other = (
        (metric.paired or metric.value, metric.champion) if comparison.champion else (metric.value, metric.baseline)
    )
    ends = "" if found.low is None or found.is_none else f" ({signed(found.low)} to {signed(found.high)})"
    values = f"{number(mine)} against {number(other)}, {signed(found.value)}{ends}"
    flipped = f" Of {comparison.rows} {comparison.unit} it lost {len(comparison.lost)} and won {len(comparison.won)}."
    return f"{start}By {plain(metric.name)} {said}: {values}.{flipped if _compared(comparison) else ''}"


def _compared(comparison: Comparison) -> bool:
    return bool(comparison.champion and comparison.rows and not comparison.incomparable)


def summary(name: str, version: str, champion: str | None, verdict: str, gates: Sequence[Gate]) -> str:
    """The verdict and the gates in Markdown."""
    lines = [f"| {plain(gate.name)} | {MARKS[gate.passed]} | {plain(gate.said, 600)} |" for gate in gates]
    title = f"# {plain(name)}: challenger {version} against {f'champion {champion}' if champion else 'the baseline'}"
    return "\n".join([title, "", verdict, "", "## Gates", "", "| gate | | found |", "|---|---|---|", *lines, ""])


def _origin(version: ModelVersion) -> str:
    """When, by whom and from which commit a version was registered, as far as that is known."""
    run = MlflowClient().get_run(version.run_id) if version.run_id else None
    user, made_at = run.data.tags.get(MLFLOW_USER) if run else None, commit(version)
    subject = git_text("log", "-1", "--format=%s", made_at, "--") if HASH.fullmatch(made_at) else None
    when = f"Registered {datetime.fromtimestamp(version.creation_timestamp / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    at = f", from commit {made_at[:10]}" if HASH.fullmatch(made_at) else ""
    return f"{when}{f' by {user}' if user else ''}{at}{f': {subject}' if subject else ''}."


def _files(version: ModelVersion, folder: Path) -> dict[str, Path]:
    """The evaluation's pictures and texts, by name."""
    client, found = MlflowClient(), {}
    if not version.run_id:
        return found
    for file in client.list_artifacts(version.run_id, EVIDENCE):
        if file.path.endswith((".svg", ".md")):
            to = folder / str(version.version)
            path = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=file.path, dst_path=str(to))
            found[Path(file.path).name] = Path(path)
    return found


def write_page(folder: Path, comparison: Comparison, gates: Sequence[Gate], how: Sequence[str] = ()) -> None:
    """Write `review.html` into a folder that is there. `how` says how a person can decide, a line of Markdown each."""
    champion, compared = comparison.champion, _compared(comparison)
    versions = {"challenger": comparison.challenger} | ({CHAMPION: champion} if champion else {})
    slices = sorted(
        comparison.slices,
        key=lambda each: each.difference.value * each.rows if compared else each.challenger,
    )
    same = [f"{each.by} {each.name}" for each in slices if compared and each.difference.value == 0]
    slices = [each for each in slices if not compared or each.difference.value != 0]
    names = [*(name for name in comparison.explained if name in comparison.metrics)]
    names += [name for name in comparison.metrics if name not in names]
    changed = {f"The {who}": uncommitted(version) for who, version in versions.items()}
    state = (
        "bad" if any(g.passed is False for g in gates) else "open" if any(g.passed is None for g in gates) else "good"
    )
    with TemporaryDirectory() as place:
        files = {who: _files(version, Path(place)) for who, version in versions.items()}
        pictures = sorted({name for found in files.values() for name in found if name.endswith(".svg")})
        texts = {
            name: {
                who: first_entries(read_text(found[name]), SAMPLES)[0] for who, found in files.items() if name in found
            }
            for name in ("samples.md", "errors.md")
        }
        page = render(
            TEMPLATE,
            title=f"{comparison.name}: challenger {comparison.challenger.version} against {comparison.opponent}",
            comparison=comparison,
            champion=champion,
            compared=compared,
            gates=gates,
            marks=MARKS,
            state=state,
            verdict=verdict(comparison, gates),
            origin=_origin(comparison.challenger),
            how=how,
            figures=names[:FIGURES],
            other_metrics=names[FIGURES:],
            lower_better=lower_is_better,
            slices=slices,
            shown_slices=SLICES,
            same=same,
            with_baseline=any(each.baseline is not None for each in slices),
            judge=lambda found: judged(found, less=False),
            shown_rows=ROWS,
            uncommitted=[f"{who}: {said}" for who, said in changed.items() if said],
            changes=changes(comparison.challenger, champion) if champion else None,
            commit=commit(comparison.challenger),
            parameters=parameters(comparison.challenger),
            made_from=made_from(comparison.challenger),
            pictures={
                Path(name).stem.replace("_", " "): {
                    who: as_source(found[name]) for who, found in files.items() if name in found
                }
                for name in pictures
            },
            samples=texts["samples.md"],
            errors=texts["errors.md"].get("challenger"),
        )
    write_atomic(folder / "review.html", page)
