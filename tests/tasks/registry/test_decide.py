from concurrent.futures import ThreadPoolExecutor

import pytest
from decisions import ME, NAME, aliases, compare, entries, promote, register, states, tags
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.decide import (
    approve,
    compared,
    history,
    is_open,
    model_state,
    reject,
    roll_back,
    settle,
)
from tasks.registry.history import ModelState
from tasks.registry.outcomes import check_name

pytestmark = pytest.mark.slow


def test_state_of_a_model_that_was_never_registered_is_empty(new):
    assert model_state("assistant") == ModelState("threestage-assistant")
    assert history("assistant") == []
    assert not is_open("assistant")
    with pytest.raises(UserError, match="threestage-assistant has no version yet: `make run` makes one"):
        approve("assistant", "1", **ME)


def test_approve_needs_despite_gates_for_failed_ones_and_keeps_them_in_tags_and_history(new):
    event = compare("5", "f1", "evasion_loss", unknown=["speed"])
    why = "failed: f1, evasion_loss; not known: speed"
    assert tags(new, "5") == {"state": "pending", "by": "review", "at": event.at, "why": why}
    assert str(event) == f"version 5 compared with the baseline by review, {event.at}: {why}"
    with pytest.raises(UserError, match="version 5 failed f1, evasion_loss: --despite-gates approves it all the same"):
        approve("classifier", "5", **ME)
    assert aliases() == (None, None, "5")
    event = approve("classifier", "5", by="reviewer-1", reason=" f1\nis  up ", despite_gates=True)
    gates = "f1, evasion_loss, speed (not known)"
    assert tags(new, "5") == {
        "state": "approved",
        "by": "reviewer-1",
        "at": event.at,
        "why": "f1 is up",
        "despite": gates,
    }
    assert str(event) == f"version 5 approved despite {gates} by reviewer-1, {event.at}: f1 is up"
    assert event.at.endswith("Z")
    assert aliases() == ("5", None, None)
    compare("4", unknown=["speed"])  # which keeps no person from approving
    assert tags(new, "4")["why"] == "not known: speed"
    assert approve("classifier", "4", **ME).despite == ("speed (not known)",)
    compare("3")
    assert approve("classifier", "3", **ME).despite == ()
    despite = [model_state("classifier").despite(version) for version in "543"]
    assert despite == [("f1", "evasion_loss", "speed (not known)"), ("speed (not known)",), ()]


def test_roll_back_goes_one_further_back_each_time_and_once_for_two_people(decided):
    promote("5")
    assert aliases() == ("5", "2", None)
    moves = [(event.version, event.champion, event.previous) for event in history("classifier") if event.moves]
    assert moves == [("1", "1", None), ("2", "2", "1"), ("5", "5", "2")]
    assert roll_back("classifier", by="reviewer-1", reason="too slow", instead_of="5").champion == "2"
    with pytest.raises(UserError, match="the champion is 2, not 5; look again"):
        roll_back("classifier", by="reviewer-2", reason="too slow", instead_of="5")
    assert aliases() == ("2", "1", None)
    assert (tags(decided, "5")["state"], tags(decided, "2")["why"]) == ("rejected", "too slow")
    assert roll_back("classifier", by="reviewer-1", reason="so is this").champion == "1"
    assert aliases() == ("1", None, None)
    with pytest.raises(UserError, match="threestage-classifier has no previous version: move the alias champion"):
        roll_back("classifier", by="reviewer-1", reason="and this")
    assert states() == {"5": "rejected", "2": "rejected", "1": "approved"}
    assert entries()[-2] == "5 rolled back to version 2 by reviewer-1"


def test_roll_back_skips_deleted_and_rejected_versions(decided):
    promote("3", "4")
    reject("classifier", "3", by="reviewer-1", reason="a leak in its data")
    assert aliases() == ("4", "2", "5")
    decided.delete_model_version(NAME, "2")
    decided.set_registered_model_alias(NAME, "previous", "1")
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "1"
    assert aliases() == ("1", None, "5")


def test_roll_back_from_a_deleted_champion_restores_previous(decided):
    decided.delete_model_version(NAME, "2")
    assert [event.why for event in settle("classifier")] == ["deleted in the registry"]
    assert entries()[-1] == "2 removed as champion by somebody in MLflow"
    assert aliases() == (None, "1", "5")
    roll_back("classifier", by="reviewer-1", reason="somebody deleted it")
    assert aliases() == ("1", None, "5")
    assert states() == {"1": "approved"}
    assert settle("classifier") == []


def test_approve_refuses_a_rejected_version_until_a_person_aliases_it_challenger(decided):
    compare("5")
    reject("classifier", "5", by="reviewer-1", reason="three mails flipped")
    assert aliases() == ("2", "1", None)
    assert states()["5"] == "rejected"
    assert not is_open("classifier")
    for decide in (lambda: approve("classifier", "5", **ME), lambda: compare("5")):
        with pytest.raises(UserError, match=r"version 5 was rejected by reviewer-1 \(three mails .*alias challenger"):
            decide()
    decided.set_registered_model_alias(NAME, "challenger", "5")
    assert is_open("classifier")
    compare("5")
    assert states()["5"] == "pending"
    approve("classifier", "5", **ME)
    assert aliases() == ("5", "2", None)


def test_approve_keeps_the_alias_of_a_challenger_that_is_registered_meanwhile(new, monkeypatch):
    move = MlflowClient.set_registered_model_alias

    def registered_meanwhile(self, name, alias, version):
        move(self, name, alias=alias, version=version)
        move(self, name, alias="challenger", version="4")

    compare("5")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", registered_meanwhile)
        approve("classifier", "5", **ME)
    assert aliases() == ("5", None, "4")


def test_refused_decisions_name_the_way_out_and_change_nothing(decided):
    compare("5")
    before = model_state("classifier")
    refused = {
        "a decision needs a reason": lambda: approve("classifier", "5", by="reviewer-1", reason=" \n"),
        "a decision needs the name of": lambda: reject("classifier", "5", by="", reason="no"),
        "version 9 is not there, or not any more; there are: 5, 4": lambda: approve("classifier", "9", **ME),
        "version x is not there": lambda: compare("x"),
        "version 2 is the champion already": lambda: approve("classifier", "2", **ME),
        "version 2 is the champion and can't be rejected: roll back": lambda: reject("classifier", "2", **ME),
        "version 2 is the champion: there is nothing to decide": lambda: compare("2"),
        "version 4 was not compared yet: review it first, or move": lambda: approve("classifier", "4", **ME),
        "version 5 was compared with champion 1, and it is 2": lambda: compared("classifier", "5", champion="1"),
    }
    for message, decide in refused.items():
        with pytest.raises(UserError, match=message):
            decide()
    assert model_state("classifier") == before


def test_concurrent_approvals_move_the_champion_once(decided):
    for version in ("3", "4", "5"):
        compare(version)

    def decide(version):
        try:
            return approve("classifier", version, by=f"reviewer-{version}", reason="better").version
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(decide, ("3", "4", "5")))
    (champion,) = [outcome for outcome in outcomes if outcome.isdecimal()]
    late = f"was compared with champion 2, and it is {champion} now: review it again"
    assert sum(late in outcome for outcome in outcomes) == 2
    assert aliases()[:2] == (champion, "2")
    assert sorted(states().values()) == ["approved"] * 3 + ["pending"] * 2
    assert entries()[2:] == [f"{champion} approved by reviewer-{champion}"]


@pytest.mark.parametrize(
    "name",
    ["gates", " Gates", "REVIEW", "register", "somebody in MLflow", "", " ", "a\nb", "a\x00b", "a\u2028b", "a" * 201],
)
def test_check_name_refuses_names_that_are_no_persons(name):
    with pytest.raises(UserError, match="name"):
        check_name(name)
    assert check_name(" Zoë O'Neill ") == "Zoë O'Neill"


def test_approve_of_a_version_deleted_meanwhile_leaves_the_champion(decided, monkeypatch):
    compare("5")
    move = MlflowClient.set_registered_model_alias

    def deleted_before(self, name, alias, version):
        decided.delete_model_version(name, version)
        move(self, name, alias=alias, version=version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", deleted_before)
        with pytest.raises(UserError, match="it was deleted meanwhile; look again"):
            approve("classifier", "5", **ME)
    assert [event.outcome for event in settle("classifier")] == ["withdrawn"]
    assert aliases() == ("2", "1", None)


def test_history_is_never_cut_and_its_entries_fit_a_database(new):
    for number in range(4):
        reject("classifier", "5", by="r" * 300, reason=f'{number} "{"é" * 3000}\x00')
    kept = history("classifier")
    assert [event.why.split()[0] for event in kept] == [str(number) for number in range(4)]
    assert (len(kept[-1].by), len(kept[-1].why)) == (200, 1000)
    assert max(map(len, new.get_registered_model(NAME).tags.values())) < 5000


def test_decisions_leave_other_tags_namespaces_and_models_as_they_are(decided, monkeypatch):
    for key, value in {"history.x": "not JSON", "history.0": "{}", "deciding": "x", "owner": "us"}.items():
        decided.set_registered_model_tag(NAME, f"threestage.{key}", value)
    register("assistant", 1)
    register("classifier", 1, namespace="team")
    promote("5")
    assert entries() == [f"{version} approved by reviewer-1" for version in "125"]
    assert decided.get_registered_model(NAME).tags["threestage.history.x"] == "not JSON"
    assert aliases("assistant") == (None, None, "1")
    assert decided.get_registered_model("team-classifier").tags == {}
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    assert (aliases(), states(), history("classifier")) == ((None, None, "1"), {}, [])
