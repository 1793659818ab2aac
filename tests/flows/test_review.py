"""From challenger to champion on a real registry and Prefect server: compared once, decided in any of three places.

The versions answer in this process.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.events import Event
from prefect.events.filters import EventFilter, EventNameFilter
from projects import change_params
from real_servers import wait_for

from flows.review import NotReviewedError, review
from llm.errors import UserError
from tasks.measures.labels.rows import label_rows
from tasks.registry.decide import approve, history, model_state, reject, settle
from tasks.registry.events import WAITS
from tasks.review import compare
from tasks.review.challenger import Reviewed, review_challenger
from tasks.stages.prefect import run_flow
from tests.tasks.review.conftest import Answering, enter, inside, labelled, register, write_project

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
GATES = {"at_least": {"f1": 1.1, "charm": 1}, "at_most": {}, "no_loss": []}
OPEN_GATES = "f1 at least 1.1, charm at least 1 (not known)"
ME = {"by": "reviewer-1", "reason": "it reads well"}
NO_MODEL = "error: there is no model 'nobody'; those are: foundation, assistant, classifier, guard\n"


def run_review(*models: str, **parameters: bool) -> dict[str, str]:
    """The outcome of each model."""
    return run_flow(review, {"models": list(models or ["classifier"]), **parameters})


@pytest.fixture(scope="module")
def versions() -> Answering:
    """Both versions of the classifier, of which the champion gets nothing right."""
    return Answering()


def set_gates(folder: Path, **gates: object) -> None:
    """Other gates have the classifier compared again."""
    change_params(folder, lambda values: values["applications"]["classifier"].update(review=gates))


@pytest.fixture(scope="module")
def was_compared(
    tmp_path_factory: pytest.TempPathFactory, token_files: Path, prefect_api: str, versions: Answering
) -> Path:
    """Version 1 is champion; the challenger, version 2, was compared with it and is pending. Copy it to change it."""
    folder = tmp_path_factory.mktemp("compared")
    write_project(folder, token_files)
    set_gates(folder, **GATES)
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "answers", versions)
        labels: pd.Series = label_rows(Path("data/processed/emails"))["expected"]
        wrong = labels.map({"ham": "spam", "spam": "ham"})
        versions.tables = {"1": labelled(wrong), "2": labelled(labels)}
        for alias in ("champion", "challenger"):
            MlflowClient().set_registered_model_alias(NAME, alias, register("classifier"))
        MlflowClient().update_model_version(NAME, "2", "Classifier, trained here.\n\nMore of it.")
        (folder / "outcome").write_text(run_review()["classifier"])
    return folder


@pytest.fixture
def compared_project(was_compared: Path, versions: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compare, "answers", versions)
    return enter(shutil.copytree(was_compared, tmp_path / "project"), monkeypatch)


@pytest.fixture
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def aliases() -> tuple[str | None, str | None, str | None]:
    """The versions that are champion, previous and challenger."""
    state = model_state("classifier")
    return state.champion, state.previous, state.challenger


def newest(client: SyncPrefectClient) -> FlowRun:
    return max(client.read_flow_runs(), key=lambda run: run.created)


def artifact_of_review(client: SyncPrefectClient) -> Artifact:
    """The first review of a classifier with a gate `charm`: other tests use this server, too."""
    key = ArtifactFilterKey(any_=["review-classifier"])
    artifacts = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    ours = [artifact for artifact in artifacts if "charm" in artifact.description]
    return min(ours, key=lambda artifact: artifact.created)


def announcements(client: SyncPrefectClient, flow_run: object) -> list[Event]:
    """The events of versions that wait, once the server has recorded all events of the run."""
    run = f"prefect.flow-run.{flow_run}"

    def events(name: str) -> list[Event]:
        return client.read_events(EventFilter(event=EventNameFilter(name=[name])), 50).events

    def is_completed() -> bool:
        return any(event.resource.id == run for event in events("prefect.flow-run.Completed"))

    def is_of_run(event: Event) -> bool:
        return any(resource.id == run for resource in event.related)

    wait_for(is_completed, every=0.1)
    return [event for event in events(WAITS) if is_of_run(event)]


# ---- compared


def test_review_shows_its_verdict_and_the_ways_to_decide_on_the_terminal_in_mlflow_and_in_prefect(
    compared_project: Path, client: SyncPrefectClient
) -> None:
    first, verdict, page, commands, tags, form = (compared_project / "outcome").read_text().splitlines()
    assert first == "version 2 waits for a decision"
    assert verdict.startswith("  Version 2 does not pass: of 5 gates 1 failed and 1 could not be computed. Not passed:")
    path = Path(page.removeprefix("  page: "))
    assert (path.name, path.parent.name) == ("review.html", "review")
    assert "threestage review approve classifier/2 --despite-gates --reason TEXT. To turn it down" in commands
    assert "/#/models/threestage-classifier/versions/2: set the tag threestage.state to approved or" in tags
    assert form.startswith("  Or run the deployment decide in Prefect: its form asks for the model, classifier, the")
    # in MLflow
    version = MlflowClient().get_model_version(NAME, "2")
    headline, *description = version.description.splitlines()
    experiment = MlflowClient().get_run(version.run_id).info.experiment_id
    link = f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/review/review.html"
    assert headline.startswith(f"[Review against champion 1]({link}): **Version 2 does not pass")
    assert "charm at least 1 ? not known; f1 at least 1.1 ✗ failed; " in headline
    assert " The baseline is a linear model on TF-IDF" in headline
    assert description == ["", "Classifier, trained here.", "", "More of it."]
    files = {file.path for file in MlflowClient().list_artifacts(version.run_id, "review")}
    assert files >= {"review/review.html", "review/gates.json"}
    why = "failed: f1 at least 1.1; not known: charm at least 1"
    assert (version.tags["threestage.state"], version.tags["threestage.why"]) == ("pending", why)
    # in Prefect
    artifact = artifact_of_review(client)
    assert artifact.data.startswith("# threestage-classifier: challenger 2 against champion 1\n")
    assert artifact.description.startswith("**Version 2 does not pass")
    run = client.read_flow_run(artifact.flow_run_id)
    assert (run.name, run.state.name) == ("review: classifier 2 waits", "Completed")
    (event,) = announcements(client, run.id)
    assert event.resource.name == f"{NAME} version 2"
    assert (event.payload["model"], event.payload["number"]) == ("classifier", "2")
    assert event.payload["verdict"].startswith("Version 2 does not pass: of 5 gates 1 failed")
    assert event.payload["page"] == f"http://127.0.0.1:5000/#/models/{NAME}/versions/2"
    assert event.payload["review"] == f"http://127.0.0.1:5000/{link}"
    assert event.payload["run"].endswith(f"/runs/flow-run/{run.id}")


def test_second_review_compares_and_announces_nothing_and_auto_lets_the_gates_reject(
    compared_project: Path, client: SyncPrefectClient, versions: Answering
) -> None:
    before = len(versions.asked)
    assert run_review()["classifier"].splitlines()[1] == (compared_project / "outcome").read_text().splitlines()[1]
    assert announcements(client, newest(client).id) == []
    outcome = run_review(auto=True)["classifier"]
    assert len(versions.asked) == before
    assert newest(client).name == "review: classifier 2 rejected"
    assert outcome.startswith("version 2 rejected by gates, ")
    assert "f1 at least 1.1: failed (" in outcome
    assert "charm at least 1: could not be computed (this version has no metric charm)" in outcome
    assert aliases() == ("1", None, None)
    assert run_review()["classifier"] == "no challenger; version 1 is champion"
    assert [event.event for event in history("classifier")] == ["approved", "compared", "rejected"]


def test_gate_that_is_not_known_leaves_the_decision_to_a_person_with_auto(
    compared_project: Path, client: SyncPrefectClient
) -> None:
    set_gates(compared_project, at_least={"charm": 1})
    assert run_review(auto=True)["classifier"].startswith("version 2 waits for a decision\n")
    assert aliases() == ("1", None, "2")
    (event,) = announcements(client, newest(client).id)
    assert event.resource.name == f"{NAME} version 2"


def test_two_reviews_at_once_without_a_champion_compare_with_the_baseline_once_and_the_gates_approve(
    compared_project: Path,
) -> None:
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    set_gates(compared_project)
    reviews: list[Reviewed] = []

    def review_once() -> None:
        reviews.append(review_challenger("classifier"))

    threads = [threading.Thread(target=review_once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = reviews
    assert first == second
    assert {first.new, second.new} == {True, False}
    assert (first.champion, first.passed) == (None, True)
    assert first.verdict.startswith("**Version 2 passes all 2 gates.** There is no champion.")
    headline, *description = MlflowClient().get_model_version(NAME, "2").description.splitlines()
    assert headline.startswith("[Review against the baseline](#/experiments/")
    assert description == ["", "Classifier, trained here.", "", "More of it."]
    outcome = run_review(auto=True)["classifier"]
    assert outcome.startswith("version 2 approved by gates, ")
    assert "Version 2 passes all 2 gates. There is no champion." in outcome
    assert aliases() == ("2", "1", None)  # a person took the champion's alias away


def test_version_that_is_deleted_while_it_is_compared_ends_its_review(
    compared_project: Path, versions: Answering
) -> None:
    set_gates(compared_project)
    versions.acts.append(partial(MlflowClient().delete_model_version, NAME, "2"))
    assert review_challenger("classifier") == "version 2 was deleted meanwhile: its review ends"
    assert history("classifier")[-1].event == "withdrawn"
    assert review_challenger("classifier") == "no challenger; version 1 is champion"


def test_comparison_that_fails_is_an_error_after_an_earlier_decision(compared_project: Path) -> None:
    approve("classifier", "2", **ME, despite_gates=True)
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    MlflowClient().set_registered_model_alias(NAME, "challenger", "2")
    settle("classifier")
    (compared_project / "data/processed/emails/test.parquet").unlink()
    with pytest.raises(OSError, match="holds no test"):
        review_challenger("classifier")


@pytest.mark.parametrize("auto", [True, False])
def test_tag_that_a_person_sets_during_the_comparison_outweighs_the_gates(
    compared_project: Path, versions: Answering, auto: bool
) -> None:
    def tag() -> None:
        for key, value in {"by": "reviewer-2", "why": "seen", "state": "approved"}.items():
            MlflowClient().set_model_version_tag(name=NAME, version="2", key=f"threestage.{key}", value=value)

    set_gates(compared_project, at_least={"f1": 1.05})
    versions.acts.append(tag)
    outcome = run_review(auto=auto)["classifier"]
    assert outcome.startswith(f"version 2 approved despite {OPEN_GATES} by reviewer-2, ")
    assert outcome.endswith(": seen (while it was compared)")
    assert aliases() == ("2", "1", None)


def move_champion() -> None:
    MlflowClient().set_registered_model_alias(NAME, "champion", "2")


def tag_as_rejected() -> None:
    MlflowClient().set_model_version_tag(name=NAME, version="2", key="threestage.state", value="rejected")


@pytest.mark.parametrize(
    ("change", "event", "after"),
    [(move_champion, "approved", ("2", "1", None)), (tag_as_rejected, "rejected", ("1", None, None))],
)
def test_decision_in_mlflow_is_carried_out_during_the_comparison(
    compared_project: Path, versions: Answering, change: Callable[[], None], event: str, after: tuple[str | None, ...]
) -> None:
    set_gates(compared_project)
    versions.acts.append(change)
    outcome = review_challenger("classifier")
    last = history("classifier")[-1]
    assert (last.event, last.by) == (event, "somebody in MLflow")
    assert outcome == f"{last} (while it was compared)"
    assert aliases() == after


def test_version_that_was_compared_with_another_champion_must_be_reviewed_again(compared_project: Path) -> None:
    mlflow = MlflowClient()
    mlflow.create_model_version(NAME, mlflow.get_model_version(NAME, "1").source)
    mlflow.set_registered_model_alias(NAME, "champion", "3")
    with pytest.raises(UserError, match="review it again"):
        approve("classifier", "2", **ME)


def test_review_of_a_model_that_fails_leaves_the_reviews_of_others(
    compared_project: Path, client: SyncPrefectClient, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    (compared_project / "dvc.yaml").touch()  # a command knows a project by it
    (compared_project / "data/processed/emails/test.parquet").unlink()
    reject("classifier", "2", **ME)
    MlflowClient().set_registered_model_alias(NAME, "challenger", "2")  # a person has it reviewed again
    no_version = "no version yet: `make run` makes one"
    with pytest.raises(NotReviewedError, match=r"classifier: .*emails") as raised:
        run_review("classifier", "assistant")
    assert raised.value.outcomes == {"assistant": no_version}
    assert newest(client).state.name == "Failed"
    code, output, error = command_line(compared_project, "review", "classifier", "assistant")
    assert (code, output) == (1, f"assistant: {no_version}\n")
    assert error.splitlines()[-1].startswith("error: classifier: ")
    assert model_state("classifier").state_of["2"] == "rejected"
