"""A person decides in MLflow's pages, and the next run carries that out."""

import pytest
from decisions import ME, NAME, aliases, compare, entries, promote, set_tags, states, tags

from llm.errors import UserError
from tasks.registry.decide import (
    approve,
    history,
    is_open,
    model_state,
    reject,
    roll_back,
    settle,
)

pytestmark = pytest.mark.slow


def test_settle_carries_out_tags_and_records_who_set_them(decided):
    compare("4", "f1")
    compare("5")
    assert settle("classifier") == []
    set_tags(decided, "4", state=" Approved", by="reviewer-2", why="shorter\nand right")
    set_tags(decided, "5", state="rejected")
    assert model_state("classifier").waits("4")
    assert [str(event).partition(",")[0] for event in settle("classifier")] == [
        "version 4 approved despite f1 by reviewer-2",
        "version 5 rejected by somebody in MLflow",
    ]
    assert aliases() == ("4", "2", None)
    whys = [event.why for event in history("classifier")[-2:]]
    assert whys == ["shorter and right", "tag threestage.state set to rejected"]
    set_tags(decided, "5", state="approved")  # not by whoever decided before, and against another champion
    settle("classifier")
    assert (tags(decided, "5")["state"], tags(decided, "5")["by"]) == ("pending", "somebody in MLflow")
    assert settle("classifier") == []


def test_settle_returns_a_version_approved_against_another_champion_to_review(decided):
    compare("5", "f1")
    promote("3")
    set_tags(decided, "5", state="approved", by="reviewer-2", why="better")
    assert model_state("classifier").waits("5")
    settle("classifier")
    assert aliases() == ("3", "2", "5")
    tags_now = tags(decided, "5")
    assert (tags_now["state"], tags_now["by"]) == ("pending", "reviewer-2")
    assert tags_now["why"] == "approved, but the champion is 3 now: review it again (better)"
    assert is_open("classifier")
    compare("5")
    assert not is_open("classifier")
    assert approve("classifier", "5", **ME).despite == ()


def test_settle_rolls_back_a_champion_tagged_rejected(decided):
    set_tags(decided, "2", state="rejected", by="reviewer-2", why="complaints")
    settle("classifier")
    assert aliases() == ("1", None, "5")
    assert entries()[-1] == "2 rolled back to version 1 by reviewer-2"
    set_tags(decided, "1", state="rejected")
    settle("classifier")
    assert aliases() == (None, None, "5")
    assert entries()[-1] == "1 rolled back to no champion by somebody in MLflow"
    assert states() == {"2": "rejected", "1": "rejected"}
    assert settle("classifier") == []


def test_settle_takes_a_moved_champion_alias_as_approval_despite_gates_and_rejection(decided):
    compare("5", "f1")
    decided.set_registered_model_alias(NAME, "champion", "5")
    assert is_open("classifier")
    settle("classifier")
    assert aliases() == ("5", "2", None)
    assert entries()[-1] == "5 approved despite f1 by somebody in MLflow"
    reject("classifier", "4", **ME)
    decided.set_registered_model_alias(NAME, "champion", "4")
    settle("classifier")
    assert (aliases(), states()["4"]) == (("4", "5", None), "approved")


def test_approve_refuses_when_the_champion_alias_moved_or_went_meanwhile(decided):
    compare("5")
    decided.set_registered_model_alias(NAME, "champion", "1")
    with pytest.raises(UserError, match="version 5 was compared with champion 2, and it is 1 now: review it again"):
        approve("classifier", "5", **ME)
    assert aliases() == ("1", "2", "5")
    assert entries()[-1] == "1 approved by somebody in MLflow"
    decided.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(UserError, match="was compared with champion 2, and it is none now"):
        approve("classifier", "5", **ME)
    assert settle("classifier") == []
    assert aliases() == (None, "2", "5")
    assert entries()[-1] == "1 removed as champion by somebody in MLflow"


def test_settle_records_a_removed_champion_alias_once_and_undoes_no_other_decision(decided, messages):
    decided.delete_registered_model_alias(NAME, "champion")
    assert is_open("classifier")
    before = tags(decided, "2")
    assert [(event.why, event.champion) for event in settle("classifier")] == [("alias champion deleted", None)]
    assert settle("classifier") == []
    assert (aliases(), tags(decided, "2")) == ((None, "1", "5"), before)
    assert messages == ["2 removed as champion"]
    decided.set_registered_model_alias(NAME, "champion", "2")
    assert [event.outcome for event in settle("classifier")] == ["approved"]
    decided.delete_registered_model_alias(NAME, "champion")
    set_tags(decided, "2", state="rejected", by="reviewer-2", why="complaints")
    assert [event.outcome for event in settle("classifier")] == ["removed as champion", "rejected"]
    assert entries()[-1] == "2 rejected by reviewer-2"
    assert states() == {"2": "rejected", "1": "approved"}
    assert roll_back("classifier", by="reviewer-1", reason="it was better").champion == "1"


def test_settle_leaves_previous_and_challenger_where_a_person_moved_them(decided):
    for alias, version in {"previous": "3", "champion": "4", "challenger": "3"}.items():
        decided.set_registered_model_alias(NAME, alias, version)
    settle("classifier")
    assert aliases() == ("4", "3", "3")
    reject("classifier", "2", by="reviewer-1", reason="old")
    assert aliases() == ("4", "3", "3")
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "3"


def test_settle_withdraws_a_version_deleted_while_it_waits(decided):
    compare("5")
    decided.delete_model_version(NAME, "5")
    assert [event.outcome for event in settle("classifier")] == ["withdrawn"]
    assert settle("classifier") == []
    with pytest.raises(UserError, match="version 5 is not there, or not any more; there are: 4, 3"):
        approve("classifier", "5", **ME)
    decided.delete_model_version(NAME, "4")  # nobody waited for it
    assert settle("classifier") == []
    assert entries()[2:] == ["5 withdrawn by somebody in MLflow"]


def test_is_open_until_compared_with_this_champion_and_settled(new):
    assert is_open("classifier")
    compare("5")
    assert not is_open("classifier")
    assert is_open("classifier", pending=True)
    compare("5", unknown=["speed"])
    assert not is_open("classifier", pending=True)  # a person decides
    set_tags(new, "5", state="aproved")  # no state
    assert settle("classifier") == []
    assert not is_open("classifier")
    set_tags(new, "5", state="approved")
    assert is_open("classifier")
    settle("classifier")
    assert not is_open("classifier", pending=True)  # it is champion, and there is no challenger
    new.set_registered_model_alias(NAME, "challenger", "2")
    compare("2")
    new.set_registered_model_alias(NAME, "champion", "1")
    settle("classifier")
    assert is_open("classifier")  # another is champion than it was compared with
