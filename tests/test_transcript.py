"""From new mail to a champion and back, on real servers, some of which are killed: docs/transcript.md is true."""

import re
import shutil

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


def test_the_gates_refuse_a_worse_challenger(story):
    aliases, said = classifier(story, "refuse")
    assert aliases == {"champion": "2", "previous": "1"}
    assert said == {"1": "approved", "2": "approved", "3": "rejected"}


def test_what_a_person_rejects_stays_rejected_through_the_next_retrain(story):
    assert story.names["reject"].endswith(": nothing new")
    now = story.standings["reject"]
    assert now["foundation"].aliases == {"champion": "1"}
    assert now["foundation"].said == {"1": "approved", "2": "rejected"}
    assert now["classifier"] == story.standings["refuse"]["classifier"]


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
