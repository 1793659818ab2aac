from concurrent.futures import ThreadPoolExecutor

import pytest
from decisions import ME, NAME, aliases, compare, promote, register, states
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.decide import (
    approve,
    challenge,
    check_name,
    compared,
    history,
    is_open,
    model_state,
    reject,
    roll_back,
    settle,
)
from tasks.registry.history import ModelState
from tasks.registry.versions import KEY

pytestmark = pytest.mark.slow


def tags(client, version):
    tags = client.get_model_version(NAME, version).tags
    return {key.removeprefix("threestage."): value for key, value in tags.items()}


def tag(client, version, state, **more):
    for name, text in ({"state": state} | more).items():
        client.set_model_version_tag(NAME, version, f"threestage.{name}", text)


@pytest.fixture
def messages(monkeypatch):
    """The version and outcome of each decision that people are told about."""
    sent = []

    def emit(event, name, version, **details):
        sent.append(f"{version} {details['outcome']}")

    monkeypatch.setattr("tasks.registry.decide.emit", emit)
    return sent


def entries():
    """The history without comparisons, without when and why."""
    return [f"{each.version} {each.outcome} by {each.by}" for each in history("classifier") if each.event != "compared"]


# ---- commands


def test_a_model_that_was_never_registered_has_no_versions_and_nothing_to_decide(new):
    assert model_state("assistant") == ModelState("threestage-assistant")
    assert history("assistant") == []
    assert not is_open("assistant")
    with pytest.raises(UserError, match="threestage-assistant has no version yet: `make run` makes one"):
        approve("assistant", "1", **ME)


def test_a_version_has_four_tags_which_name_the_gates_while_it_waits(new):
    event = compare("5", "f1", "evasion_loss", unknown=["speed"])
    why = "failed: f1, evasion_loss; not known: speed"
    assert tags(new, "5") == {"state": "pending", "by": "review", "at": event.at, "why": why}
    assert str(event) == f"version 5 compared with the baseline by review, {event.at}: {why}"
    with pytest.raises(UserError, match="version 5 failed f1, evasion_loss: --despite-gates approves it all the same"):
        approve("classifier", "5", **ME)
    assert aliases() == (None, None, "5")
    event = approve("classifier", "5", by="reviewer-1", reason=" f1\nis  up ", despite_gates=True)
    assert tags(new, "5") == {"state": "approved", "by": "reviewer-1", "at": event.at, "why": "f1 is up"}
    gates = "f1, evasion_loss, speed (not known)"
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


def test_each_rollback_goes_one_further_back_and_of_two_at_once_one_does(decided):
    promote("5")
    assert aliases() == ("5", "2", None)
    moves = [(each.version, each.champion, each.previous) for each in history("classifier") if each.moves]
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


def test_a_rollback_passes_over_deleted_and_rejected_versions(decided):
    promote("3", "4")
    reject("classifier", "3", by="reviewer-1", reason="a leak in its data")
    assert aliases() == ("4", "2", "5")
    decided.delete_model_version(NAME, "2")
    decided.set_registered_model_alias(NAME, "previous", "1")
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "1"
    assert aliases() == ("1", None, "5")


def test_the_way_back_from_a_deleted_champion_is_its_previous(decided):
    decided.delete_model_version(NAME, "2")
    assert [event.why for event in settle("classifier")] == ["deleted in the registry"]
    assert entries()[-1] == "2 removed as champion by somebody in MLflow"
    assert aliases() == (None, "1", "5")
    roll_back("classifier", by="reviewer-1", reason="somebody deleted it")
    assert aliases() == ("1", None, "5")
    assert states() == {"1": "approved"}
    assert settle("classifier") == []


def test_a_rejected_version_can_not_be_approved_until_a_person_aliases_it_challenger(decided):
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


def test_a_challenger_that_another_machine_registers_during_a_decision_keeps_its_alias(new, monkeypatch):
    move = MlflowClient.set_registered_model_alias

    def registered_meanwhile(self, name, alias, version):
        move(self, name, alias, version)
        move(self, name, "challenger", "4")

    compare("5")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", registered_meanwhile)
        approve("classifier", "5", **ME)
    assert aliases() == ("5", None, "4")


def test_a_decision_that_is_refused_names_the_way_out(decided):
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
        "version 5 was compared with champion 1, and it is 2": lambda: compared("classifier", "5", "1", []),
    }
    for message, decide in refused.items():
        with pytest.raises(UserError, match=message):
            decide()
    assert model_state("classifier") == before


def test_of_decisions_at_once_one_moves_the_champion(decided):
    for version in ("3", "4", "5"):
        compare(version)

    def decide(version):
        try:
            return approve("classifier", version, by=f"reviewer-{version}", reason="better").version
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(decide, ("3", "4", "5")))
    (champion,) = [each for each in outcomes if each.isdecimal()]
    late = f"was compared with champion 2, and it is {champion} now: review it again"
    assert sum(late in each for each in outcomes) == 2
    assert aliases()[:2] == (champion, "2")
    assert sorted(states().values()) == ["approved"] * 3 + ["pending"] * 2
    assert entries()[2:] == [f"{champion} approved by reviewer-{champion}"]


@pytest.mark.parametrize(
    "name",
    ["gates", " Gates", "REVIEW", "register", "somebody in MLflow", "", " ", "a\nb", "a\x00b", "a\u2028b", "a" * 201],
)
def test_a_name_that_is_no_persons_is_refused(name):
    with pytest.raises(UserError, match="name"):
        check_name(name)
    assert check_name(" Zoë O'Neill ") == "Zoë O'Neill"


# ---- a person in MLflow's pages


def test_a_tag_set_by_hand_moves_the_aliases_and_is_recorded(decided):
    compare("4", "f1")
    compare("5")
    assert settle("classifier") == []
    tag(decided, "4", " Approved", by="reviewer-2", why="shorter\nand right")
    tag(decided, "5", "rejected")
    assert model_state("classifier").waits("4")
    assert [str(each).partition(",")[0] for each in settle("classifier")] == [
        "version 4 approved despite f1 by reviewer-2",
        "version 5 rejected by somebody in MLflow",
    ]
    assert aliases() == ("4", "2", None)
    whys = [each.why for each in history("classifier")[-2:]]
    assert whys == ["shorter and right", "tag threestage.state set to rejected"]
    tag(decided, "5", "approved")  # not by whoever decided before, and against another champion
    settle("classifier")
    assert (tags(decided, "5")["state"], tags(decided, "5")["by"]) == ("pending", "somebody in MLflow")
    assert settle("classifier") == []


def test_a_version_that_was_approved_by_hand_against_another_champion_waits_for_a_review_again(decided):
    compare("5", "f1")
    promote("3")
    tag(decided, "5", "approved", by="reviewer-2", why="better")
    assert model_state("classifier").waits("5")
    settle("classifier")
    assert aliases() == ("3", "2", "5")
    found = tags(decided, "5")
    assert (found["state"], found["by"]) == ("pending", "reviewer-2")
    assert found["why"] == "approved, but the champion is 3 now: review it again (better)"
    assert is_open("classifier")
    compare("5")
    assert not is_open("classifier")
    assert approve("classifier", "5", **ME).despite == ()


def test_a_champion_that_is_tagged_rejected_is_rolled_back(decided):
    tag(decided, "2", "rejected", by="reviewer-2", why="complaints")
    settle("classifier")
    assert aliases() == ("1", None, "5")
    assert entries()[-1] == "2 rolled back to version 1 by reviewer-2"
    tag(decided, "1", "rejected")
    settle("classifier")
    assert aliases() == (None, None, "5")
    assert entries()[-1] == "1 rolled back to no champion by somebody in MLflow"
    assert states() == {"2": "rejected", "1": "rejected"}
    assert settle("classifier") == []


def test_a_champion_alias_moved_by_hand_is_an_approval_also_of_what_failed_or_was_rejected(decided):
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


def test_a_champion_moved_or_removed_by_hand_meanwhile_stays_so_and_the_review_begins_again(decided):
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


def test_a_removed_champion_alias_is_recorded_once_and_undoes_no_other_decision(decided, messages):
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
    tag(decided, "2", "rejected", by="reviewer-2", why="complaints")
    assert [event.outcome for event in settle("classifier")] == ["removed as champion", "rejected"]
    assert entries()[-1] == "2 rejected by reviewer-2"
    assert states() == {"2": "rejected", "1": "approved"}
    assert roll_back("classifier", by="reviewer-1", reason="it was better").champion == "1"


def test_previous_and_challenger_moved_by_hand_stay_where_they_are(decided):
    for alias, version in {"previous": "3", "champion": "4", "challenger": "3"}.items():
        decided.set_registered_model_alias(NAME, alias, version)
    settle("classifier")
    assert aliases() == ("4", "3", "3")
    reject("classifier", "2", by="reviewer-1", reason="old")
    assert aliases() == ("4", "3", "3")
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "3"


def test_a_version_that_is_deleted_while_it_waits_is_withdrawn(decided):
    compare("5")
    decided.delete_model_version(NAME, "5")
    assert [each.outcome for each in settle("classifier")] == ["withdrawn"]
    assert settle("classifier") == []
    with pytest.raises(UserError, match="version 5 is not there, or not any more; there are: 4, 3"):
        approve("classifier", "5", **ME)
    decided.delete_model_version(NAME, "4")  # nobody waited for it
    assert settle("classifier") == []
    assert entries()[2:] == ["5 withdrawn by somebody in MLflow"]


def test_a_review_has_something_to_do_until_it_compared_with_this_champion_and_recorded_what_people_did(new):
    assert is_open("classifier")
    compare("5")
    assert not is_open("classifier")
    assert is_open("classifier", pending=True)
    compare("5", unknown=["speed"])
    assert not is_open("classifier", pending=True)  # a person decides
    tag(new, "5", "aproved")  # no state
    assert settle("classifier") == []
    assert not is_open("classifier")
    tag(new, "5", "approved")
    assert is_open("classifier")
    settle("classifier")
    assert not is_open("classifier", pending=True)  # it is champion, and there is no challenger
    new.set_registered_model_alias(NAME, "challenger", "2")
    compare("2")
    new.set_registered_model_alias(NAME, "champion", "1")
    settle("classifier")
    assert is_open("classifier")  # another is champion than it was compared with


# ---- a newer challenger


@pytest.fixture
def made(new):
    """Versions that `register` made; the fifth is new and not yet the challenger."""
    for version in "12345":
        new.set_model_version_tag(NAME, version, KEY, f"key of {version}")
    new.set_registered_model_alias(NAME, "challenger", "4")
    return new


def test_a_newer_challenger_supersedes_the_versions_that_wait_and_they_can_still_be_decided_on(made, messages):
    compare("4", "f1")
    assert challenge("classifier", "5")
    assert challenge("classifier", "5")
    assert aliases() == (None, None, "5")
    assert states() == dict.fromkeys("4321", "superseded")
    assert not any(map(model_state("classifier").waits, "4321"))
    assert messages == []
    assert sorted(entries()) == [f"{version} superseded by register" for version in "1234"]
    assert tags(made, "4")["why"] == "version 5 is the challenger"
    with pytest.raises(UserError, match=r"4 was superseded by register \(version 5 .* alias challenger to it"):
        compare("4")
    approve("classifier", "4", **ME, despite_gates=True)
    assert (aliases(), states()["4"]) == (("4", None, "5"), "approved")
    reject("classifier", "3", **ME)
    assert states()["3"] == "rejected"


def test_a_newer_challenger_supersedes_no_version_that_a_person_tagged_aliased_decided_on_or_made(made):
    reject("classifier", "1", **ME)
    made.set_registered_model_alias(NAME, "ours", "2")
    made.delete_model_version_tag(NAME, "3", KEY)
    compare("4")
    tag(made, "4", "approved")  # and no review has run since
    challenge("classifier", "5")
    assert states() == {"1": "rejected", "4": "approved"}
    assert aliases() == ("4", None, "5")


@pytest.mark.parametrize("chosen", ["2", "3"])
def test_a_challenger_that_a_person_chose_keeps_its_alias_until_a_review_has_compared_it(made, chosen):
    reject("classifier", "3", **ME)
    made.set_registered_model_alias(NAME, "challenger", chosen)
    assert not challenge("classifier", "5")
    assert (aliases(), states()) == ((None, None, chosen), {"3": "rejected"})
    compare(chosen)
    assert challenge("classifier", "5")
    assert aliases() == (None, None, "5")
    assert states()[chosen] == {"2": "superseded", "3": "pending"}[chosen]  # it was decided on once


def test_a_superseded_version_is_reviewed_again_once_a_person_makes_it_the_challenger(made):
    challenge("classifier", "5")
    compare("5")
    assert not is_open("classifier")
    made.set_registered_model_alias(NAME, "challenger", "4")
    assert is_open("classifier")
    assert not challenge("classifier", "5")
    compare("4")
    assert states()["4"] == "pending"


# ---- what goes wrong


def test_a_version_deleted_while_it_is_approved_leaves_the_champion(decided, monkeypatch):
    compare("5")
    move = MlflowClient.set_registered_model_alias

    def deleted_before(self, name, alias, version):
        decided.delete_model_version(name, version)
        move(self, name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", deleted_before)
        with pytest.raises(UserError, match="it was deleted meanwhile; look again"):
            approve("classifier", "5", **ME)
    assert [each.outcome for each in settle("classifier")] == ["withdrawn"]
    assert aliases() == ("2", "1", None)


def test_the_history_is_never_cut_and_its_entries_fit_a_database(new):
    for number in range(4):
        reject("classifier", "5", by="r" * 300, reason=f'{number} "{"é" * 3000}\x00')
    kept = history("classifier")
    assert [each.why.split()[0] for each in kept] == [str(number) for number in range(4)]
    assert (len(kept[-1].by), len(kept[-1].why)) == (200, 1000)
    assert max(map(len, new.get_registered_model(NAME).tags.values())) < 5000


def test_other_tags_another_namespace_and_another_model_stay_as_they_are(decided, monkeypatch):
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
