"""From challenger to champion on a real registry and Prefect server: compared once, decided in any of three places."""

import asyncio
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterState
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import Cancelling
from projects import ROOT, change_params, environment

from flows import form
from flows import review as command
from flows.review import NotReviewedError, review
from llm.errors import UserError
from tasks.registry.decide import approve, compared, history, model_state, reject, settle
from tasks.registry.events import WAITS
from tasks.registry.tracking import configure_tracking
from tasks.review.challenger import Reviewed, review_challenger
from tasks.stages.server import run_as_child
from tests.tasks.review.conftest import inside, register, write_model, write_project

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
HANGS = 600  # seconds that only something that hangs takes
LONG = HANGS / 60
WHOLE = {"git__commit": "a" * 40, "run__training": "b"} | {
    f"git__dirty__{part}": "false" for part in ("code", "params__yaml", "dvc__yaml")
}
GATES = {"at_least": {"f1": 1.1, "charm": 1}, "at_most": {}, "no_loss": []}
ME = {"by": "reviewer-1", "reason": "it reads well"}


def reviewed(*models, **parameters):
    return run_as_child(review, {"models": list(models or ["classifier"]), **parameters})


@pytest.fixture(scope="module")
def was_compared(tmp_path_factory, token_files, prefect_api) -> Path:
    """Version 1 is champion; the challenger, version 2, was compared with it and is pending. Copy it to change it."""
    folder = tmp_path_factory.mktemp("compared")
    write_project(folder, token_files)
    change_params(folder, lambda values: values["applications"]["classifier"].update(review=GATES))
    with inside(folder):
        weights = write_model(folder / "made/c1/classifier", "classifier", 3)
        for alias in ("champion", "challenger"):
            version = register(weights, "classifier", **WHOLE)
            MlflowClient().set_registered_model_alias(NAME, alias, version)
        MlflowClient().update_model_version(NAME, "2", "Classifier, trained here.\n\nMore of it.")
        (folder / "said").write_text(reviewed()["classifier"])
    return folder


@pytest.fixture
def project(was_compared, tmp_path, monkeypatch) -> Path:
    folder = shutil.copytree(was_compared, tmp_path / "project")
    monkeypatch.setattr(utils, "_artifact_repos_cache", OrderedDict())  # MLflow's, of where runs were
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    configure_tracking()
    return folder


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """A review that waits looks often: what ends the wait is the same."""
    monkeypatch.setattr(form, "POLL", 0.1)


@pytest.fixture
def client(prefect_api):
    with get_client(sync_client=True) as client:
        yield client


def aliases():
    now = model_state("classifier")
    return now.champion, now.previous, now.challenger


def paused(client):
    """The run that shows a form."""
    there = FlowRunFilter(state=FlowRunFilterState(name={"any_": ["Paused"]}))
    deadline = time.monotonic() + HANGS
    while not (found := client.read_flow_runs(flow_run_filter=there)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found[0].id


def waits(client, then):
    """What becomes of the classifier in a review that waits, while `then` is done to its run."""
    errors = []

    def do():
        try:
            then(paused(client))
        except BaseException as error:
            errors.append(error)

    doing = threading.Thread(target=do)
    doing.start()
    try:
        return reviewed(wait_minutes=LONG)["classifier"]
    finally:
        doing.join()
        assert not errors


def answer(client, **given):
    """Fill the form in as soon as it is there; the server refuses what does not fit it."""

    def fill(flow_run):
        deadline = time.monotonic() + HANGS
        while client.resume_flow_run(flow_run, run_input=given).status != "ACCEPT":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    return fill


def newest(client):
    return max(client.read_flow_runs(), key=lambda run: run.created)


def announced(client, flow_run):
    """What a run told of versions that wait, once the server has written down all that happened in the run."""
    run, deadline = f"prefect.flow-run.{flow_run}", time.monotonic() + HANGS
    ended = EventFilter(event=EventNameFilter(name=["prefect.flow-run.Completed"]))
    while run not in {each.resource.id for each in client.read_events(ended, 50).events}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    found = client.read_events(EventFilter(event=EventNameFilter(name=[WAITS])), 50).events
    return [each for each in found if run in {resource.id for resource in each.related}]


# ---- compared


def test_what_there_is_to_decide_is_said_with_the_ways_to_do_it(project):
    said = (project / "said").read_text().splitlines()
    assert said[0] == "version 2 waits for a decision"
    assert said[1].startswith("  Version 2 does not pass: of 6 gates 1 failed and 1 could not be computed. Not passed:")
    page = Path(said[2].removeprefix("  page: "))
    assert (page.name, page.parent.name) == ("review.html", "review")
    assert "python -m flows.review approve classifier/2 --despite-gates --reason TEXT, or reject." in said[3]
    place = "/#/models/threestage-classifier/versions/2"
    assert f"{place}: set the tag threestage.state to approved or rejected" in said[4]


def test_the_page_is_linked_in_the_first_line_of_the_description_and_the_rest_is_kept(project):
    version = MlflowClient().get_model_version(NAME, "2")
    first, *rest = version.description.splitlines()
    experiment = MlflowClient().get_run(version.run_id).info.experiment_id
    page = f"#/experiments/{experiment}/runs/{version.run_id}/artifacts/review/review.html"
    assert first.startswith(f"[Review against champion 1]({page}): **Version 2 does not pass")
    assert rest == ["", "Classifier, trained here.", "", "More of it."]
    names = {file.path for file in MlflowClient().list_artifacts(version.run_id, "review")}
    assert names >= {"review/review.html", "review/gates.json"}
    why = "failed: f1 at least 1.1; not known: charm at least 1"
    assert (version.tags["threestage.state"], version.tags["threestage.why"]) == ("pending", why)


def test_prefect_shows_the_page_and_what_became_of_the_version_and_tells_that_it_waits(project, client):
    async def read():
        async with get_client() as client:
            ours = ArtifactFilter(key=ArtifactFilterKey(any_=["review-classifier"]))
            found = await client.read_artifacts(artifact_filter=ours)
            newest = max(found, key=lambda each: each.created)  # other tests on this server may have compared, too
            return newest, await client.read_flow_run(newest.flow_run_id)

    page, run = asyncio.run(read())
    assert page.data.startswith("# threestage-classifier: challenger 2 against champion 1\n")
    assert page.description.startswith("**Version 2 does not pass")
    assert (run.name, run.state.name) == ("review: classifier 2 waits", "Completed")
    (told,) = announced(client, run.id)
    assert (told.resource.name, told.payload["model"]) == (f"{NAME} version 2", "classifier")
    assert told.payload["verdict"].startswith("Version 2 does not pass: of 6 gates 1 failed")
    assert told.payload["page"] == f"http://127.0.0.1:5000/#/models/{NAME}/versions/2"
    assert told.payload["run"].endswith(f"/runs/flow-run/{run.id}")


def test_the_same_pair_is_compared_and_told_of_once_and_the_gates_alone_can_decide_on_it(project, client):
    page = Path((project / "said").read_text().splitlines()[2].removeprefix("  page: "))
    page = project / page.relative_to(next(each for each in page.parents if each.name.startswith("compared")))
    before = page.stat().st_mtime_ns
    assert reviewed()["classifier"].splitlines()[1] == (project / "said").read_text().splitlines()[1]
    assert announced(client, newest(client).id) == []
    said = reviewed(auto=True)["classifier"]
    assert page.stat().st_mtime_ns == before
    assert said.startswith("version 2 rejected by gates, ")
    assert "f1 at least 1.1: failed (" in said
    assert "charm at least 1: could not be computed (this version has no metric charm)" in said
    assert aliases() == ("1", None, None)
    assert reviewed()["classifier"] == "no challenger; version 1 is champion"
    assert [each.event for each in history("classifier")] == ["approved", "compared", "rejected"]


def test_what_the_gates_cannot_tell_waits_for_a_person_also_where_they_decide(project):
    change_params(
        project, lambda values: values["applications"]["classifier"].update(review={"at_least": {"charm": 1}})
    )
    assert reviewed(auto=True)["classifier"].startswith("version 2 waits for a decision\n")
    assert aliases() == ("1", None, "2")


def test_without_a_champion_two_reviews_at_once_compare_with_the_baseline_once_and_the_gates_promote(project):
    MlflowClient().delete_registered_model_alias(NAME, "champion")
    change_params(project, lambda values: values["applications"]["classifier"].update(review={}))
    found: list[Reviewed] = []
    both = [threading.Thread(target=lambda: found.append(review_challenger("classifier"))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    one, other = found
    assert one == other  # also in seconds
    assert (one.champion, one.passed) == (None, True)
    assert one.verdict.startswith("**Version 2 passes all 4 gates.** There is no champion yet.")
    first = MlflowClient().get_model_version(NAME, "2").description.splitlines()
    assert first[0].startswith("[Review against the baseline](#/experiments/")
    assert first[1:] == ["", "Classifier, trained here.", "", "More of it."]
    said = reviewed(auto=True)["classifier"]
    assert said.startswith("version 2 approved by gates, ")
    assert "Version 2 passes all 4 gates. There is no champion yet." in said
    assert aliases() == ("2", "1", None)  # whose alias a person took away


@contextmanager
def heard_by(handler: logging.Handler) -> Iterator[None]:
    """While this handler hears what a comparison says."""
    logger = logging.getLogger("tasks.review.comparison")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def test_a_version_that_is_deleted_while_it_is_compared_ends_its_review(project):
    class Delete(logging.Handler):
        def emit(self, record):
            if "version 2 answers" in record.getMessage():
                MlflowClient().delete_model_version(NAME, "2")

    change_params(project, lambda values: values["applications"]["classifier"].update(review={}))  # compared again
    with heard_by(Delete()):
        assert review_challenger("classifier") == "version 2 was deleted meanwhile: its review ends"
    assert history("classifier")[-1].event == "withdrawn"
    assert review_challenger("classifier") == "no challenger; version 1 is champion"


def test_an_error_is_not_taken_for_what_somebody_said_before(project, monkeypatch):
    approve("classifier", "2", **ME, despite_gates=True)
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    MlflowClient().set_registered_model_alias(NAME, "challenger", "2")
    settle("classifier")

    def fail(*_, **__):
        raise UserError("the test rows are missing")

    monkeypatch.setattr("tasks.review.challenger._review", fail)
    with pytest.raises(UserError, match="the test rows are missing"):
        review_challenger("classifier")


@pytest.mark.parametrize("auto", [True, False])
def test_what_a_person_tags_while_it_is_compared_counts_and_not_what_the_gates_say(project, auto):
    class Approve(logging.Handler):
        def emit(self, record):
            if "version 2 answers" in record.getMessage():
                for key, value in (("by", "reviewer-2"), ("why", "seen"), ("state", "approved")):
                    MlflowClient().set_model_version_tag(NAME, "2", f"threestage.{key}", value)

    change_params(project, lambda values: values["applications"]["classifier"]["review"]["at_least"].update(f1=1.05))
    with heard_by(Approve()):
        said = reviewed(auto=auto)["classifier"]
    assert said.startswith("version 2 approved despite f1 at least 1.1 by reviewer-2, ")
    assert said.endswith(": seen (while it was compared)")
    assert aliases() == ("2", "1", None)


@pytest.mark.parametrize("by_hand", ["tag", "alias"])
def test_what_a_person_decides_while_it_is_compared_is_carried_out(project, by_hand):
    class Decide(logging.Handler):
        def emit(self, record):
            if "version 2 answers" not in record.getMessage():
                return
            if by_hand == "alias":
                MlflowClient().set_registered_model_alias(NAME, "champion", "2")
            else:
                MlflowClient().set_model_version_tag(NAME, "2", "threestage.state", "rejected")

    change_params(project, lambda values: values["applications"]["classifier"].update(review={}))  # compared again
    with heard_by(Decide()):
        said = review_challenger("classifier")
    last = history("classifier")[-1]
    assert (last.event, last.by) == ("approved" if by_hand == "alias" else "rejected", "somebody in MLflow")
    assert said == f"{last} (while it was compared)"
    assert aliases() == (("2", "1", None) if by_hand == "alias" else ("1", None, None))


# ---- a person decides


def test_a_decision_in_prefects_form_moves_the_champion(project, client):
    said = waits(client, answer(client, decision="approve", **ME, despite_gates=True))
    assert said.startswith("version 2 approved despite f1 at least 1.1 by reviewer-1, ")
    assert said.endswith(": it reads well")
    assert aliases() == ("2", "1", None)
    run = newest(client)
    assert (run.name, run.state.name) == ("review: classifier 2 approved", "Completed")


def test_the_form_refuses_a_decision_without_a_reason_or_a_name_and_takes_later(project, client):
    def try_all(flow_run):
        for lacking in ({"reason": " "}, {"by": ""}, {"decision": "perhaps"}):
            deadline = time.monotonic() + HANGS
            given = {"decision": "approve", **ME} | lacking
            while "schema not found" in (said := client.resume_flow_run(flow_run, run_input=given)).details.reason:
                assert time.monotonic() < deadline
            assert said.status == "REJECT"
        answer(client, decision="later", **ME)(flow_run)

    assert waits(client, try_all).startswith("version 2 waits for a decision\n")
    assert aliases() == ("1", None, "2")


def test_a_form_that_can_not_be_carried_out_is_shown_again_with_the_reason(project, client):
    shown = []

    def decide(flow_run):
        answer(client, decision="approve", **ME)(flow_run)  # it failed a gate
        answer(client, decision="approve", reason="x", by="gates", despite_gates=True)(flow_run)
        answer(client, decision="reject", **ME)(flow_run)
        shown.extend(each.value for each in client.filter_flow_run_input(flow_run, "", limit=99, exclude_keys=set()))

    assert waits(client, decide) == str(history("classifier")[-1])
    assert aliases() == ("1", None, None)
    refused = "\n".join(shown)
    assert "**Not done**: threestage-classifier version 2 failed f1 at least 1.1: --despite-gates approves" in refused
    assert "**Not done**: 'gates' is no person's name" in refused


def test_a_tag_set_in_mlflow_ends_the_wait(project, client):
    tag = MlflowClient().set_model_version_tag
    said = waits(client, lambda _: tag(NAME, "2", "threestage.state", "approved"))
    assert said.startswith("version 2 approved despite f1 at least 1.1 by somebody in MLflow")
    assert aliases() == ("2", "1", None)


def test_a_decision_on_the_command_line_ends_the_wait(project, client):
    said = waits(client, lambda _: reject("classifier", "2", **ME))
    assert said == str(history("classifier")[-1])
    assert aliases() == ("1", None, None)


def test_a_version_that_is_deleted_ends_the_wait(project, client):
    said = waits(client, lambda _: MlflowClient().delete_model_version(NAME, "2"))
    assert said.startswith("version 2 withdrawn by somebody in MLflow, ")
    assert newest(client).name == "review: classifier 2 withdrawn"


def test_another_champion_ends_the_wait(project, client):
    source = MlflowClient().get_model_version(NAME, "1").source
    MlflowClient().create_model_version(NAME, source)
    said = waits(client, lambda _: MlflowClient().set_registered_model_alias(NAME, "champion", "3"))
    assert said == "version 2 waits, but version 3 is champion now: review it again"
    with pytest.raises(UserError, match="review it again"):
        approve("classifier", "2", **ME)


def test_where_nobody_answers_in_time_it_stays_pending_and_the_run_ends_well(project, client):
    assert reviewed(wait_minutes=0.01)["classifier"].startswith("version 2 waits for a decision\n")
    run = newest(client)
    assert (run.name, run.state.name) == ("review: classifier 2 waits", "Completed")
    assert model_state("classifier").state_of["2"] == "pending"


def test_a_run_that_is_cancelled_while_it_waits_ends_so(project, client, prefect_api):
    line = [sys.executable, "-m", "flows.review", "classifier", "--wait", str(LONG)]
    store = f"sqlite:///{project / 'mlflow.db'}"
    variables = environment(PREFECT_API_URL=prefect_api, MLFLOW_TRACKING_URI=store, PYTHONPATH=str(ROOT))
    running = subprocess.Popen(line, cwd=project, env=variables, stderr=subprocess.PIPE, text=True)
    flow_run = paused(client)
    client.set_flow_run_state(flow_run, Cancelling())
    _, errors = running.communicate(timeout=HANGS)
    assert running.returncode == 143, errors
    assert "Traceback" not in errors
    assert client.read_flow_run(flow_run).state.name == "Cancelled"
    assert model_state("classifier").state_of["2"] == "pending"


# ---- what goes wrong


def challenge_again():
    """A person has the classifier's version 2 reviewed again."""
    reject("classifier", "2", **ME)
    MlflowClient().set_registered_model_alias(NAME, "challenger", "2")


def test_test_rows_that_are_missing_are_an_error_which_changes_no_state_and_the_other_models_are_reviewed(
    project, client
):
    (project / "data/processed/emails/test.parquet").unlink()
    challenge_again()
    with pytest.raises(NotReviewedError, match=r"classifier: .*emails") as error:
        reviewed("classifier", "assistant")
    assert error.value.outcomes == {"assistant": "no version yet: `make run` makes one"}
    assert newest(client).state.name == "Failed"
    assert model_state("classifier").state_of["2"] == "rejected"


# ---- the command line


@pytest.fixture
def line(stage_line, monkeypatch, capsys):
    """The command line in this process; `stage_line` takes back what it changed. Exit code and both outputs."""

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["review", *arguments])
        return command.main(), *capsys.readouterr()

    return call


def test_decisions_are_made_told_and_taken_back_on_the_command_line(project, line):
    decision = ("approve", "classifier", "--reason", "it reads well", "--by", "reviewer-1")
    code, _, error = line(*decision)
    assert (code, error.count("version 2 failed f1 at least 1.1: --despite-gates approves it all the same")) == (1, 1)
    code, said, _ = line(*decision, "--despite-gates")
    assert (code, aliases()) == (0, ("2", "1", None))
    assert said.startswith("classifier: version 2 approved despite f1 at least 1.1 by reviewer-1, ")
    assert line("rollback", "classifier/1", "--reason", "no")[0] == 1  # another is champion
    code, said, _ = line("rollback", "classifier", "--reason", "complaints", "--by", "reviewer-1")
    assert (code, said, aliases()[0]) == (0, f"classifier: {history('classifier')[-1]}\n", "1")
    code, said, _ = line("history", "classifier")
    assert code == 0
    *_, approved, back, now = said.splitlines()
    assert approved.startswith("version 2 approved despite f1 at least 1.1 by reviewer-1, ")
    assert back.startswith("version 2 rolled back to version 1 by reviewer-1, ")
    assert back.endswith(": complaints")
    assert now == "now: champion 1"


def test_what_became_of_each_model_is_printed_also_where_one_can_not_be_reviewed(project, line):
    (project / "data/processed/emails/test.parquet").unlink()
    challenge_again()
    code, said, error = line("classifier", "assistant")
    assert (code, said) == (1, "assistant: no version yet: `make run` makes one\n")
    assert error.splitlines()[-1].startswith("error: classifier: ")
    code, said, error = line("assistant")
    assert (code, said) == (0, "assistant: no version yet: `make run` makes one\n"), error


def test_a_version_that_is_not_the_challenger_can_be_named(project, line):
    source = MlflowClient().get_model_version(NAME, "1").source
    MlflowClient().create_model_version(NAME, source)
    MlflowClient().set_registered_model_alias(NAME, "challenger", "3")
    code, _, error = line("approve", "classifier", "--reason", "x")
    assert (code, error.count("was not compared yet: review it first")) == (1, 1)
    compared("classifier", "3", "1", [])
    assert line("approve", "classifier/2", "--reason", "x", "--despite-gates")[0] == 0
    assert aliases() == ("2", "1", "3")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "error: there is no model 'nobody'; those are: foundation, assistant, classifier\n"),
        (["history", "nobody"], "error: there is no model 'nobody'; those are: foundation, assistant, classifier\n"),
        (["reject", "assistant", "--reason", "x"], "error: assistant: no version waits for a decision; name one as "),
        (["reject", "classifier/7", "--reason", "x"], "error: threestage-classifier version 7 is not there, or not "),
        (["reject", "classifier", "--reason", " "], "error: a decision needs a rea"),
    ],
)
def test_what_can_not_be_done_is_one_line(project, line, arguments, said):
    code, _, error = line(*arguments)
    assert (code, error.count("\n")) == (1, 1), error
    assert error.startswith(said)


@pytest.mark.parametrize(
    "wrong",
    [
        ["approve", "classifier"],
        ["approve", "--reason", "x"],
        ["classifier", "--reason", "x"],
        ["history", "classifier", "assistant"],
        ["history", "classifier", "--auto"],
        ["--auto", "--wait", "3"],
        ["--wait", "-1"],
        ["--wait", "nan"],
    ],
)
def test_a_wrong_option_ends_with_2(line, wrong):
    with pytest.raises(SystemExit, match="2"):
        line(*wrong)
