"""The comparison as one page, in Markdown and as one HTML file: all that a person needs to decide, the verdict first.

Mails, questions and answers are other people's text: nothing of them is markup.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_USER

from llm.files import read_text, write_atomic
from tasks.evaluation.statistics import picture
from tasks.registry.facts import not_in_git
from tasks.registry.git import git_text
from tasks.registry.markup import as_html, first_entries, plain, table, tame
from tasks.review.changes import COMMIT, Change, Changes, changes, hashes, splits
from tasks.review.comparison import Comparison
from tasks.review.examples import ARROWS, errors, flips, number, signed, slices
from tasks.review.gates import Gate
from tasks.review.metrics import BASE, CHAMPION, SPEED, Metric, lower_is_better
from tasks.stages.hashes import PREFIX

COMMITS, FILES, SAMPLES = 20, 40, 8
HASH, SHORT = re.compile(r"[0-9a-f]{32,}(\.dir)?"), 10
MACHINE = f"{PREFIX}.machine.cpu"
MARKS = {True: "✓ passed", False: "✗ **failed**", None: "? **not known**"}
EVIDENCE, LOSS, DIFFERENCES = "evaluation/evidence", "training/loss.svg", "differences.svg"


def _who(comparison: Comparison) -> str:
    return f"champion {comparison.champion.version}" if comparison.champion else "the baseline"


def verdict(comparison: Comparison, gates: Sequence[Gate]) -> str:
    """In a sentence or two whether it may be champion, and how it stands by its main metric."""
    open_ = [gate for gate in gates if gate.passed is not True]
    version = f"Version {comparison.challenger.version}"
    if open_:
        reasons = "; ".join(f"{gate.name} ({gate.said})" for gate in open_)
        failed = sum(gate.passed is False for gate in open_)
        counts = [(failed, "failed"), (len(open_) - failed, "could not be computed")]
        said = " and ".join(f"{count} {what}" for count, what in counts if count)
        first = f"**{version} does not hold: of {len(gates)} gates {said}.** Not passed: {plain(reasons, 900)}."
    else:
        first = f"**{version} passes all {len(gates)} gates.**"
    return f"{first} {_by_main_metric(comparison)} {comparison.left_out}".strip()


def _by_main_metric(comparison: Comparison) -> str:
    metric, against, who = comparison.metrics.get(comparison.main), comparison.against, _who(comparison)
    start = "" if comparison.champion else "There is no champion yet. "
    found = metric and metric.difference(against)
    if metric is None or found is None:
        reason = comparison.incomparable or "nobody measured it"
        return f"{start}How it stands against {who} is not known: {plain(reason)}."
    other = metric.champion if comparison.champion else metric.baseline
    judgement = metric.verdict(against)
    said = {
        "no difference": f"no difference from {who} can be seen",
        "not known": f"nobody knows how sure its difference from {who} is",
    }.get(judgement, f"it is **{judgement}** than {who}")
    mine = metric.challenger if comparison.champion or metric.as_evaluated else metric.evaluated
    values = f"{number(mine)} against {number(other)}, {signed(found)}"
    return f"{start}By {plain(metric.name)} {said}: {values}.{_flipped(comparison)}"


def _flipped(comparison: Comparison) -> str:
    if not comparison.champion or not comparison.rows or comparison.incomparable:
        return ""
    lost, won = len(comparison.lost), len(comparison.won)
    return f" Of {comparison.rows} {comparison.unit} it lost {lost} and won {won}."


def _gates(gates: Sequence[Gate]) -> list[str]:
    lines = ["| gate | | found |", "|---|---|---|"]
    return ["## Gates", "", *lines, *(f"| {plain(g.name)} | {MARKS[g.passed]} | {plain(g.said, 600)} |" for g in gates)]


def _metric_line(metric: Metric, comparison: Comparison) -> str:
    interval = "" if metric.low is None or metric.high is None else f"{metric.low:.4f} to {metric.high:.4f}"
    cells = [plain(metric.name) + (" (less is better)" if lower_is_better(metric.name) else "")]
    cells += [number(metric.challenger), interval]
    if comparison.champion:
        cells += [number(metric.champion), signed(metric.to_champion), ARROWS[metric.verdict(CHAMPION)]]
    cells += [number(metric.baseline), signed(metric.to_baseline), ARROWS[metric.verdict(BASE)]]
    return f"| {' | '.join([*cells, number(metric.evaluated)])} |"


def _metrics(comparison: Comparison) -> list[str]:
    if not comparison.metrics:
        return []
    champion = ["champion", "challenger less champion (95 %)", ""] if comparison.champion else []
    columns = ["metric", "challenger", "95 % interval", *champion]
    columns += ["baseline", "challenger less baseline (95 %)", "", "after training"]
    right = {"challenger", "champion", "baseline", "after training"}
    sides = "|".join("---:" if name in right else "---" for name in columns)
    asked = (
        f"Both answered the same {comparison.rows} {comparison.unit} now, each in a process of its own"
        if comparison.champion and not comparison.incomparable
        else f"It answered {comparison.rows} {comparison.unit} now, in a process of its own"
    )
    said = (
        f"{asked} with the code that it ships: `{comparison.asked}`. Differences are paired by row, their intervals by "
        "bootstrap: one arrow in 20 is chance. The baseline did not answer again; its values, how far intervals "
        "against it reach, and the last column are from the evaluation after training."
        if comparison.rows
        else "From the versions' own evaluations: nothing was answered now."
    )
    said += f" {comparison.left_out}" if comparison.left_out else ""
    for who, count in comparison.learned.items():
        if count is None:
            said += f" **Which of these {comparison.unit} the {who} learned is not known: it may be some of them.**"
    told = [f"- {who}: {plain(each)}" for who, each in comparison.told.items()]
    lines = [_metric_line(metric, comparison) for metric in comparison.metrics.values()]
    explained = {"baseline": comparison.baseline} | {
        name: each for name, each in comparison.explained.items() if name in comparison.metrics
    }
    words = [f"- {plain(name)}: {plain(each)}" for name, each in explained.items() if each]
    parts = [[said], told, [f"| {' | '.join(columns)} |", f"|{sides}|", *lines], words]
    return ["## Metrics", *(line for part in parts if part for line in ("", *part))]


def _short(text: str) -> str:
    """With hashes as short as git shows them."""
    return HASH.sub(lambda found: found[0][:SHORT], text)


def _draw(comparison: Comparison, path: Path) -> bool:
    """The differences with their intervals as a picture, better to the right; whether there are any."""
    found = [
        (metric.name, each, -1 if lower_is_better(metric.name) else 1)
        for metric in comparison.metrics.values()
        if metric.name != SPEED and (each := metric.difference(comparison.against)) and each.low is not None
    ]
    if not found:
        return False
    with picture(path, f"better than {_who(comparison)}, with 95 % interval", "") as axes:
        for place, (_, each, sign) in enumerate(reversed(found)):
            ends = sorted((sign * each.low, sign * each.high))
            colour = "tab:red" if ends[1] < 0 else "tab:green" if ends[0] > 0 else "tab:grey"
            axes.plot(ends, [place, place], color=colour)
            axes.plot([sign * each.value], [place], color=colour, marker="o")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(yticks=range(len(found)), yticklabels=[name for name, *_ in reversed(found)], ylim=(-1, len(found)))
    return True


def _change_table(rows: Sequence[Change]) -> list[str]:
    return table(("what", "champion", "challenger"), rows)


def _code(found: Changes) -> Iterator[str]:
    if found.code_unknown:
        yield f"Commits are not known: {plain(found.code_unknown)}."
    elif not found.commits and not found.files:
        yield "Code: the same commit, or no commit between the two."
    else:
        yield f"Commits: {len(found.commits)}, files of code: {len(found.files)}; `{found.diff}` shows the lines."
        if found.commits:
            yield ""
            yield from (f"- {plain(line)}" for line in found.commits[:COMMITS])
        if len(found.commits) > COMMITS:
            yield f"- and {len(found.commits) - COMMITS} before them"
        if found.files:
            more = f", and {len(found.files) - FILES} more" if len(found.files) > FILES else ""
            yield from ("", f"Files: {', '.join(plain(line) for line in found.files[:FILES])}{more}.")


def _changed(comparison: Comparison) -> list[str]:
    lines = []
    uncommitted = not_in_git(comparison.challenger.tags)
    if uncommitted:
        lines += [f"**The challenger: {plain(uncommitted, 2000)}.**"]
    if comparison.champion is None:
        return ["## What it is made from", "", *lines, *_made_from(comparison.challenger)]
    found = changes(comparison.challenger, comparison.champion)
    if theirs := not_in_git(comparison.champion.tags):
        lines += ["", f"The champion: {plain(theirs, 2000)}."]
    lines += ["", "### Code", "", *_code(found), "", "### Parameters", ""]
    if found.parameters_unknown:
        lines += [f"Not known: {found.parameters_unknown}."]
    else:
        lines += _change_table(found.parameters) if found.parameters else ["All are the same."]
    shown = [(name, _short(before), _short(after)) for name, before, after in found.data if before != after]
    same = [f"`{name}`" for name, before, after in found.data if before == after]
    lines += ["", "### Data and models", "", "By DVC's hashes.", ""]
    lines += _change_table(shown) if shown else ["Nothing differs." if same else "No hash is known of either."]
    if same:
        lines += ["", f"The same: {', '.join(same)}."]
    return ["## What changed since the champion", "", *lines]


def _made_from(version: ModelVersion) -> list[str]:
    data = {f"split: {name}": _short(" ".join(each)) for name, each in splits(version).items()}
    rows = [*data.items(), *((name, _short(md5)) for name, md5 in hashes(version).items())]
    commit = version.tags.get(COMMIT, "none")
    return ["", f"Git commit `{plain(commit)}`.", *(["", *table(("what", "hash"), rows)] if rows else [])]


def _fetched(version: ModelVersion, folder: Path) -> dict[str, Path]:
    """Pictures and samples among the artifacts of a version, by their paths there."""
    client, found = MlflowClient(), {}
    listed = [*client.list_artifacts(version.run_id, EVIDENCE), *client.list_artifacts(version.run_id, "training")]
    for file in listed:
        if file.path == LOSS or (file.path.startswith(EVIDENCE) and file.path.endswith((".svg", "/samples.md"))):
            found[file.path] = Path(
                mlflow.artifacts.download_artifacts(
                    run_id=version.run_id, artifact_path=file.path, dst_path=str(folder / str(version.version))
                )
            )
    return found


def _pictures(files: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """Each picture of the challenger beside the champion's."""
    lines = []
    for path in sorted({path for found in files.values() for path in found if path.endswith(".svg")}):
        title = plain(Path(path).stem.replace("_", " "))
        shown = [who for who, found in files.items() if path in found]
        lines += ["", f"### {title}: {' | '.join(shown)}", ""]
        lines += [" ".join(f"![{title} of the {who}]({who}/{path})" for who in shown)]
    return ["## Pictures", *lines] if lines else []


def _samples(files: Mapping[str, Mapping[str, Path]]) -> list[str]:
    lines = []
    for who, found in files.items():
        if path := found.get(f"{EVIDENCE}/samples.md"):
            lines += ["", f"### Of the {who}", "", tame(first_entries(read_text(path), SAMPLES)[0])]
    return ["## Samples", *lines] if lines else []


def _origin(version: ModelVersion) -> str:
    """When, by whom, where and from which commit a version was registered, as far as that is known."""
    run = MlflowClient().get_run(version.run_id) if version.run_id else None
    user = run.data.tags.get(MLFLOW_USER) if run else None
    machine, commit = version.tags.get(MACHINE), version.tags.get(COMMIT, "")
    subject = git_text("log", "-1", "--format=%s", commit, "--") if HASH.fullmatch(commit) else None
    parts = [
        f"Registered {datetime.fromtimestamp(version.creation_timestamp / 1000, UTC):%Y-%m-%d %H:%M} UTC",
        f" by {plain(user)}" if user else "",
        f" on {plain(machine)}" if machine else "",
        f", from commit `{commit[:SHORT]}`" if HASH.fullmatch(commit) else "",
        f": {plain(subject)}" if subject else "",
    ]
    return f"{''.join(parts)}."


def _head(comparison: Comparison, gates: Sequence[Gate], how: Sequence[str]) -> list[str]:
    against = f"champion {comparison.champion.version}" if comparison.champion else "the baseline"
    title = f"# {plain(comparison.name)}: challenger {comparison.challenger.version} against {against}"
    wait = (
        "Or wait: it stays pending, and what people use stays as it is. An approval is undone by "
        f"`python -m flows.review rollback {plain(comparison.model)}`."
    )
    decide = ["", "## To decide", "", *(f"- {line}" for line in (*how, wait))] if how else []
    return [title, "", verdict(comparison, gates), "", _origin(comparison.challenger), *decide]


def write_page(folder: Path, comparison: Comparison, gates: Sequence[Gate], how: Sequence[str] = ()) -> str:
    """Write `review.md`, `review.html` and the picture `differences.svg` into a folder that is there; the Markdown.

    `how` are the ways in which a person can decide, a line of Markdown each. In review.html pictures are within;
    review.md names those of the versions' runs as `challenger/evaluation/evidence/…`.
    """
    versions = {"challenger": comparison.challenger}
    if comparison.champion:
        versions[CHAMPION] = comparison.champion
    with tempfile.TemporaryDirectory() as place:
        drawn = _draw(comparison, Path(place, DIFFERENCES))
        files = {who: _fetched(version, Path(place)) for who, version in versions.items() if version.run_id}
        parts = [
            _head(comparison, gates, how),
            _gates(gates),
            [*_metrics(comparison), *(["", f"![differences]({DIFFERENCES})"] if drawn else [])],
            _changed(comparison),
            flips(comparison),
            slices(comparison),
            errors(comparison),
            _pictures(files),
            _samples(files),
        ]
        markdown = "\n\n".join("\n".join(part).strip() for part in parts if part) + "\n"
        pictures = {f"{who}/{path}": file for who, found in files.items() for path, file in found.items()}
        if drawn:
            pictures[DIFFERENCES] = Path(shutil.copy(Path(place, DIFFERENCES), folder))
        write_atomic(folder / "review.md", markdown)
        write_atomic(folder / "review.html", as_html(markdown, pictures, "review"))
    return markdown
