"""The review of a model's challenger: compare it, check its gates, and leave its page and the state `pending`.

Once for each pair of challenger and champion, and again when the gates in params.yaml change.
"""

import json
import re
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llm.errors import UserError
from tasks.params import load_block
from tasks.registry.decide import compared, model_state, settle
from tasks.registry.events import announce, version_page
from tasks.registry.markup import plain
from tasks.registry.outcomes import WHY_LENGTH
from tasks.registry.server import is_server, server_errors, tracking_uri, without_secret
from tasks.registry.versions import APPROVED, BY, CHAMPION, REJECTED, STATE, WHY, registered_name
from tasks.review.compare import compare
from tasks.review.comparison import Comparison
from tasks.review.gates import Gate, check
from tasks.review.page import MARKS, summary, verdict, write_page
from tasks.stages.lock import exclusive

FOLDER = "review"
"""Among the artifacts of the version's run."""
HTML = f"{FOLDER}/review.html"
FINDINGS = f"{FOLDER}/gates.json"
LABEL = "Review against"  # begins the first line of a description that links to a page


@dataclass(frozen=True)
class Reviewed:
    """A challenger that was compared and waits for a decision."""

    model: str
    version: str
    champion: str | None
    gates: tuple[Gate, ...]
    verdict: str
    """A sentence or two of Markdown."""
    address: str = ""
    """The address of the page as HTML: a file, or a URL of the tracking server."""
    new: bool = field(default=False, compare=False)
    """Whether this review compared it, and not an earlier one."""

    @property
    def failed(self) -> list[str]:
        """The gates that it does not pass."""
        return [gate.name for gate in self.gates if gate.passed is False]

    @property
    def unknown(self) -> list[str]:
        """The gates that could not be computed: a person decides."""
        return [gate.name for gate in self.gates if gate.passed is None]

    @property
    def passed(self) -> bool:
        """Whether it passes every gate."""
        return all(gate.passed for gate in self.gates)

    @property
    def is_clear(self) -> bool:
        """Whether the gates alone can decide: one failed, or all passed."""
        return self.passed or bool(self.failed)

    @property
    def page(self) -> str:
        """Verdict and gates in Markdown."""
        name = registered_name(self.model)
        return summary(name, self.version, champion=self.champion, verdict=self.verdict, gates=self.gates)

    @property
    def reason(self) -> str:
        """The reason for the gates' own decision, as plain text."""
        words = {False: "failed", None: "could not be computed"}
        open_gates = (gate for gate in self.gates if gate.passed is not True)
        reasons = "; ".join(f"{gate.name}: {words[gate.passed]} ({gate.finding})" for gate in open_gates)
        return (reasons or text(self.verdict))[:WHY_LENGTH]

    @property
    def ways(self) -> list[str]:
        """The ways in which a person can decide, one line of Markdown each."""
        line, which, now = "threestage review", f"{self.model}/{self.version}", model_state(self.model)
        despite = now.despite(now.champion) if now.champion else ()
        return [
            *([f"Champion {now.champion} was approved despite {', '.join(despite)}."] if despite else []),
            f"To make it champion, run `{line} approve {which}{' --despite-gates' if self.failed else ''} --reason "
            f"TEXT`. To turn it down, run `{line} reject {which} --reason TEXT`.",
            f"Or decide in MLflow, at {version_page(registered_name(self.model), self.version)}: set the tag `{STATE}` "
            f"to `{APPROVED}` or `{REJECTED}`, `{BY}` to your name and `{WHY}` to the reason, or move the alias "
            f"`{CHAMPION}` to it. The next review records that.",
            f"Or run the deployment `decide` in Prefect: its form asks for the model, `{self.model}`, the version, "
            f"`{self.version}`, your decision, your name and the reason.",
        ]

    def announce(self) -> None:
        """Emit an event for notifications: the challenger waits."""
        announce(self.model, self.version, verdict=text(self.verdict))


def text(markdown: str) -> str:
    """A line of Markdown for a terminal."""
    return re.sub(r"\\([^\w\s])", r"\1", re.sub(r"(?<!\\)(\*\*|`)", "", markdown))


def review_challenger(model: str) -> Reviewed | str:
    """Review a model's challenger against its champion, or its baseline.

    Returns the review, or why there is nothing to decide. If two reviews run at once, the second waits and returns the
    first one's. Raises UserError if the challenger can't be compared, and if the champion moved meanwhile.
    """
    with exclusive(f"{FOLDER}/{model}"):
        now = model_state(model)
        version, champion = now.challenger, f"version {now.champion} is champion" if now.champion else "no champion"
        if not now.state_of:
            return "no version yet: `make run` makes one"
        if version is None or version == now.champion:
            return f"no challenger; {champion}"
        before = now.last(version)
        try:
            with server_errors():
                same = before is not None and (before.event, before.champion) == ("compared", now.champion)
                return _review(model, version, now.champion, again=not same)
        except (UserError, MlflowException):
            settle(model)
            now = model_state(model)
            if version not in now.state_of:
                return f"version {version} was deleted meanwhile: its review ends"
            ended = now.last(version)
            if ended is None or ended == before or ended.event == "compared":
                raise
            return f"{ended} (while it was compared)"


def _review(model: str, number: str, champion: str | None, *, again: bool) -> Reviewed:
    """The earlier review of the same pair with the same gates, or a new one."""
    bounds = load_block(model).review
    pair = {"challenger": number, "champion": champion, "params": bounds.model_dump(mode="json")}
    version = MlflowClient().get_model_version(registered_name(model), number)
    earlier = None if again else _earlier(version, pair)
    if earlier:
        return Reviewed(
            model=model,
            version=number,
            champion=champion,
            gates=tuple(Gate(**gate) for gate in earlier["gates"]),
            verdict=earlier["verdict"],
            address=_address(version),
        )
    comparison = compare(model, number, champion)
    gates = tuple(check(comparison, bounds))
    reviewed = Reviewed(
        model=model,
        version=number,
        champion=champion,
        gates=gates,
        verdict=verdict(comparison, gates),
        address=_address(version),
        new=True,
    )
    _publish(reviewed, comparison, pair)
    compared(model, number, champion, failed=reviewed.failed, unknown=reviewed.unknown)
    return reviewed


def _earlier(version: ModelVersion, pair: dict[str, Any]) -> dict[str, Any] | None:
    files = {file.path for file in MlflowClient().list_artifacts(run_id_of(version), FOLDER)}
    if not files >= {HTML, FINDINGS}:
        return None
    findings = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{FINDINGS}")
    return findings if {name: findings.get(name) for name in pair} == pair else None


def _publish(reviewed: Reviewed, comparison: Comparison, pair: dict[str, Any]) -> None:
    """Write the page to the artifacts of the version's run, and its verdict to the description's first line."""
    client, version = MlflowClient(), comparison.challenger
    with tempfile.TemporaryDirectory() as folder:
        write_page(Path(folder), comparison, gates=reviewed.gates, ways=reviewed.ways)
        findings = {**pair, "verdict": reviewed.verdict, "gates": [asdict(gate) for gate in reviewed.gates]}
        Path(folder, Path(FINDINGS).name).write_text(json.dumps(findings, indent=2) + "\n")
        client.log_artifacts(run_id_of(version), folder, FOLDER)
    version = client.get_model_version(version.name, version.version)  # a person may have edited it meanwhile
    description = version.description or ""
    if description.startswith(f"[{LABEL}"):  # an earlier review's line
        description = description.partition("\n")[2].lstrip("\n")
    gates = "; ".join(f"{plain(gate.name)} {MARKS[gate.passed]}" for gate in reviewed.gates)
    baseline = f" The baseline is {comparison.baseline}." if comparison.baseline else ""
    head = f"[{LABEL} {comparison.opponent}]({_link(version)}): {reviewed.verdict} Gates: {gates}.{baseline}"
    client.update_model_version(version.name, version.version, f"{head}\n\n{description}".rstrip() + "\n")


def run_id_of(version: ModelVersion) -> str:
    """The run of a version. Raises UserError for one that was made by hand and has none."""
    if version.run_id is None:
        raise UserError(f"version {version.version} of {version.name} has no run: register it again")
    return version.run_id


def _link(version: ModelVersion) -> str:
    """The review's address within MLflow's pages, which begins with `#`."""
    experiment = MlflowClient().get_run(run_id_of(version)).info.experiment_id
    return f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/{HTML}"


def _address(version: ModelVersion) -> str:
    if is_server(uri := tracking_uri()):
        return f"{without_secret(uri, uri).rstrip('/')}/{_link(version)}"
    return f"{MlflowClient().get_run(run_id_of(version)).info.artifact_uri.removeprefix('file://')}/{HTML}"
