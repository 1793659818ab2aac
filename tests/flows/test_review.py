"""From challenger to champion on a real registry and Prefect server: compared once, decided in any of three places.

The versions answer in this process.
"""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterState
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelling
from projects import change_params

from flows import form
from flows import review as command
from flows.form import decided_elsewhere
from flows.review import NotReviewedError, review
from llm.errors import UserError
from tasks.measures.labels.rows import label_rows
from tasks.registry.decide import approve, compared, history, model_state, reject, settle
from tasks.registry.events import WAITS
from tasks.review import compare
from tasks.review.challenger import Reviewed, review_challenger
from tasks.stages.server import run_as_child
from tests.tasks.review.conftest import Answering, enter, inside, labelled, register, write_project

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
HANGS = 600  # seconds that only something that hangs takes
LONG = HANGS / 60
GATES = {"at_least": {"f1": 1.1, "charm": 1}, "at_most": {}, "no_loss": []}
OPEN_GATES = "f1 at least 1.1, charm at least 1 (not known)"
ME = {"by": "reviewer-1", "reason": "it reads well"}


def reviewed(*models, **parameters):
    return run_as_child(review, {"models": list(models or ["classifier"]), **parameters})


@pytest.fixture(scope="module")
def versions() -> Answering:
    """Both versions of the classifier, of which the champion gets nothing right."""
    return Answering()


@pytest.fixture(scope="module")
def was_compared(tmp_path_factory, token_files, prefect_api, versions) -> Path:
    """Version 1 is champion; the challenger, version 2, was compared with it and is pending. Copy it to change it."""
    folder = tmp_path_factory.mktemp("compared")
    write_project(folder, token_files)
    change_params(folder, lambda values: values["applications"]["classifier"].update(review=GATES))
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "answers", versions)
        labels = label_rows(Path("data/processed/emails"))["expected"]
        versions.tables = {"1": labelled(labels.map({"ham": "spam", "spam": "ham"})), "2": labelled(labels)}
        for alias in ("champion", "challenger"):
            MlflowClient().set_registered_model_alias(NAME, alias, register("classifier"))
        MlflowClient().update_model_version(NAME, "2", "Classifier, trained here.\n\nMore of it.")
        (folder / "outcome").write_text(reviewed()["classifier"])
    return folder


@pytest.fixture
def project(was_compared, versions, tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(compare, "answers", versions)
    monkeypatch.setattr(form, "POLL", 0.1)  # what ends a wait is the same
    return enter(shutil.copytree(was_compared, tmp_path / "project"), monkeypatch)


@pytest.fixture
def client(prefect_api):
    with get_client(sync_client=True) as client:
        yield client


def change_gates(project, **gates):
    """Have the classifier compared again, with other gates."""
    change_params(project, lambda values: values["applications"]["classifier"].update(review=gates))


def aliases():
    now = model_state("classifier")
    return now.champion, now.previous, now.challenger


def waits(client, then):
    """The classifier's outcome in a review that waits, while `then` is done to its run."""
    errors, paused = [], FlowRunFilter(state=FlowRunFilterState(name={"any_": ["Paused"]}))

    def do():
        deadline = time.monotonic() + HANGS
        try:
            while not (runs := client.read_flow_runs(flow_run_filter=paused)):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            then(runs[0].id)
        except BaseException as error:
            errors.append(error)

    doing = threading.Thread(target=do)
    doing.start()
    try:
        return reviewed(wait_minutes=LONG)["classifier"]
    finally:
        doing.join()
        assert not errors


def answer(client, flow_run, **given):
    """Fill the form in as soon as it is there; the server refuses what does not fit it."""
    deadline = time.monotonic() + HANGS
    while client.resume_flow_run(flow_run, run_input=given).status != "ACCEPT":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def newest(client):
    return max(client.read_flow_runs(), key=lambda run: run.created)


def announced(client, flow_run):
    """The events of versions that wait, once the server has written down all that happened in the run."""
    run, deadline = f"prefect.flow-run.{flow_run}", time.monotonic() + HANGS
    ended = EventFilter(event=EventNameFilter(name=["prefect.flow-run.Completed"]))
    while run not in {each.resource.id for each in client.read_events(ended, 50).events}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = client.read_events(EventFilter(event=EventNameFilter(name=[WAITS])), 50).events
    return [each for each in found if run in {resource.id for resource in each.related}]


# ---- compared


def test_a_challenger_is_compared_and_what_there_is_to_decide_stands_in_all_three_places(project, client):
    shown = (project / "outcome").read_text().splitlines()
    assert shown[0] == "version 2 waits for a decision"
    assert shown[1].startswith(
        "  Version 2 does not pass: of 7 gates 1 failed and 1 could not be computed. Not passed:"
    )
    page = Path(shown[2].removeprefix("  page: "))
    assert (page.name, page.parent.name) == ("review.html", "review")
    assert "threestage review approve classifier/2 --despite-gates --reason TEXT. To turn it down" in shown[3]
    assert "/#/models/threestage-classifier/versions/2: set the tag threestage.state to approved or" in shown[4]
    # in MLflow
    version = MlflowClient().get_model_version(NAME, "2")
    first, *rest = version.description.splitlines()
    experiment = MlflowClient().get_run(version.run_id).info.experiment_id
    link = f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/review/review.html"
    assert first.startswith(f"[Review against champion 1]({link}): **Version 2 does not pass")
    assert "charm at least 1 ? not known; f1 at least 1.1 ✗ failed; " in first
    assert " The baseline is a linear model on TF-IDF" in first
    assert rest == ["", "Classifier, trained here.", "", "More of it."]
    names = {file.path for file in MlflowClient().list_artifacts(version.run_id, "review")}
    assert names >= {"review/review.html", "review/gates.json"}
    why = "failed: f1 at least 1.1; not known: charm at least 1"
    assert (version.tags["threestage.state"], version.tags["threestage.why"]) == ("pending", why)
    # in Prefect
    ours = ArtifactFilter(key=ArtifactFilterKey(any_=["review-classifier"]))
    artifacts = client.read_artifacts(artifact_filter=ours)
    own = (each for each in artifacts if "charm" in each.description)  # other tests use this server, too
    artifact = min(own, key=lambda each: each.created)
    assert artifact.data.startswith("# threestage-classifier: challenger 2 against champion 1\n")
    assert artifact.description.startswith("**Version 2 does not pass")
    run = client.read_flow_run(artifact.flow_run_id)
    assert (run.name, run.state.name) == ("review: classifier 2 waits", "Completed")
    (event,) = announced(client, run.id)
    assert (event.resource.name, event.payload["model"]) == (f"{NAME} version 2", "classifier")
    assert event.payload["verdict"].startswith("Version 2 does not pass: of 7 gates 1 failed")
    assert event.payload["page"] == f"http://127.0.0.1:5000/#/models/{NAME}/versions/2"
    assert event.payload["run"].endswith(f"/runs/flow-run/{run.id}")


def test_a_pair_is_compared_and_announced_once_and_the_gates_alone_can_decide_on_it(project, client, versions):
    asked = len(versions.asked)
    assert reviewed()["classifier"].splitlines()[1] == (project / "outcome").read_text().splitlines()[1]
    assert announced(client, newest(client).id) == []
    outcome = reviewed(auto=True)["classifier"]
    assert len(versions.asked) == asked
    assert outcome.startswith("version 2 rejected by gates, ")
    assert "f1 at least 1.1: failed (" in outcome
    assert "charm at least 1: could not be computed (this version has no metric charm)" in outcome
    assert aliases() == ("1", None, None)
    assert reviewed()["classifier"] == "no challenger; version 1 is champion"
    assert [each.event for each in history("classifier")] == ["approved", "compared", "rejected"]


def test_a_gate_that_is_not_known_waits_for_a_person_who_is_told_also_where_the_gates_decide(project, client):
    change_gates(project, at_least={"charm": 1})
    assert reviewed(auto=True)["classifier"].startswith("version 2 waits for a decision\n")
    assert aliases() == ("1", None, "2")
    (event,) = announced(client, newest(client).id)
    assert event.resource.name == f"{NAME} version 2"


def test_remind_announces_a_waiting_version_again_a_day_later(project, monkeypatch):
    monkeypatch.setattr(command, "emit", lambda event, name, version, **details: told.append((name, version, details)))
    told = []
    command.remind("classifier")
    assert told == [], "the review announced it"
    (announcement,) = Path(".threestage/events/announced").iterdir()
    yesterday = time.time() - 24 * 3600
    os.utime(announcement, (yesterday, yesterday))
    command.remind("classifier")
    ((name, version, details),) = told
    assert (name, version) == (NAME, "2")
    assert details["verdict"].startswith("It still waits: version 2 compared with champion 1 by review, ")
    reject("classifier", "2", **ME)
    command.remind("classifier")
    assert len(told) == 1


def test_without_a_champion_two_reviews_at_once_compare_with_the_baseline_once_and_the_gates_promote(project):
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    change_gates(project)
    found: list[Reviewed] = []
    both = [threading.Thread(target=lambda: found.append(review_challenger("classifier"))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    one, other = found
    assert one == other
    assert {one.new, other.new} == {True, False}
    assert (one.champion, one.passed) == (None, True)
    assert one.verdict.startswith("**Version 2 passes all 4 gates.** There is no champion.")
    first = MlflowClient().get_model_version(NAME, "2").description.splitlines()
    assert first[0].startswith("[Review against the baseline](#/experiments/")
    assert first[1:] == ["", "Classifier, trained here.", "", "More of it."]
    outcome = reviewed(auto=True)["classifier"]
    assert outcome.startswith("version 2 approved by gates, ")
    assert "Version 2 passes all 4 gates. There is no champion." in outcome
    assert aliases() == ("2", "1", None)  # whose alias a person took away


def test_a_version_that_is_deleted_while_it_is_compared_ends_its_review(project, versions):
    change_gates(project)
    versions.acts.append(lambda: MlflowClient().delete_model_version(NAME, "2"))
    assert review_challenger("classifier") == "version 2 was deleted meanwhile: its review ends"
    assert history("classifier")[-1].event == "withdrawn"
    assert review_challenger("classifier") == "no challenger; version 1 is champion"


def test_a_comparison_that_fails_is_an_error_whatever_was_decided_before(project):
    approve("classifier", "2", **ME, despite_gates=True)
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    MlflowClient().set_registered_model_alias(NAME, "challenger", "2")
    settle("classifier")
    (project / "data/processed/emails/test.parquet").unlink()
    with pytest.raises(OSError, match="holds no test"):
        review_challenger("classifier")


@pytest.mark.parametrize("auto", [True, False])
def test_a_persons_tag_counts_while_it_is_compared_and_the_gates_do_not(project, versions, auto):
    def tag():
        for key, value in (("by", "reviewer-2"), ("why", "seen"), ("state", "approved")):
            MlflowClient().set_model_version_tag(NAME, "2", f"threestage.{key}", value)

    change_gates(project, at_least={"f1": 1.05})
    versions.acts.append(tag)
    outcome = reviewed(auto=auto)["classifier"]
    assert outcome.startswith(f"version 2 approved despite {OPEN_GATES} by reviewer-2, ")
    assert outcome.endswith(": seen (while it was compared)")
    assert aliases() == ("2", "1", None)


@pytest.mark.parametrize(
    ("decide", "event", "after"),
    [
        (lambda client: client.set_registered_model_alias(NAME, "champion", "2"), "approved", ("2", "1", None)),
        (
            lambda client: client.set_model_version_tag(NAME, "2", "threestage.state", "rejected"),
            "rejected",
            ("1", None, None),
        ),
    ],
)
def test_a_decision_in_mlflow_is_carried_out_while_it_is_compared(project, versions, decide, event, after):
    change_gates(project)
    versions.acts.append(lambda: decide(MlflowClient()))
    outcome = review_challenger("classifier")
    last = history("classifier")[-1]
    assert (last.event, last.by) == (event, "somebody in MLflow")
    assert outcome == f"{last} (while it was compared)"
    assert aliases() == after


# ---- a person decides


def test_a_decision_in_prefects_form_moves_the_champion(project, client):
    outcome = waits(client, lambda run: answer(client, run, decision="approve", **ME, despite_gates=True))
    assert outcome.startswith(f"version 2 approved despite {OPEN_GATES} by reviewer-1, ")
    assert outcome.endswith(": it reads well")
    assert aliases() == ("2", "1", None)
    run = newest(client)
    assert (run.name, run.state.name) == ("review: classifier 2 approved", "Completed")


def test_the_form_refuses_what_does_not_fit_and_comes_again_where_it_cannot_be_carried_out(project, client):
    shown = []

    def decide(flow_run):
        for lacking in ({"reason": " "}, {"by": ""}, {"by": "x" * 201}, {"decision": "perhaps"}):
            deadline = time.monotonic() + HANGS
            given = {"decision": "approve", **ME} | lacking
            while "schema not found" in (refused := client.resume_flow_run(flow_run, run_input=given)).details.reason:
                assert time.monotonic() < deadline  # the form is written down a moment after the run is paused
                time.sleep(0.1)
            assert refused.status == "REJECT"
        answer(client, flow_run, decision="approve", **ME)
        answer(client, flow_run, decision="approve", reason="x", by="gates", despite_gates=True)
        answer(client, flow_run, decision="later", **ME)
        shown.extend(each.value for each in client.filter_flow_run_input(flow_run, "", limit=99, exclude_keys=set()))

    assert waits(client, decide).startswith("version 2 waits for a decision\n")
    assert aliases() == ("1", None, "2")
    refused = "\n".join(shown)
    assert "**Not done**: threestage-classifier version 2 failed f1 at least 1.1: --despite-gates approves" in refused
    assert "**Not done**: 'gates' is no person's name" in refused


def test_a_decision_elsewhere_ends_the_wait(project, client):
    outcome = waits(client, lambda _: reject("classifier", "2", **ME))
    assert outcome == str(history("classifier")[-1])
    assert aliases() == ("1", None, None)
    assert newest(client).name == "review: classifier 2 rejected"


def test_tags_deletions_and_another_champion_are_decisions_elsewhere(project):
    waiting, mlflow = review_challenger("classifier"), MlflowClient()
    assert decided_elsewhere(waiting) is None
    mlflow.create_model_version(NAME, mlflow.get_model_version(NAME, "1").source)
    mlflow.set_registered_model_alias(NAME, "champion", "3")
    assert decided_elsewhere(waiting) == "version 2 waits, but version 3 is champion now: review it again"
    with pytest.raises(UserError, match="review it again"):
        approve("classifier", "2", **ME)
    mlflow.set_registered_model_alias(NAME, "champion", "1")
    mlflow.set_model_version_tag(NAME, "2", "threestage.state", "approved")
    assert decided_elsewhere(waiting).startswith(f"version 2 approved despite {OPEN_GATES} by somebody in MLflow")
    assert aliases()[0] == "2"


def test_where_nobody_answers_in_time_it_stays_pending_and_the_run_ends_well(project, client):
    assert reviewed(wait_minutes=0.01)["classifier"].startswith("version 2 waits for a decision\n")
    run = newest(client)
    assert (run.name, run.state.name) == ("review: classifier 2 waits", "Completed")
    assert model_state("classifier").state_of["2"] == "pending"


def test_a_run_that_is_cancelled_while_it_waits_ends_so(project, client):
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that one too many does not end the tests
    try:
        with pytest.raises(TerminationSignal):
            waits(client, lambda run: client.set_flow_run_state(run, Cancelling()))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert newest(client).state.name == "Cancelled"
    assert model_state("classifier").state_of["2"] == "pending"


# ---- the command line


@pytest.fixture
def line(command_line, project):
    """`threestage review` in this process: exit code and both outputs."""
    (project / "dvc.yaml").touch()  # by which a command knows a project

    def call(*arguments):
        return command_line(project, "review", *arguments)

    return call


def test_decisions_are_made_shown_and_taken_back_on_the_command_line(project, line, monkeypatch):
    decision = ("approve", "classifier", "--reason", "it reads well", "--by", "reviewer-1")
    code, _, error = line(*decision)
    assert (code, error.count("version 2 failed f1 at least 1.1: --despite-gates approves it all the same")) == (1, 1)
    code, shown, _ = line(*decision, "--despite-gates")
    assert (code, aliases()) == (0, ("2", "1", None))
    assert shown.startswith(f"classifier: version 2 approved despite {OPEN_GATES} by reviewer-1, ")
    assert line("rollback", "classifier/1", "--reason", "no")[0] == 1  # another is champion
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reviewer-1")
    code, shown, _ = line("rollback", "classifier", "--reason", "complaints")
    assert (code, shown, aliases()[0]) == (0, f"classifier: {history('classifier')[-1]}\n", "1")
    code, shown, _ = line("history", "classifier")
    assert code == 0
    *_, approved, back, now = shown.splitlines()
    assert approved.startswith(f"version 2 approved despite {OPEN_GATES} by reviewer-1, ")
    assert back.startswith("version 2 rolled back to version 1 by reviewer-1, ")
    assert back.endswith(": complaints")
    assert now == "now: champion 1"


def test_the_other_models_are_reviewed_and_printed_where_one_can_not_be(project, client, line):
    (project / "data/processed/emails/test.parquet").unlink()
    reject("classifier", "2", **ME)
    MlflowClient().set_registered_model_alias(NAME, "challenger", "2")  # a person has it reviewed again
    none = "no version yet: `make run` makes one"
    with pytest.raises(NotReviewedError, match=r"classifier: .*emails") as raised:
        reviewed("classifier", "assistant")
    assert raised.value.outcomes == {"assistant": none}
    assert newest(client).state.name == "Failed"
    code, shown, error = line("classifier", "assistant")
    assert (code, shown) == (1, f"assistant: {none}\n")
    assert error.splitlines()[-1].startswith("error: classifier: ")
    assert model_state("classifier").state_of["2"] == "rejected"


def test_a_version_that_is_not_the_challenger_can_be_named(project, line):
    source = MlflowClient().get_model_version(NAME, "1").source
    MlflowClient().create_model_version(NAME, source)
    MlflowClient().set_registered_model_alias(NAME, "challenger", "3")
    code, _, error = line("approve", "classifier", "--reason", "x")
    assert (code, error.count("was not compared yet: review it first")) == (1, 1)
    compared("classifier", "3", champion="1")
    assert line("approve", "classifier/2", "--reason", "x", "--despite-gates")[0] == 0
    assert aliases() == ("2", "1", "3")


def test_an_impossible_decision_is_one_line_and_a_wrong_option_ends_with_2(project, line):
    for arguments, reason in {
        ("nobody",): "error: there is no model 'nobody'; those are: foundation, assistant, classifier, guard\n",
        (
            "history",
            "nobody",
        ): "error: there is no model 'nobody'; those are: foundation, assistant, classifier, guard\n",
        ("reject", "assistant", "--reason", "x"): "error: assistant: no version waits for a decision; name one as ",
        ("reject", "classifier/7", "--reason", "x"): "error: threestage-classifier version 7 is not there, or not ",
        ("reject", "classifier", "--reason", " "): "error: a decision needs a rea",
    }.items():
        code, _, error = line(*arguments)
        assert (code, error.count("\n")) == (1, 1), error
        assert error.startswith(reason)
    for wrong in (
        ["approve", "classifier"],
        ["approve", "--reason", "x"],
        ["classifier", "--reason", "x"],
        ["history", "classifier", "assistant"],
        ["history", "classifier", "--auto"],
        ["--auto", "--wait", "3"],
        ["--wait", "-1"],
        ["--wait", "nan"],
    ):
        assert line(*wrong)[0] == 2, wrong
