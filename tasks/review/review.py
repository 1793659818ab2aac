"""The review of a model's challenger: compare it, check its gates, leave its page, and say how to decide."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tasks.params import load_block
from tasks.registry.decide import model_state
from tasks.registry.store import is_server, mlflow_pages, server_errors, tracking_uri
from tasks.registry.versions import AGAINST, BASELINE, GATES, UNKNOWN, registered_name, run_id_of
from tasks.review.compare import compare
from tasks.review.gates import Gate, check
from tasks.review.page import Verdict, version_page, write_page
from tasks.stages.lock import exclusive

FOLDER = "review"
"""Among the artifacts of the version's run."""
PAGE = "review.html"
FINDINGS = f"{FOLDER}/gates.json"
NOTHING_TO_DECIDE = "no challenger"


@dataclass(frozen=True)
class Review:
    """A challenger that was compared and waits for a decision."""

    model: str
    version: str
    gates: list[Gate]
    verdict: Verdict
    page: str
    """The address of the page: a file, or a URL of the tracking server."""
    is_new: bool = False
    """Whether this review compared it, and not an earlier one."""

    @property
    def not_passed(self) -> list[str]:
        """The gates that it failed, and those that could not be computed."""
        open_gates = [gate for gate in self.gates if gate.passed is not True]
        return [gate.name + ("" if gate.passed is False else UNKNOWN) for gate in open_gates]

    @property
    def failed(self) -> bool:
        """Whether it failed a gate."""
        return any(gate.passed is False for gate in self.gates)

    @property
    def is_clear(self) -> bool:
        """Whether the gates alone can decide: one failed, or all passed."""
        return self.failed or not self.not_passed

    def __str__(self) -> str:
        despite = " --despite-gates" if self.failed else ""
        which = f"{self.model}/{self.version}"
        return (
            f"version {self.version} waits for a decision\n  {self.verdict.gates} {self.verdict.comparison}\n"
            f"  page: {self.page}\n"
            f"  threestage approve {which}{despite} --reason TEXT, or threestage reject {which} --reason TEXT\n"
            f"  or move the alias champion to it in MLflow: {version_page(registered_name(self.model), self.version)}"
        )


def review(model: str) -> Review | str:
    """Review a model's challenger against its champion, or its baseline; once for each pair and the same gates.

    Returns the review, or why there is nothing to decide. Raises UserError if the challenger can't be compared.
    """
    with exclusive(f"{FOLDER}/{model}"):
        state = model_state(model)
        champion = f"version {state.champion} is champion" if state.champion else "no champion"
        if not state.tags:
            return "no version yet: `make run` makes one"
        if state.challenger is None:
            return f"{NOTHING_TO_DECIDE}; {champion}"
        with server_errors():
            return _earlier(model, state.challenger, state.champion) or _review(model, state.challenger, state.champion)


def _review(model: str, number: str, champion: str | None) -> Review:
    """Compare, check, and leave page and findings at the version."""
    bounds = load_block(model).review
    comparison = compare(model, number, champion)
    gates = check(comparison, bounds)
    version = comparison.challenger.version
    client = MlflowClient()
    with TemporaryDirectory() as folder:
        verdict = write_page(Path(folder, PAGE), comparison, gates)
        reviewed = Review(
            model=model, version=number, gates=gates, verdict=verdict, page=_address(version), is_new=True
        )
        findings = {
            "params": bounds.model_dump(mode="json"),
            "verdict": verdict,
            "gates": [asdict(gate) for gate in gates],
        }
        Path(folder, Path(FINDINGS).name).write_text(json.dumps(findings, indent=2) + "\n")
        client.log_artifacts(run_id_of(version), folder, FOLDER)
    first = f"[Review against {comparison.opponent}]({_link(version)}): {verdict.gates} {verdict.comparison}"
    description = (client.get_model_version(version.name, number).description or "").split("\n\n")
    if description[0].startswith("[Review against "):
        del description[0]
    client.update_model_version(version.name, number, "\n\n".join([first[:3000], *description]))
    client.set_model_version_tag(version.name, number, key=GATES, value="; ".join(reviewed.not_passed)[:1000])
    client.set_model_version_tag(version.name, number, key=AGAINST, value=champion or BASELINE)
    return reviewed


def _earlier(model: str, number: str, champion: str | None) -> Review | None:
    """The review of the same pair with the same gates, if there was one."""
    version = MlflowClient().get_model_version(registered_name(model), number)
    if version.tags.get(AGAINST) != (champion or BASELINE):
        return None
    findings = mlflow.artifacts.load_dict(f"runs:/{run_id_of(version)}/{FINDINGS}")
    if findings["params"] != load_block(model).review.model_dump(mode="json"):
        return None
    return Review(
        model=model,
        version=number,
        gates=[Gate(**gate) for gate in findings["gates"]],
        verdict=Verdict(*findings["verdict"]),
        page=_address(version),
    )


def _link(version: ModelVersion) -> str:
    """The page's address within MLflow's pages."""
    experiment = MlflowClient().get_run(run_id_of(version)).info.experiment_id
    return f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/{FOLDER}/{PAGE}"


def _address(version: ModelVersion) -> str:
    if is_server(tracking_uri()):
        return f"{mlflow_pages()}/{_link(version)}"
    artifacts = MlflowClient().get_run(run_id_of(version)).info.artifact_uri
    return f"{artifacts.removeprefix('file://')}/{FOLDER}/{PAGE}"
