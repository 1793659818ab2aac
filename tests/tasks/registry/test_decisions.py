import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry import decisions
from tasks.registry.decisions import approve, carry_out, reject, rollback, set_pending, settle
from tasks.registry.standing import Said, Standing, history, is_open, said, standing

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
ME = {"by": "reviewer-1", "reason": "f1 is up, see the page"}
WRITES = (
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
)


@pytest.fixture(autouse=True)
def client(mlflow_store, tmp_path, monkeypatch):
    """An empty registry, and a hand in it as MLflow's pages have one."""
    monkeypatch.chdir(tmp_path)
    decisions.configure_tracking()
    return MlflowClient()


def register(client, versions, model="classifier", namespace="threestage"):
    """Versions without weights, the last one the challenger."""
    name = f"{namespace}-{model}"
    client.create_registered_model(name)
    for _ in range(versions):
        version = client.create_model_version(name, str(Path.cwd() / "mlartifacts")).version
    client.set_registered_model_alias(name, "challenger", str(version))


def promote(*versions, model="classifier"):
    for version in versions:
        set_pending(model, version, f"review/{version}.html", instead_of=standing(model).champion)
        approve(model, version, **ME)


def aliases(model="classifier"):
    """(champion, previous, challenger)"""
    now = standing(model)
    return now.champion, now.previous, now.challenger


def tags(client, version):
    found = client.get_model_version(NAME, version).tags
    return {key.removeprefix("threestage.review."): value for key, value in found.items() if "review." in key}


def tag(client, version, value, **more):
    for name, text in more.items():
        client.set_model_version_tag(NAME, version, f"threestage.review.{name}", text)
    client.set_model_version_tag(NAME, version, "threestage.review", value)


def test_what_was_never_registered_has_no_versions_and_nothing_to_decide():
    assert standing("classifier") == Standing("classifier", None, None, None, {})
    assert history("classifier") == []
    with pytest.raises(UserError, match="threestage-classifier has no version yet: `make run` makes one"):
        approve("classifier", "1", **ME)


def test_an_approved_challenger_is_champion_and_says_who_when_and_why(client):
    register(client, 1)
    set_pending("classifier", "1", "review/page.html", instead_of=None)
    assert standing("classifier") == Standing("classifier", None, None, "1", {"1": "pending"})
    assert said("classifier", "1") is None
    assert tags(client, "1") == {"page": "review/page.html", "instead_of": "none"}
    decision = approve("classifier", "1", by="reviewer-1", reason=" f1\nis  up ")
    assert standing("classifier") == Standing("classifier", "1", None, None, {"1": "approved"})
    who = {"by": "reviewer-1", "reason": "f1 is up", "at": decision.at}
    assert tags(client, "1") == {"page": "review/page.html", "instead_of": "none", **who}
    assert said("classifier", "1") == Said("approved", "reviewer-1", "f1 is up", done=True)
    assert decision.at.endswith("+00:00")
    assert str(decision) == f"version 1 approved by reviewer-1, {decision.at}: f1 is up"


def test_previous_is_the_champion_before(client):
    register(client, 3)
    promote("1", "2")
    assert aliases() == ("2", "1", "3")
    promote("3")
    assert aliases() == ("3", "2", None)
    assert [(each.version, each.champion, each.previous) for each in history("classifier")] == [
        ("1", "1", None),
        ("2", "2", "1"),
        ("3", "3", "2"),
    ]


def test_a_second_rollback_goes_one_further_back_and_a_third_has_nowhere_to_go(client):
    register(client, 3)
    promote("1", "2", "3")
    assert rollback("classifier", by="reviewer-1", reason="too slow") == "2"
    assert aliases() == ("2", "1", None)
    assert said("classifier", "3") == Said("rejected", "reviewer-1", "too slow", done=True)
    assert rollback("classifier", by="reviewer-1", reason="so is this") == "1"
    assert aliases() == ("1", None, None)
    with pytest.raises(UserError, match="threestage-classifier has no previous version: move the alias champion"):
        rollback("classifier", by="reviewer-1", reason="and this")
    assert standing("classifier").state_of == {"3": "rejected", "2": "rejected", "1": "approved"}
    assert "version 3 rolled back to version 2 by reviewer-1" in str(history("classifier")[-2])


def test_of_two_who_roll_back_at_once_one_does(client):
    register(client, 3)
    promote("1", "2", "3")
    rollback("classifier", by="reviewer-1", reason="too slow", instead_of="3")
    with pytest.raises(UserError, match="the champion is 2, not 3; look again"):
        rollback("classifier", by="reviewer-2", reason="too slow", instead_of="3")
    assert aliases() == ("2", "1", None)


def test_a_rollback_passes_over_what_is_deleted_or_rejected(client):
    register(client, 4)
    promote("1", "2", "3", "4")
    reject("classifier", "3", by="reviewer-1", reason="a leak in its data")
    assert aliases() == ("4", "2", None)
    client.delete_model_version(NAME, "2")
    assert aliases() == ("4", None, None)
    client.set_registered_model_alias(NAME, "previous", "1")
    assert rollback("classifier", by="reviewer-1", reason="too slow") == "1"
    assert aliases() == ("1", None, None)


def test_the_way_back_from_a_deleted_champion_is_its_previous(client):
    register(client, 3)
    promote("1", "2", "3")
    client.delete_model_version(NAME, "3")
    assert aliases() == (None, "2", None)
    assert rollback("classifier", by="reviewer-1", reason="somebody deleted it") == "2"
    assert aliases() == ("2", "1", None)
    assert standing("classifier").state_of == {"2": "approved", "1": "approved"}
    assert str(history("classifier")[-1]).endswith(": somebody deleted it")
    assert settle("classifier") == {}


def test_a_rejected_version_is_no_challenger_and_stays_rejected(client):
    register(client, 2)
    promote("1")
    set_pending("classifier", "2", "page.html", instead_of="1")
    reject("classifier", "2", by="reviewer-1", reason="three mails flipped")
    assert standing("classifier") == Standing("classifier", "1", None, None, {"2": "rejected", "1": "approved"})
    way_out = (
        r"version 2 was rejected by reviewer-1 \(three mails flipped\); .*remove its tag threestage.review in MLflow"
    )
    with pytest.raises(UserError, match=way_out):
        approve("classifier", "2", **ME)
    with pytest.raises(UserError, match=way_out):
        set_pending("classifier", "2", "page.html", instead_of="1")
    with pytest.raises(UserError, match="rejected already by reviewer-1: three mails flipped"):
        reject("classifier", "2", **ME)
    assert len(history("classifier")) == 2
    client.delete_model_version_tag(NAME, "2", "threestage.review")  # the way out
    promote("2")
    assert aliases() == ("2", "1", None)


def test_a_review_has_something_to_do_until_it_compared_with_this_champion_and_carried_out_what_was_said(client):
    assert not is_open("classifier")
    register(client, 3)
    assert is_open("classifier")
    set_pending("classifier", "3", "review/3.html", instead_of=None)
    assert not is_open("classifier")
    assert is_open("classifier", pending=True)
    tag(client, "3", "approved")
    assert is_open("classifier")
    settle("classifier")
    assert not is_open("classifier", pending=True)  # it is champion, and there is no challenger
    client.set_registered_model_alias(NAME, "challenger", "2")
    set_pending("classifier", "2", "review/2.html", instead_of="3")
    client.set_registered_model_alias(NAME, "champion", "1")
    assert is_open("classifier")
    settle("classifier")
    assert is_open("classifier")  # as another is champion than it was compared with
    client.set_model_version_tag(NAME, "2", "threestage.review", "fine")
    assert not is_open("classifier", pending=True)  # nobody knows what that means


def test_what_can_not_be_decided_says_the_way_out(client):
    register(client, 2)
    promote("1")
    set_pending("classifier", "2", "page.html", instead_of="1")
    before = standing("classifier")
    refused = {
        "version 2: a decision needs a reason": lambda: approve("classifier", "2", by="reviewer-1", reason=" \n"),
        "version 2: a decision needs the name of": lambda: reject("classifier", "2", by="", reason="no"),
        "version 9 is not there, or not any more; there are: 2, 1": lambda: approve("classifier", "9", **ME),
        "version x is not there": lambda: set_pending("classifier", "x", "page.html", instead_of="1"),
        "version 1 is the champion already, approved by reviewer-1": lambda: approve("classifier", "1", **ME),
        "version 1 is the champion and can't be rejected: roll back": lambda: reject("classifier", "1", **ME),
        "version 1 is the champion: there is nothing to decide": lambda: set_pending(
            "classifier", "1", "page.html", instead_of="1"
        ),
        "has no previous version": lambda: rollback("classifier", **ME),
    }
    for message, decide in refused.items():
        with pytest.raises(UserError, match=message):
            decide()
    assert standing("classifier") == before
    assert len(history("classifier")) == 1


def test_only_what_was_compared_can_be_approved(client):
    register(client, 3)
    with pytest.raises(UserError, match="version 3 was not compared yet: review it first, or move the alias"):
        approve("classifier", "3", **ME)
    promote("1", "2")
    with pytest.raises(UserError, match="version 1 was champion before, approved by reviewer-1: review it first"):
        approve("classifier", "1", **ME)
    promote("1")
    assert aliases() == ("1", "2", "3")


def test_of_decisions_at_once_one_moves_the_champion(client):
    register(client, 5)
    promote("1")
    for version in ("2", "3", "4", "5"):
        set_pending("classifier", version, "page.html", instead_of="1")

    def decide(version):
        try:
            return approve("classifier", version, by=f"reviewer-{version}", reason="better").version
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(decide, ("2", "3", "4", "5")))
    (champion,) = [each for each in ended if each.isdecimal()]
    said_no = f"was compared with champion 1, and it is {champion} now: review it again"
    assert sum(said_no in each for each in ended) == 3
    assert aliases()[:2] == (champion, "1")
    states = standing("classifier").state_of
    assert sorted(states.values()) == ["approved", "approved", "pending", "pending", "pending"]
    assert [each.by for each in history("classifier")] == ["reviewer-1", f"reviewer-{champion}"]


def test_a_champion_moved_by_hand_meanwhile_stays_and_the_review_begins_again(client):
    register(client, 3)
    promote("1")
    set_pending("classifier", "3", "page.html", instead_of="1")
    client.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(UserError, match="version 3 was compared with champion 1, and it is 2 now: review it again"):
        approve("classifier", "3", **ME)
    assert aliases() == ("2", "1", "3")
    assert said("classifier", "2") == Said("approved", "somebody in MLflow", "alias champion moved to it", done=True)
    with pytest.raises(UserError, match="review it again"):
        set_pending("classifier", "3", "page.html", instead_of="1")
    promote("3")
    assert aliases() == ("3", "2", None)


def test_a_champion_that_lost_its_alias_by_hand_is_not_restored(client):
    register(client, 2)
    promote("1")
    set_pending("classifier", "2", "page.html", instead_of="1")
    client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(UserError, match="was compared with champion 1, and it is none now"):
        approve("classifier", "2", **ME)
    assert settle("classifier") == {}
    assert aliases() == (None, None, "2")


def test_a_champion_alias_moved_by_hand_is_an_approval(client):
    register(client, 2)
    promote("1")
    set_pending("classifier", "2", "page.html", instead_of="1")
    client.set_registered_model_alias(NAME, "champion", "2")
    assert said("classifier", "2") == Said("approved", "somebody in MLflow", "alias champion moved to it", done=False)
    assert carry_out("classifier", "2").done
    assert standing("classifier") == Standing("classifier", "2", "1", None, {"2": "approved", "1": "approved"})
    assert [(each.version, each.by) for each in history("classifier")] == [
        ("1", "reviewer-1"),
        ("2", "somebody in MLflow"),
    ]
    client.set_registered_model_alias(NAME, "champion", "1")  # and back by hand
    assert settle("classifier") == {"1": Said("approved", "somebody in MLflow", "alias champion moved to it", False)}
    assert aliases() == ("1", "2", None)
    assert settle("classifier") == {}


def test_the_first_champion_may_be_made_by_hand_even_of_a_rejected_version(client):
    register(client, 2)
    client.set_registered_model_alias(NAME, "champion", "1")
    reject("classifier", "2", by="reviewer-1", reason="worse")
    assert said("classifier", "1").done
    client.set_registered_model_alias(NAME, "champion", "2")
    assert said("classifier", "2") == Said("approved", "somebody in MLflow", "alias champion moved to it", done=False)
    carry_out("classifier", "2")
    assert aliases() == ("2", "1", None)
    assert standing("classifier").state_of == {"2": "approved", "1": "approved"}


def test_previous_and_challenger_moved_by_hand_stay_where_they_are(client):
    register(client, 4)
    promote("1", "2")
    client.set_registered_model_alias(NAME, "previous", "3")
    client.set_registered_model_alias(NAME, "champion", "4")
    client.set_registered_model_alias(NAME, "challenger", "3")
    carry_out("classifier", "4")
    assert aliases() == ("4", "3", "3")
    reject("classifier", "2", by="reviewer-1", reason="old")
    assert aliases() == ("4", "3", "3")
    assert rollback("classifier", by="reviewer-1", reason="too slow") == "3"


def test_a_tag_set_by_hand_moves_the_aliases(client):
    register(client, 3)
    promote("1")
    set_pending("classifier", "2", "page.html", instead_of="1")
    set_pending("classifier", "3", "page.html", instead_of="1")
    assert carry_out("classifier", "2") is None
    tag(client, "2", " Approved", by="reviewer-2", reason="shorter\nand right")
    tag(client, "3", "rejected")
    approved = Said("approved", "reviewer-2", "shorter and right", done=False)
    rejected = Said("rejected", "somebody in MLflow", "tag threestage.review set to rejected", done=False)
    assert (said("classifier", "2"), said("classifier", "3")) == (approved, rejected)
    assert settle("classifier") == {"2": approved, "3": rejected}
    states = {"3": "rejected", "2": "approved", "1": "approved"}
    assert standing("classifier") == Standing("classifier", "2", "1", None, states)
    assert said("classifier", "2") == Said("approved", "reviewer-2", "shorter and right", done=True)
    assert [(each.decision, each.version, each.by) for each in history("classifier")[1:]] == [
        ("approved", "2", "reviewer-2"),
        ("rejected", "3", "somebody in MLflow"),
    ]


def test_a_mind_changed_by_hand_is_nobodys_earlier_word(client):
    register(client, 1)
    set_pending("classifier", "1", "page.html", instead_of=None)
    reject("classifier", "1", by="reviewer-1", reason="worse")
    tag(client, "1", "approved")
    assert said("classifier", "1") == Said(
        "approved", "somebody in MLflow", "tag threestage.review set to approved", done=False
    )
    carry_out("classifier", "1")
    assert aliases() == ("1", None, None)
    assert tags(client, "1")["by"] == "somebody in MLflow"


def approved_against_another(client):
    """Version 3 of three is approved by hand against champion 1, and the champion is 2."""
    register(client, 3)
    promote("1")
    set_pending("classifier", "3", "page.html", instead_of="1")
    promote("2")
    tag(client, "3", "approved", by="reviewer-2", reason="better")


def test_a_tag_by_hand_does_not_promote_over_a_champion_that_it_was_not_compared_with(client, caplog):
    approved_against_another(client)
    with pytest.raises(UserError, match="version 3 was compared with champion 1, and it is 2 now: review it again"):
        carry_out("classifier", "3")
    assert settle("classifier") == {}
    assert "and it is 2 now: review it again" in caplog.text
    assert aliases() == ("2", "1", "3")
    promote("3")
    assert aliases() == ("3", "2", None)


def test_what_a_person_said_while_a_review_compared_stays_said(client):
    register(client, 2)
    promote("1")
    tag(client, "2", "approved", by="reviewer-2", reason="better")
    set_pending("classifier", "2", "page.html", instead_of="1")
    said = {"by": "reviewer-2", "reason": "better"}
    assert tags(client, "2") == said | {"page": "page.html", "instead_of": "1"}
    assert client.get_model_version(NAME, "2").tags["threestage.review"] == "approved"
    assert settle("classifier")["2"].reason == "better"
    assert aliases() == ("2", "1", None)


def test_what_was_approved_against_another_champion_waits_again_and_the_log_says_so(client, caplog):
    approved_against_another(client)
    set_pending("classifier", "3", "page.html", instead_of="2")
    assert "version 3: reviewer-2 approved it against champion 1, and it is 2 now: it waits" in caplog.text
    assert client.get_model_version(NAME, "3").tags["threestage.review"] == "pending"
    assert settle("classifier") == {}


def test_a_champion_tagged_rejected_stays_until_somebody_says_what_instead(client):
    register(client, 2)
    promote("1", "2")
    tag(client, "2", "rejected")
    with pytest.raises(UserError, match="version 2 is the champion and can't be rejected: roll back"):
        carry_out("classifier", "2")
    assert aliases() == ("2", "1", None)
    assert rollback("classifier", by="reviewer-1", reason="as tagged") == "1"
    tag(client, "1", "approved")
    assert settle("classifier") == {}


def test_a_word_that_is_none_is_unclear(client):
    register(client, 1)
    set_pending("classifier", "1", "page.html", instead_of=None)
    tag(client, "1", "yes")
    wrong = "tag threestage.review is 'yes', not one of pending, approved, rejected"
    assert said("classifier", "1") == Said("unclear", "somebody in MLflow", wrong, done=False)
    with pytest.raises(UserError, match=f"version 1: {wrong}; set it in MLflow"):
        carry_out("classifier", "1")
    approve("classifier", "1", **ME)
    assert aliases() == ("1", None, None)


def test_the_review_of_a_version_deleted_meanwhile_ends(client):
    register(client, 2)
    promote("1")
    set_pending("classifier", "2", "page.html", instead_of="1")
    client.delete_model_version(NAME, "2")
    with pytest.raises(UserError, match="version 2 is not there, or not any more; there are: 1"):
        approve("classifier", "2", **ME)
    assert said("classifier", "2") == Said("withdrawn", "somebody in MLflow", "deleted in the registry", done=False)
    carry_out("classifier", "2")
    assert said("classifier", "2").done
    carry_out("classifier", "2")
    assert [each.decision for each in history("classifier")] == ["approved", "withdrawn"]
    assert aliases() == ("1", None, None)
    client.delete_registered_model(NAME)
    assert said("classifier", "1") == Said("withdrawn", "somebody in MLflow", "deleted in the registry", done=True)
    assert carry_out("classifier", "1").done


def test_a_version_deleted_while_it_is_approved_leaves_the_champion(client, monkeypatch):
    register(client, 2)
    promote("1")
    set_pending("classifier", "2", "page.html", instead_of="1")
    move = MlflowClient.set_registered_model_alias

    def deleted_before(self, name, alias, version):
        client.delete_model_version(name, version)
        move(self, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", deleted_before)
    with pytest.raises(UserError, match="it was deleted meanwhile; look again"):
        approve("classifier", "2", **ME)
    assert aliases() == ("1", None, None)


def count_writes(monkeypatch, stop_at):
    """Let a decision be killed before its write number `stop_at`; returns how many came."""
    came = []
    for name in WRITES:
        write = getattr(MlflowClient, name)

        def counted(self, *arguments, write=write):
            if len(came) == stop_at:
                raise KeyboardInterrupt
            came.append(arguments)
            return write(self, *arguments)

        monkeypatch.setattr(MlflowClient, name, counted)
    return came


DECIDE = {
    "approved": lambda: approve("classifier", "3", **ME),
    "rejected": lambda: reject("classifier", "3", **ME),
    "rolled back": lambda: rollback("classifier", **ME),
}
AFTER = {"approved": ("3", "2", None), "rejected": ("2", "1", None), "rolled back": ("1", None, "3")}
HALVES = {"approved": 5, "rejected": 3, "rolled back": 3}  # places in which it is seen that it began


@pytest.mark.parametrize("kind", DECIDE)
def test_a_decision_killed_anywhere_never_began_or_is_finished_by_the_next(client, kind, tmp_path):
    register(client, 3)
    promote("1", "2")
    set_pending("classifier", "3", "page.html", instead_of="2")
    before = aliases()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, closing(sqlite3.connect(":memory:")) as saved:
        store.backup(saved)
        with pytest.MonkeyPatch.context() as patch:
            writes = count_writes(patch, None)
            DECIDE[kind]()
        whole, decided = standing("classifier"), history("classifier")
        assert aliases() == AFTER[kind]
        finished = 0
        for stop_at in range(len(writes)):
            saved.backup(store)
            with pytest.MonkeyPatch.context() as patch:
                count_writes(patch, stop_at)
                with pytest.raises(KeyboardInterrupt):
                    DECIDE[kind]()
            settle("classifier")
            if aliases() == before:
                DECIDE[kind]()
            else:
                finished += 1
            assert standing("classifier") == whole
            assert settle("classifier") == {}
            last = history("classifier")
            assert last[-1].champion == AFTER[kind][0]
            if kind != "rolled back":  # of which the half is a champion moved by hand
                assert [(each.decision, each.version, each.by) for each in last] == [
                    (each.decision, each.version, each.by) for each in decided
                ]
    assert finished == HALVES[kind]


def test_the_history_keeps_the_last_decisions_and_their_first_characters(client, monkeypatch):
    monkeypatch.setattr(decisions, "KEPT", 3)
    register(client, 2)
    promote("1")
    for number in range(5):
        set_pending("classifier", "2", "page.html", instead_of="1")
        reject("classifier", "2", by="r" * 300, reason=f'{number} "{"é" * 3000}\x00')
        client.delete_model_version_tag(NAME, "2", "threestage.review")
    kept = history("classifier")
    assert [each.reason.split()[0] for each in kept] == ["2", "3", "4"]
    assert (len(kept[-1].by), len(kept[-1].reason)) == (200, 1000)
    stored = client.get_registered_model(NAME).tags
    assert max(map(len, stored.values())) < 5000
    assert len(tags(client, "2")["reason"]) > 3000


def test_tags_that_people_put_beside_the_history_are_left(client):
    register(client, 2)
    for key, value in {"decision": "x", "decision.0001.1": "not JSON", "decision.x": "{}", "owner": "us"}.items():
        client.set_registered_model_tag(NAME, f"threestage.{key}", value)
    promote("1", "2")
    assert [each.version for each in history("classifier")] == ["1", "2"]
    assert client.get_registered_model(NAME).tags["threestage.decision.x"] == "{}"


def test_another_namespace_and_another_model_stay_as_they_are(client, monkeypatch):
    register(client, 2)
    register(client, 2, "assistant")
    register(client, 2, namespace="team")
    promote("1", "2")
    untouched = Standing("classifier", None, None, "2", {"2": None, "1": None})
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    assert standing("classifier") == untouched
    assert history("classifier") == []
    monkeypatch.delenv("THREESTAGE_NAMESPACE")
    assert aliases("assistant") == (None, None, "2")
    assert client.get_registered_model("team-classifier").tags == {}


@pytest.mark.parametrize(
    "ask",
    [
        lambda: standing("classifier"),
        lambda: history("classifier"),
        lambda: said("classifier", "1"),
        lambda: set_pending("classifier", "1", "page.html", instead_of=None),
        lambda: approve("classifier", "1", **ME),
        lambda: reject("classifier", "1", **ME),
        lambda: rollback("classifier", **ME),
        lambda: carry_out("classifier", "1"),
    ],
)
def test_a_registry_that_does_not_answer_is_a_users_error(monkeypatch, ask):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI=http://127.0.0.1:9: nobody answers"):
        ask()


def test_decisions_on_a_tracking_server_are_the_same(tracking_server, monkeypatch):
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage")
    decisions.configure_tracking()
    client = MlflowClient()
    client.create_registered_model(NAME)
    for _ in range(3):
        with mlflow.start_run() as run:
            client.create_model_version(NAME, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(NAME, "challenger", "3")
    promote("1", "2")
    set_pending("classifier", "3", "page.html", instead_of="2")
    tag(client, "3", "approved", reason="by hand")
    assert settle("classifier") == {"3": Said("approved", "somebody in MLflow", "by hand", done=False)}
    assert aliases() == ("3", "2", None)
    assert rollback("classifier", by="reviewer-1", reason="too slow") == "2"
    client.delete_model_version(NAME, "3")
    carry_out("classifier", "3")
    assert [each.decision for each in history("classifier")] == [*["approved"] * 3, "rolled back", "withdrawn"]
    assert aliases() == ("2", "1", None)
