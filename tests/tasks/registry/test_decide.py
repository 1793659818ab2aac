import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from decisions import ME, NAME, aliases, compare, promote, register, tags
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.decide import IN_MLFLOW, approve, carry_out, challenge, model_state, reject, roll_back
from tasks.registry.versions import had_champion

pytestmark = pytest.mark.slow


def test_approve_needs_despite_gates_for_failed_ones_alone_and_keeps_them(new):
    compare("5", "f1 at least 0.9", "speed (not known)")
    with pytest.raises(UserError, match=r"version 5 failed f1 at least 0\.9: --despite-gates"):
        approve("classifier", "5", **ME)
    assert aliases() == (None, None, "5")
    decision = approve("classifier", "5", by="reviewer-1", reason=" f1\nis  up ", despite_gates=True)
    assert aliases() == ("5", None, None)
    at = tags(new, "5")["at"]
    assert decision == f"version 5 approved despite f1 at least 0.9; speed (not known) by reviewer-1, {at}: f1 is up"
    assert tags(new, "5") == {
        "state": "approved",
        "by": "reviewer-1",
        "at": at,
        "why": "f1 is up",
        "gates": "f1 at least 0.9; speed (not known)",
        "against": "baseline",
    }
    compare("4", "speed (not known)")  # which keeps no person from approving
    approve("classifier", "4", **ME)
    assert aliases() == ("4", "5", None)


def test_roll_back_goes_one_further_back_each_time_and_once_for_two_people(decided):
    promote("5")
    assert aliases() == ("5", "2", None)
    assert roll_back("classifier", by="reviewer-1", reason="too slow", champion="5").startswith(
        "rolled back to version 2"
    )
    with pytest.raises(UserError, match="the champion is 2, not 5; look again"):
        roll_back("classifier", by="reviewer-2", reason="too slow", champion="5")
    assert aliases() == ("2", "1", None)
    assert tags(decided, "5")["state"] == "rejected"
    assert tags(decided, "5")["why"].startswith("too slow (before: version 5 approved by reviewer-1")
    roll_back("classifier", by="reviewer-1", reason="so is this")
    assert aliases() == ("1", None, None)
    with pytest.raises(UserError, match="no previous version: move the alias champion"):
        roll_back("classifier", by="reviewer-1", reason="and this")


def test_roll_back_skips_deleted_and_rejected_versions(decided):
    promote("3", "4")
    reject("classifier", "3", by="reviewer-1", reason="a leak in its data")
    assert aliases() == ("4", "2", "5")
    decided.delete_model_version(NAME, "4")
    assert aliases() == (None, "2", "5")
    roll_back("classifier", by="reviewer-1", reason="somebody deleted the champion")
    assert aliases() == ("2", "1", "5")


def test_rejected_version_is_no_challenger_and_can_still_be_approved(decided):
    compare("5")
    reject("classifier", "5", by="reviewer-1", reason="three mails flipped")
    assert aliases() == ("2", "1", None)
    approve("classifier", "5", by="reviewer-2", reason="they were spam")
    assert aliases() == ("5", "2", None)
    assert re.fullmatch(
        r"they were spam \(before: version 5 rejected by reviewer-1, .*Z: three mails flipped\)",
        tags(decided, "5")["why"],
    )


@pytest.mark.parametrize(
    ("reason", "decide"),
    [
        ("a decision needs a reason", lambda: approve("classifier", "5", by="reviewer-1", reason=" \n")),
        ("a decision needs the name", lambda: reject("classifier", "5", by="", reason="no")),
        ("has no version 9; there are: 5, 4", lambda: approve("classifier", "9", **ME)),
        ("version 2 is the champion already", lambda: approve("classifier", "2", **ME)),
        ("version 2 is the champion and can't be rejected", lambda: reject("classifier", "2", **ME)),
        ("version 4 was not compared yet: run `threestage review", lambda: approve("classifier", "4", **ME)),
        ("no version waits for a decision", lambda: carry_out("approve", "foundation", **ME)),
    ],
)
def test_refused_decision_names_the_reason_and_changes_nothing(decided, project_params, reason, decide):
    compare("5")
    before = model_state("classifier")
    with pytest.raises(UserError, match=reason):
        decide()
    assert model_state("classifier") == before


def test_concurrent_approvals_move_the_champion_once_and_name_who_was_first(decided):
    for version in ("3", "4", "5"):
        compare(version)

    def decide(version):
        try:
            approve("classifier", version, by=f"reviewer-{version}", reason="better")
        except UserError as error:
            return str(error)
        return version

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(decide, ("3", "4", "5")))
    (champion,) = [outcome for outcome in outcomes if outcome.isdecimal()]
    late = f"was compared with 2, and now version {champion} approved by reviewer-{champion}"
    assert sum(late in outcome for outcome in outcomes) == 2
    assert aliases()[:2] == (champion, "2")


# ---- decisions in MLflow's pages


def test_alias_champion_moved_in_mlflow_approves_and_says_who_and_why(decided):
    decided.set_registered_model_alias(NAME, "champion", "4")
    assert aliases() == ("4", "2", "5")
    assert tags(decided, "4")["by"] == IN_MLFLOW
    decided.set_model_version_tag(NAME, "5", key="threestage.by", value="reviewer-2")
    decided.set_model_version_tag(NAME, "5", key="threestage.why", value="better on the phone")
    decided.set_registered_model_alias(NAME, "champion", "5")
    assert aliases() == ("5", "4", None)
    assert (tags(decided, "5")["by"], tags(decided, "5")["why"]) == ("reviewer-2", "better on the phone")


def test_alias_champion_moved_back_in_mlflow_leaves_the_one_before_as_previous(decided):
    promote("5")
    decided.set_registered_model_alias(NAME, "champion", "2")
    assert aliases() == ("2", "5", None)
    decided.set_registered_model_alias(NAME, "champion", "1")
    assert aliases() == ("1", "5", None)


def test_model_without_its_champion_still_had_one(decided):
    assert not had_champion(decided.get_registered_model(NAME)) or aliases()[0]
    decided.delete_registered_model_alias(NAME, "champion")
    assert aliases() == (None, "1", "5")
    assert had_champion(decided.get_registered_model(NAME))
    register("assistant", 1)
    assert not had_champion(decided.get_registered_model("threestage-assistant"))


# ---- faults


WRITES = ("set_model_version_tag", "set_registered_model_tag", "set_registered_model_alias")


@pytest.mark.parametrize("write", range(1, 9))
def test_killed_approval_is_completed_by_the_same_command(decided, monkeypatch, write):
    compare("5")
    writes = itertools.count(1)

    def dying(method):
        def call(*arguments, **options):
            if next(writes) == write:
                raise KeyboardInterrupt
            method(*arguments, **options)

        return call

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        for name in WRITES:
            patch.setattr(MlflowClient, name, dying(getattr(MlflowClient, name)))
        approve("classifier", "5", **ME)
    with suppress(UserError):  # it is champion already
        approve("classifier", "5", **ME)
    assert aliases() == ("5", "2", None)
    assert tags(decided, "5")["state"] == "approved"


def test_approve_of_a_version_deleted_meanwhile_leaves_the_champion(decided, monkeypatch):
    compare("5")
    move = MlflowClient.set_registered_model_alias

    def deleted_before(self, name, alias, version):
        if alias == "champion":
            decided.delete_model_version(name, version)
        move(self, name, alias=alias, version=version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", deleted_before)
        with pytest.raises(UserError, match="it was deleted meanwhile; look again"):
            approve("classifier", "5", **ME)
    assert aliases()[0] == "2"


def test_new_challenger_takes_the_alias_of_the_one_before_in_its_namespace_alone(decided, monkeypatch):
    register("classifier", 1, namespace="team")
    challenge("classifier", "4")
    assert aliases() == ("2", "1", "4")
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    assert aliases() == (None, None, "1")
