"""From new mail to a champion and back, on real servers, some of which are killed: docs/transcript.md is true."""

import re
import shutil
import sys

import pytest

from tests.transcript import PAGE, STEPS, Story

pytestmark = pytest.mark.timeout(3600)  # all of the story is the first test's; a busy machine takes ten times as long

RAN = {"preprocess@emails", "finetune@classifier", "evaluate@classifier"}


@pytest.fixture(scope="module")
def story(project, tmp_path_factory) -> Story:
    """All of it was played."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("transcript") / "threestage", symlinks=True)
    story = Story(folder)
    story.play()
    return story


def classifier(story, scene):
    """Its aliases and what was said of its versions, after a scene."""
    found = story.standings[scene]["classifier"]
    return found.aliases, found.said


def test_the_deployment_has_its_schedule_one_slot_and_a_form_with_bounds(story):
    daily = story.daily
    assert [each.schedule.cron for each in daily.schedules] == ["0 3 * * *"]
    assert daily.global_concurrency_limit.limit == 1
    assert daily.concurrency_options.collision_strategy == "ENQUEUE"
    form = daily.parameter_openapi_schema["properties"]
    assert form.keys() == {"hours", "stage_hours", "decide", "share", "push_to"}
    assert (form["decide"]["enum"], daily.parameters["decide"]) == (["person", "gates", "nobody"], "person")
    assert form["stage_hours"]["exclusiveMinimum"] == 0
    place, code = (next(iter(step.values())) for step in daily.pull_steps)
    assert place == {"directory": str(story.folder)}
    assert code == {"script": f"{sys.executable} -m flows.deploy"}, "merged code comes first"


def test_a_schedule_runs_what_new_mail_makes_stale_and_compares_the_challenger(story):
    tree = story.trees["schedule"]
    assert {name for name in tree if "@" in name} == RAN
    assert "pretrain" not in tree
    assert set(tree.values()) == {"Completed"}
    assert story.names["schedule"].endswith(": 3 of 13 stages")
    aliases, said = classifier(story, "schedule")
    assert aliases == {"champion": "1", "challenger": "2"}
    assert said["2"] == "pending"
    for model in ("foundation", "assistant"):
        assert story.standings["schedule"][model].aliases == {"champion": "1"}
        assert story.standings["schedule"][model].said == {"1": "approved"}


def test_an_answer_in_prefects_form_moves_the_champion(story):
    assert story.names["approve"] == "review: classifier 2 approved"
    assert set(story.trees["approve"].values()) == {"Completed"}
    aliases, said = classifier(story, "approve")
    assert aliases == {"champion": "2", "previous": "1"}
    assert said == {"1": "approved", "2": "approved"}


def test_a_cancelled_run_is_cancelled_at_every_level_and_the_last_good_model_is_back(story):
    assert set(story.trees["cancel"].values()) == {"Cancelled"}, story.trees["cancel"]
    assert {"pretrain", "pretrain-scratch", story.names["cancel"]} <= story.trees["cancel"].keys()
    assert story.first_end.message == "The run was cancelled; the next run goes on from the last checkpoint."
    assert "Finished in state Running" not in story.retrain_log
    assert "Crash" not in story.stage_log
    assert " goes on from there; ended after " in story.stage_log.splitlines()[-1]
    assert story.weights["cancel"] == story.weights["before"]
    assert "git status --short dvc.lock reports\n```" in story.console.page(), "it prints nothing"


def test_a_run_outlives_its_prefect_server_and_keeps_its_slot(story):
    assert story.names["prefect_is_back"] == "Running"
    assert story.slot_kept


def test_a_killed_worker_leaves_crashed_runs_and_the_last_good_model(story):
    tree = story.trees["worker_dies"]
    assert {tree[name] for name in ("pretrain", "pretrain-scratch", story.names["worker_dies"])} == {"Crashed"}, tree
    assert "Running" not in tree.values()
    assert story.weights["worker_dies"] == story.weights["before"]


def test_the_next_run_finishes_to_the_bit_what_the_killed_one_began_and_doubles_nothing(story):
    assert set(story.trees["go_on"].values()) == {"Completed"}
    assert story.weights["go_on"] == story.weights["undisturbed"] != story.weights["before"]
    now = story.standings["go_on"]
    assert now["foundation"].aliases == {"champion": "1", "challenger": "2"}
    assert now["foundation"].said == {"1": "approved", "2": None}
    assert now["classifier"].aliases == {"champion": "2", "previous": "1", "challenger": "3"}
    assert now["assistant"] == story.standings["schedule"]["assistant"]
    assert story.trainings == [list(range(1, STEPS + 1))]


def test_the_gates_reject_a_worse_challenger_and_leave_what_a_person_rejected(story):
    assert story.names["reject"].endswith(": nothing to train, a review")
    now = story.standings["reject"]
    assert now["foundation"].aliases == {"champion": "1"}
    assert now["foundation"].said == {"1": "approved", "2": "rejected"}
    assert now["classifier"].aliases == {"champion": "2", "previous": "1"}
    assert now["classifier"].said == {"1": "approved", "2": "approved", "3": "rejected"}


def test_a_rollback_makes_the_champion_before_champion_again(story):
    aliases, said = classifier(story, "roll_back")
    assert aliases == {"champion": "1"}
    assert said == {"1": "approved", "2": "rejected", "3": "rejected"}


def told(page):
    """A page without what was printed, which differs from one class of machine to another."""
    lines = re.sub(r"^```console\n(.*?)^```$", lambda block: commands(block[1]), page, flags=re.M | re.S).splitlines()
    return [line for line in lines if not line.startswith(">")]


def commands(block):
    return "\n".join(re.findall(r"^\$ .*", block, re.M))


def test_the_page_is_the_one_that_this_story_writes(story):
    assert told(PAGE.read_text()) == told(story.console.page())
