"""A model's challenger is compared and held against its gates; its page goes to the registry, and it is pending.

Once for each pair of challenger and champion, and again where params.yaml asks something else.
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
from tasks.registry.decide import WHY_LENGTH, compared, model_state, settle
from tasks.registry.events import WAITS, emit, version_page
from tasks.registry.server import is_server, without_secret
from tasks.registry.tracking import server_errors, tracking_uri
from tasks.registry.versions import APPROVED, BY, CHAMPION, REJECTED, STATE, WHY, registered_name
from tasks.review.comparison import compare
from tasks.review.gates import Gate, check
from tasks.review.page import summary, verdict, write_page
from tasks.stages.lock import exclusive
from tasks.stages.params import load_application

FOLDER = "review"
"""Among the artifacts of the version's run."""
HTML, FINDINGS = (f"{FOLDER}/{name}" for name in ("review.html", "gates.json"))
LABEL = "Review against"  # how the first line of a description begins once there is a page


@dataclass(frozen=True)
class Reviewed:
    """A challenger that was compared and waits for a decision."""

    model: str
    version: str
    champion: str | None
    gates: tuple[Gate, ...]
    verdict: str
    """A sentence or two of Markdown."""
    page: str
    """Verdict and gates in Markdown."""
    address: str
    """Of the page as HTML: a file, or a URL of the tracking server."""
    new: bool = field(default=False, compare=False)
    """Whether this review compared it, and none before."""

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
        return not self.failed and not self.unknown

    @property
    def reason(self) -> str:
        """Why the gates alone would approve or reject it, as plain text."""
        words = {False: "failed", None: "could not be computed"}
        found = [f"{gate.name}: {words[gate.passed]} ({gate.said})" for gate in self.gates if gate.passed is not True]
        return ("; ".join(found) or text(self.verdict))[:WHY_LENGTH]

    def announce(self) -> None:
        """Tell whoever wants to hear of it that it waits."""
        emit(WAITS, registered_name(self.model), self.version, model=self.model, verdict=text(self.verdict))


def text(markdown: str) -> str:
    """A line of Markdown for a terminal."""
    return re.sub(r"\\([^\w\s])", r"\1", re.sub(r"(?<!\\)(\*\*|`)", "", markdown))


def ways(model: str, version: str, failed: bool) -> list[str]:
    """The ways in which a person can decide on a version, a line of Markdown each."""
    line, name = "python -m flows.review", registered_name(model)
    despite, now = " --despite-gates" if failed else "", model_state(model)
    before = now.despite(now.champion) if now.champion else ()
    return [
        *([f"Champion {now.champion} was approved despite {', '.join(before)}."] if before else []),
        f"On the command line: `{line} approve {model}/{version}{despite} --reason TEXT`, or `reject`.",
        f"In MLflow, {version_page(name, version)}: set the tag `{STATE}` to `{APPROVED}` or `{REJECTED}`, `{BY}` to "
        f"your name and `{WHY}` to the reason, or move the alias `{CHAMPION}` to it; the next review records it.",
    ]


def _link(version: ModelVersion) -> str:
    """The page in MLflow's own pages, where an address begins with `#`."""
    experiment = MlflowClient().get_run(version.run_id).info.experiment_id
    return f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/{HTML}"


def _address(version: ModelVersion) -> str:
    if is_server(uri := tracking_uri()):
        return f"{without_secret(uri, uri).rstrip('/')}/{_link(version)}"
    return f"{MlflowClient().get_run(version.run_id).info.artifact_uri.removeprefix('file://')}/{HTML}"


def _asked(model: str) -> dict[str, Any]:
    return json.loads(load_application(model).review.model_dump_json())


def _found(version: ModelVersion, pair: dict[str, Any]) -> tuple[str, tuple[Gate, ...]] | None:
    """What an earlier review of the same pair found, with the same gates: the verdict and the gates."""
    there = {file.path for file in MlflowClient().list_artifacts(version.run_id, FOLDER)}
    if not there >= {HTML, FINDINGS}:
        return None
    before = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{FINDINGS}")
    if {name: before.get(name) for name in pair} != pair:
        return None
    return before["verdict"], tuple(Gate(**gate) for gate in before["gates"])


def _compare(model: str, version: ModelVersion, pair: dict[str, Any]) -> tuple[str, tuple[Gate, ...]]:
    """Compare, write the page to the artifacts of the version's run, and link it in the description's first line."""
    client, number, champion = MlflowClient(), pair["challenger"], pair["champion"]
    comparison = compare(model, number, champion)
    gates = tuple(check(comparison, load_application(model).review))
    judged = verdict(comparison, gates)
    with tempfile.TemporaryDirectory() as folder:
        write_page(Path(folder), comparison, gates, ways(model, number, any(gate.passed is False for gate in gates)))
        findings = {**pair, "verdict": judged, "gates": [asdict(gate) for gate in gates]}
        Path(folder, Path(FINDINGS).name).write_text(json.dumps(findings, indent=2) + "\n")
        client.log_artifacts(version.run_id, folder, FOLDER)
    now = client.get_model_version(version.name, number)  # a person may have written there meanwhile
    first, _, rest = (now.description or "").partition("\n")
    kept = rest.lstrip("\n") if first.startswith(f"[{LABEL}") else now.description or ""
    against = f"champion {champion}" if champion else "the baseline"
    head = f"[{LABEL} {against}]({_link(version)}): {judged}"
    client.update_model_version(version.name, number, f"{head}\n\n{kept}".rstrip() + "\n")
    failed, unknown = ([gate.name for gate in gates if gate.passed is passed] for passed in (False, None))
    compared(model, number, champion, failed, unknown)
    return judged, gates


def _review(model: str, version: str, champion: str | None, again: bool) -> Reviewed:
    pair = {"challenger": version, "champion": champion, "asked": _asked(model)}
    there = MlflowClient().get_model_version(registered_name(model), version)
    before = None if again else _found(there, pair)
    judged, gates = before or _compare(model, there, pair)
    page = summary(there.name, version, champion, judged, gates)
    return Reviewed(model, version, champion, gates, judged, page, _address(there), new=before is None)


def review_challenger(model: str) -> Reviewed | str:
    """Review a model's challenger against its champion, or its baseline; or why there is nothing to decide.

    Of two at once the second waits, and then finds what the first did. Raises UserError where it can't be compared and
    where the champion moved meanwhile.
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
            if (ended := now.last(version)) in (None, before) or ended.event == "compared":
                raise
            return f"{ended} (while it was compared)"
