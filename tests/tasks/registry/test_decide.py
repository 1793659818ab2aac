import multiprocessing
import os
import shutil
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.decide import (
    Standing,
    approve,
    check_name,
    compared,
    history,
    is_open,
    reject,
    roll_back,
    settle,
    standing,
)
from tasks.registry.tracking import configure_tracking

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
ME = {"by": "reviewer-1", "reason": "f1 is up, see the page"}
WRITES = [
    f"{verb}_{what}"
    for verb in ("set", "delete")
    for what in ("model_version_tag", "registered_model_tag", "registered_model_alias")
]


@pytest.fixture(scope="module")
def store(ready_store, tmp_path_factory):
    """A registry in which `classifier` has five versions without weights."""
    folder = tmp_path_factory.mktemp("five")
    shutil.copy(ready_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)
        configure_tracking()
        register("classifier", 5)
    mlflow.set_tracking_uri(None)
    return folder / "mlflow.db"


@pytest.fixture
def client(store, tmp_path, monkeypatch):
    """A hand in that registry as MLflow's pages have one; the challenger is version 5."""
    shutil.copy(store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    configure_tracking()
    return MlflowClient()


def register(model, versions, namespace="threestage"):
    name, client = f"{namespace}-{model}", MlflowClient()
    client.create_registered_model(name)
    for _ in range(versions):
        version = client.create_model_version(name, str(Path.cwd() / "mlartifacts")).version
    client.set_registered_model_alias(name, "challenger", str(version))


def compare(version, *failed, unknown=()):
    return compared("classifier", version, standing("classifier").champion, failed, unknown)


def promote(*versions):
    for version in versions:
        compare(version)
        approve("classifier", version, **ME)


def challenge(client, version):
    client.set_registered_model_alias(NAME, "challenger", version)


def aliases(model="classifier"):
    now = standing(model)
    return now.champion, now.previous, now.challenger


def states():
    return {version: state for version, state in standing("classifier").state_of.items() if state}


def tags(client, version):
    found = client.get_model_version(NAME, version).tags
    return {key.removeprefix("threestage."): value for key, value in found.items()}


def tag(client, version, state, **more):
    for name, text in ({"state": state} | more).items():
        client.set_model_version_tag(NAME, version, f"threestage.{name}", text)


def entries():
    """The history, without when and why."""
    return [f"{each.version} {each.outcome} by {each.by}" for each in history("classifier") if each.event != "compared"]


# ---- commands


def test_what_was_never_registered_has_no_versions_and_nothing_to_decide(client):
    assert standing("assistant") == Standing("threestage-assistant")
    assert history("assistant") == []
    assert not is_open("assistant")
    with pytest.raises(UserError, match="threestage-assistant has no version yet: `make run` makes one"):
        approve("assistant", "1", **ME)


def test_a_version_has_four_tags_which_name_the_gates_while_it_waits(client):
    event = compare("5", "f1", "evasion_loss", unknown=["speed"])
    why = "failed: f1, evasion_loss; not known: speed"
    assert tags(client, "5") == {"state": "pending", "by": "review", "at": event.at, "why": why}
    assert str(event) == f"version 5 compared with the baseline by review, {event.at}: {why}"
    compare("5")
    assert tags(client, "5")["why"] == "all gates passed"
    event = approve("classifier", "5", by="reviewer-1", reason=" f1\nis  up ")
    assert tags(client, "5") == {"state": "approved", "by": "reviewer-1", "at": event.at, "why": "f1 is up"}
    assert str(event) == f"version 5 approved by reviewer-1, {event.at}: f1 is up"
    assert event.at.endswith("Z")
    assert aliases() == ("5", None, None)


def test_a_version_that_failed_a_gate_is_approved_only_in_spite_of_it_and_that_stays_known(client):
    promote("1")
    compare("5", "f1", "evasion_loss", unknown=["speed"])
    with pytest.raises(UserError, match="version 5 failed f1, evasion_loss: --despite-gates approves it all the same"):
        approve("classifier", "5", **ME)
    assert aliases() == ("1", None, "5")
    assert approve("classifier", "5", **ME, despite_gates=True).despite == ("f1", "evasion_loss")
    promote("4")
    assert entries()[1] == "5 approved despite f1, evasion_loss by reviewer-1"
    assert standing("classifier").despite("5") == ("f1", "evasion_loss")
    assert standing("classifier").despite("4") == ()


def test_gates_that_could_not_be_computed_do_not_keep_a_person_from_approving(client):
    compare("5", unknown=["speed"])
    assert approve("classifier", "5", **ME).despite == ()


def test_previous_is_the_champion_before(client):
    promote("1", "2")
    assert aliases() == ("2", "1", "5")
    promote("5")
    assert aliases() == ("5", "2", None)
    moves = [(each.version, each.champion, each.previous) for each in history("classifier") if each.moves]
    assert moves == [("1", "1", None), ("2", "2", "1"), ("5", "5", "2")]


def test_a_second_rollback_goes_one_further_back_and_a_third_has_nowhere_to_go(client):
    promote("1", "2", "5")
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "2"
    assert aliases() == ("2", "1", None)
    assert (tags(client, "5")["state"], tags(client, "2")["why"]) == ("rejected", "too slow")
    assert roll_back("classifier", by="reviewer-1", reason="so is this").champion == "1"
    assert aliases() == ("1", None, None)
    with pytest.raises(UserError, match="threestage-classifier has no previous version: move the alias champion"):
        roll_back("classifier", by="reviewer-1", reason="and this")
    assert states() == {"5": "rejected", "2": "rejected", "1": "approved"}
    assert entries()[-2] == "5 rolled back to version 2 by reviewer-1"


def test_of_two_who_roll_back_at_once_one_does(client):
    promote("1", "2", "5")
    roll_back("classifier", by="reviewer-1", reason="too slow", instead_of="5")
    with pytest.raises(UserError, match="the champion is 2, not 5; look again"):
        roll_back("classifier", by="reviewer-2", reason="too slow", instead_of="5")
    assert aliases() == ("2", "1", None)


def test_a_rollback_passes_over_what_is_deleted_or_rejected(client):
    promote("1", "2", "3", "4")
    reject("classifier", "3", by="reviewer-1", reason="a leak in its data")
    assert aliases() == ("4", "2", "5")
    client.delete_model_version(NAME, "2")
    client.set_registered_model_alias(NAME, "previous", "1")
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "1"
    assert aliases() == ("1", None, "5")


def test_the_way_back_from_a_deleted_champion_is_its_previous(client):
    promote("1", "2", "5")
    client.delete_model_version(NAME, "5")
    assert aliases() == (None, "2", None)
    roll_back("classifier", by="reviewer-1", reason="somebody deleted it")
    assert aliases() == ("2", "1", None)
    assert states() == {"2": "approved", "1": "approved"}
    assert settle("classifier") == []


def test_a_rejected_version_is_no_challenger_and_can_not_be_approved(client):
    promote("1")
    compare("5")
    reject("classifier", "5", by="reviewer-1", reason="three mails flipped")
    assert aliases() == ("1", None, None)
    assert states() == {"5": "rejected", "1": "approved"}
    for decide in (lambda: approve("classifier", "5", **ME), lambda: compare("5")):
        with pytest.raises(UserError, match=r"version 5 was rejected by reviewer-1 \(three mails .*alias challenger"):
            decide()


def test_a_challenger_that_another_machine_registers_during_a_decision_keeps_its_alias(client, monkeypatch):
    move = MlflowClient.set_registered_model_alias

    def registered_meanwhile(self, name, alias, version):
        move(self, name, alias, version)
        move(self, name, "challenger", "4")

    compare("5")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", registered_meanwhile)
        approve("classifier", "5", **ME)
    assert aliases() == ("5", None, "4")


def test_what_can_not_be_decided_says_the_way_out(client):
    promote("1")
    compare("5")
    before = standing("classifier")
    refused = {
        "a decision needs a reason": lambda: approve("classifier", "5", by="reviewer-1", reason=" \n"),
        "a decision needs the name of": lambda: reject("classifier", "5", by="", reason="no"),
        "version 9 is not there, or not any more; there are: 5, 4": lambda: approve("classifier", "9", **ME),
        "version x is not there": lambda: compare("x"),
        "version 1 is the champion already": lambda: approve("classifier", "1", **ME),
        "version 1 is the champion and can't be rejected: roll back": lambda: reject("classifier", "1", **ME),
        "version 1 is the champion: there is nothing to decide": lambda: compare("1"),
        "version 4 was not compared yet: review it first, or move": lambda: approve("classifier", "4", **ME),
        "has no previous version": lambda: roll_back("classifier", **ME),
    }
    for message, decide in refused.items():
        with pytest.raises(UserError, match=message):
            decide()
    assert standing("classifier") == before


def test_a_version_is_approved_only_against_the_champion_that_it_was_compared_with(client):
    compare("4")
    promote("1")
    with pytest.raises(UserError, match="version 4 was compared with champion none, and it is 1 now: review it again"):
        approve("classifier", "4", **ME)
    with pytest.raises(UserError, match="review it again"):
        compared("classifier", "4", None, [])
    promote("4")
    assert aliases() == ("4", "1", "5")


def test_of_decisions_at_once_one_moves_the_champion(client):
    promote("1")
    for version in ("2", "3", "4", "5"):
        compare(version)

    def decide(version):
        try:
            return approve("classifier", version, by=f"reviewer-{version}", reason="better").version
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(decide, ("2", "3", "4", "5")))
    (champion,) = [each for each in ended if each.isdecimal()]
    assert (
        sum(f"was compared with champion 1, and it is {champion} now: review it again" in each for each in ended) == 3
    )
    assert aliases()[:2] == (champion, "1")
    assert sorted(states().values()) == ["approved", "approved", "pending", "pending", "pending"]
    assert entries() == ["1 approved by reviewer-1", f"{champion} approved by reviewer-{champion}"]


@pytest.mark.parametrize(
    "name", ["gates", " Gates", "REVIEW", "somebody in MLflow", "", " ", "a\nb", "a\x00b", "a\u2028b"]
)
def test_a_name_that_is_no_persons_is_refused(name):
    with pytest.raises(UserError, match="name"):
        check_name(name)


def test_a_persons_name_is_taken_as_it_is():
    assert check_name(" Zoë O'Neill ") == "Zoë O'Neill"


# ---- a person in MLflow's pages


def test_a_tag_set_by_hand_moves_the_aliases_and_is_recorded(client):
    promote("1")
    compare("4", "f1")
    compare("5")
    assert settle("classifier") == []
    tag(client, "4", " Approved", by="reviewer-2", why="shorter\nand right")
    tag(client, "5", "rejected")
    assert [str(each).partition(",")[0] for each in settle("classifier")] == [
        "version 4 approved despite f1 by reviewer-2",
        "version 5 rejected by somebody in MLflow",
    ]
    assert aliases() == ("4", "1", None)
    assert [each.why for each in history("classifier")[-2:]] == [
        "shorter and right",
        "tag threestage.state set to rejected",
    ]
    assert settle("classifier") == []


def test_who_changes_a_tag_is_not_whoever_decided_before(client):
    reject("classifier", "5", by="reviewer-1", reason="worse")
    tag(client, "5", "approved")
    settle("classifier")
    assert aliases() == ("5", None, None)
    assert (tags(client, "5")["by"], tags(client, "5")["why"]) == (
        "somebody in MLflow",
        "tag threestage.state set to approved",
    )


def test_a_version_that_was_approved_by_hand_against_another_champion_waits_for_a_review_again(client):
    promote("1")
    compare("5", "f1")
    promote("2")
    tag(client, "5", "approved", by="reviewer-2", why="better")
    assert standing("classifier").waits("5")
    settle("classifier")
    assert aliases() == ("2", "1", "5")
    found = tags(client, "5")
    assert (found["state"], found["by"]) == ("pending", "reviewer-2")
    assert found["why"] == "approved, but the champion is 2 now: review it again (better)"
    assert is_open("classifier")
    compare("5")
    assert not is_open("classifier")
    assert approve("classifier", "5", **ME).despite == ()


def test_a_champion_that_is_tagged_rejected_is_rolled_back(client):
    promote("1", "2")
    tag(client, "2", "rejected", by="reviewer-2", why="complaints")
    settle("classifier")
    assert aliases() == ("1", None, "5")
    assert entries()[-1] == "2 rolled back to version 1 by reviewer-2"
    tag(client, "1", "rejected")
    settle("classifier")
    assert aliases() == (None, None, "5")
    assert entries()[-1] == "1 rolled back to no champion by somebody in MLflow"
    assert states() == {"2": "rejected", "1": "rejected"}
    assert settle("classifier") == []
    promote("5")
    assert aliases() == ("5", None, None)


def test_a_rejected_version_that_a_person_aliases_challenger_is_reviewed_again(client):
    promote("1")
    compare("5")
    reject("classifier", "5", **ME)
    assert not is_open("classifier")
    challenge(client, "5")
    assert is_open("classifier")
    compare("5")
    assert states()["5"] == "pending"
    approve("classifier", "5", **ME)
    assert aliases() == ("5", "1", None)


def test_a_champion_alias_moved_by_hand_is_an_approval_also_of_what_failed(client):
    promote("1")
    compare("5", "f1")
    client.set_registered_model_alias(NAME, "champion", "5")
    assert is_open("classifier")
    settle("classifier")
    assert aliases() == ("5", "1", None)
    assert entries()[-1] == "5 approved despite f1 by somebody in MLflow"
    client.set_registered_model_alias(NAME, "champion", "1")  # and back by hand
    settle("classifier")
    assert aliases() == ("1", "5", None)
    reject("classifier", "4", **ME)
    client.set_registered_model_alias(NAME, "champion", "4")  # whatever was decided before
    settle("classifier")
    assert (aliases(), states()["4"]) == (("4", "1", None), "approved")


def test_a_champion_moved_by_hand_meanwhile_stays_and_the_review_begins_again(client):
    promote("1")
    compare("5")
    client.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(UserError, match="version 5 was compared with champion 1, and it is 2 now: review it again"):
        approve("classifier", "5", **ME)
    assert aliases() == ("2", "1", "5")
    assert entries()[-1] == "2 approved by somebody in MLflow"


def test_a_champion_that_lost_its_alias_by_hand_is_not_restored(client):
    promote("1")
    compare("5")
    client.delete_registered_model_alias(NAME, "champion")
    with pytest.raises(UserError, match="was compared with champion 1, and it is none now"):
        approve("classifier", "5", **ME)
    assert settle("classifier") == []
    assert aliases() == (None, None, "5")


def test_previous_and_challenger_moved_by_hand_stay_where_they_are(client):
    promote("1", "2")
    for alias, version in {"previous": "3", "champion": "4", "challenger": "3"}.items():
        client.set_registered_model_alias(NAME, alias, version)
    settle("classifier")
    assert aliases() == ("4", "3", "3")
    reject("classifier", "2", by="reviewer-1", reason="old")
    assert aliases() == ("4", "3", "3")
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "3"


def test_a_word_that_is_no_state_changes_nothing(client):
    compare("5")
    tag(client, "5", "aproved")
    assert settle("classifier") == []
    assert not is_open("classifier")
    approve("classifier", "5", **ME)
    assert aliases() == ("5", None, None)


def test_a_version_that_is_deleted_while_it_waits_is_withdrawn(client):
    promote("1")
    compare("5")
    client.delete_model_version(NAME, "5")
    assert [each.outcome for each in settle("classifier")] == ["withdrawn"]
    assert settle("classifier") == []
    with pytest.raises(UserError, match="version 5 is not there, or not any more; there are: 4, 3"):
        approve("classifier", "5", **ME)
    client.delete_model_version(NAME, "4")  # nobody waited for it
    assert settle("classifier") == []
    assert entries() == ["1 approved by reviewer-1", "5 withdrawn by somebody in MLflow"]


def test_a_review_has_something_to_do_until_it_compared_with_this_champion_and_recorded_what_people_did(client):
    assert is_open("classifier")
    compare("5")
    assert not is_open("classifier")
    assert is_open("classifier", pending=True)
    compare("5", unknown=["speed"])
    assert not is_open("classifier", pending=True)  # a person decides
    tag(client, "5", "approved")
    assert is_open("classifier")
    settle("classifier")
    assert not is_open("classifier", pending=True)  # it is champion, and there is no challenger
    challenge(client, "2")
    compare("2")
    client.set_registered_model_alias(NAME, "champion", "1")
    settle("classifier")
    assert is_open("classifier")  # another is champion than it was compared with


# ---- what goes wrong


def test_a_version_deleted_while_it_is_approved_leaves_the_champion(client, monkeypatch):
    promote("1")
    compare("5")
    move = MlflowClient.set_registered_model_alias

    def deleted_before(self, name, alias, version):
        client.delete_model_version(name, version)
        move(self, name, alias, version)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", deleted_before)
        with pytest.raises(UserError, match="it was deleted meanwhile; look again"):
            approve("classifier", "5", **ME)
    assert [each.outcome for each in settle("classifier")] == ["withdrawn"]
    assert aliases() == ("1", None, None)


def kill_after(writes, decide, arguments, came):
    """Decide in this process, which is killed after so many writes; `came` counts them."""
    os.chdir(Path(arguments[0]))
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    for name in WRITES:
        write = getattr(MlflowClient, name)

        def counted(self, *given, write=write):
            if came.value == writes:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, *given)
            came.value += 1

        setattr(MlflowClient, name, counted)
    decide("classifier", *arguments[1:])
    os.kill(os.getpid(), signal.SIGKILL)


DECISIONS = {"approved": (approve, ("5", *ME.values())), "rejected": (reject, ("5", *ME.values()))}
DECISIONS["rolled back"] = (roll_back, tuple(ME.values()))
AFTER = {"approved": ("5", "2", None), "rejected": ("2", "1", None), "rolled back": ("1", None, "5")}


@pytest.mark.parametrize("kind", DECISIONS)
def test_a_decision_that_is_killed_after_any_write_is_undone_or_completed_by_the_next_run(client, kind, tmp_path):
    promote("1", "2")
    compare("5")
    decide, arguments = DECISIONS[kind]
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tasks.registry.decide", "mlflow.store.tracking.sqlalchemy_store"])
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as now, closing(sqlite3.connect(":memory:")) as saved:
        now.backup(saved)
        before = standing("classifier")
        for writes in range(99):
            saved.backup(now)
            came = processes.Value("i", 0)
            process = processes.Process(target=kill_after, args=(writes, decide, (tmp_path, *arguments), came))
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            settled = settle("classifier")
            if writes == 0:
                assert standing("classifier") == before
            else:
                assert aliases() == AFTER[kind]
                last = history("classifier")[-1]
                assert (last.event, last.version) == (kind, {"rolled back": "2"}.get(kind, "5"))
                assert states() == {"1": "approved", "2": "approved", "5": "pending"} | last.states
                assert len(history("classifier")) == len(before.history) + 1
                assert settled in ([last], [])
            assert settle("classifier") == []
            assert "threestage.deciding" not in client.get_registered_model(NAME).tags
            if came.value < writes:
                break
    assert writes > 6


def test_the_history_is_never_cut_and_its_entries_fit_a_database(client):
    for number in range(9):
        reject("classifier", "5", by="r" * 300, reason=f'{number} "{"é" * 3000}\x00')
    kept = history("classifier")
    assert [each.why.split()[0] for each in kept] == [str(number) for number in range(9)]
    assert (len(kept[-1].by), len(kept[-1].why)) == (200, 1000)
    assert max(map(len, client.get_registered_model(NAME).tags.values())) < 5000


def test_tags_that_people_put_beside_the_history_are_left(client):
    for key, value in {"history.x": "not JSON", "history.0": "{}", "deciding": "x", "owner": "us"}.items():
        client.set_registered_model_tag(NAME, f"threestage.{key}", value)
    promote("1", "2")
    assert entries() == ["1 approved by reviewer-1", "2 approved by reviewer-1"]
    assert client.get_registered_model(NAME).tags["threestage.history.x"] == "not JSON"


def test_another_namespace_and_another_model_stay_as_they_are(client, monkeypatch):
    register("assistant", 2)
    register("classifier", 2, namespace="team")
    promote("1", "2")
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    assert (aliases(), states(), history("classifier")) == ((None, None, "2"), {}, [])
    monkeypatch.delenv("THREESTAGE_NAMESPACE")
    assert aliases("assistant") == (None, None, "2")
    assert client.get_registered_model("team-classifier").tags == {}


@pytest.mark.parametrize("ask", [standing, history, settle, is_open, lambda model: approve(model, "1", **ME)])
def test_a_registry_that_does_not_answer_is_a_users_error(monkeypatch, ask, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI=http://127.0.0.1:9: nobody answers"):
        ask("classifier")


def test_decisions_on_a_tracking_server_are_the_same(tracking_server, monkeypatch):
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage")
    configure_tracking()
    client = MlflowClient()
    client.create_registered_model(NAME)
    for _ in range(3):
        with mlflow.start_run() as run:
            client.create_model_version(NAME, f"{run.info.artifact_uri}/model", run.info.run_id)
    challenge(client, "3")
    promote("1", "2")
    compare("3")
    tag(client, "3", "approved", why="by hand")
    assert [each.why for each in settle("classifier")] == ["by hand"]
    assert aliases() == ("3", "2", None)
    assert roll_back("classifier", by="reviewer-1", reason="too slow").champion == "2"
    challenge(client, "3")
    compare("3")
    client.delete_model_version(NAME, "3")
    settle("classifier")
    assert [each.event for each in history("classifier") if each.event != "compared"] == [
        *["approved"] * 3,
        "rolled back",
        "withdrawn",
    ]
    assert aliases() == ("2", "1", None)
