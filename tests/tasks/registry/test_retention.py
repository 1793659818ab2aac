import re
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from small_models import challenger, run

from flows.gc import main
from tasks.registry.register import DELETED, register_model
from tasks.registry.retention import needed_hashes, old_versions, remove_versions
from tasks.registry.tracking import configure_tracking
from tasks.stages.hashes import locked
from tests.tasks.registry.conftest import enter

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"


@pytest.fixture(autouse=True, scope="module")
def someone():
    with pytest.MonkeyPatch.context() as patch:
        for who in ("AUTHOR", "COMMITTER"):
            for what in ("NAME", "EMAIL"):
                patch.setenv(f"GIT_{who}_{what}", "test@localhost")
        yield


def another(f1):
    """Register the classifier with other evidence."""
    Path("params.yaml").write_text(f"f1: {f1}\n")
    run("dvc", "repro", "-q", "evaluate@classifier")
    return register_model("classifier")


def there():
    return {str(each.version) for each in MlflowClient().search_model_versions(f"name = '{NAME}'")}


@pytest.fixture(scope="module")
def made(ran, tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        enter(ran, folder, patch)
        register_model("classifier")
        for f1 in (0.6, 0.7, 0.8):
            another(f1)
    return folder


@pytest.fixture
def four(made, tmp_path, monkeypatch):
    """Four versions, of which the last is the challenger and what is here."""
    enter(made, tmp_path, monkeypatch)
    configure_tracking()  # the store has moved


def test_what_has_an_alias_is_reviewed_here_or_among_the_newest_stays(four):
    client = MlflowClient()
    assert [each.version for each in old_versions(1)] == ["3", "2", "1"]
    assert [each.version for each in old_versions(0)] == ["3", "2", "1"]  # the fourth is the challenger
    client.delete_registered_model_alias(NAME, "challenger")
    assert [each.version for each in old_versions(0)] == ["3", "2", "1"]  # and what is here
    client.set_registered_model_alias(NAME, "champion", "2")
    client.set_model_version_tag(NAME, "1", "threestage.review", "pending")
    assert [each.version for each in old_versions(0)] == ["3"]
    assert old_versions(2) == []


def test_what_a_branch_or_a_tag_has_stays(four):
    run("git", "commit", "-q", "--allow-empty", "-m", "without a dvc.lock")
    for f1, name in ((0.6, "branch"), (0.5, "tag")):
        another(f1)
        run("git", "checkout", "-q", "--detach")
        run("git", "add", "--force", "dvc.lock")
        run("git", "commit", "-q", "-m", name)
        run("git", name, "others")
    another(0.8)
    assert [each.version for each in old_versions(0)] == ["3"]
    run("git", "branch", "-D", "others")
    assert [each.version for each in old_versions(0)] == ["3", "2"]


def test_a_version_goes_with_its_bytes_and_is_registered_anew_when_it_is_made_again(four):
    (old,) = (each for each in old_versions(1) if each.version == "3")
    model, evidence = (Path(place) for place in old.places)
    size = sum(path.stat().st_size for folder in (model, evidence) for path in folder.rglob("*") if path.is_file())
    assert old.bytes == size > 10_000
    remove_versions([old])
    assert there() == {"1", "2", "4"}
    assert not any(path.is_file() for folder in (model, evidence) for path in folder.rglob("*"))
    with pytest.raises(MlflowException):
        MlflowClient().get_logged_model(old.model)
    assert another(0.7) == "5"
    assert str(challenger().version) == "5"


def test_a_removal_that_is_interrupted_goes_on_and_nobody_seems_to_have_deleted_a_version(four, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    for step in ("delete_run", "delete_model_version"):
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                remove_versions(each for each in old_versions(1) if each.version == "3")
    remove_versions(each for each in old_versions(1) if each.version == "3")
    assert there() == {"1", "2", "4"}
    assert another(0.7) == "5"


def test_what_another_version_serves_too_stays(four):
    client = MlflowClient()
    first = client.get_model_version(NAME, "1")
    again = client.create_model_version(NAME, first.source, first.run_id)  # "Register model" in MLflow's pages
    client.set_registered_model_alias(NAME, "champion", again.version)
    client.copy_model_version(f"models:/{NAME}/2", "shipped")  # "Promote" there
    assert [each.version for each in old_versions(1)] == ["3"]
    remove_versions(old_versions(1))
    for name in (f"{NAME}@champion", "shipped/1"):
        assert mlflow.pyfunc.load_model(f"models:/{name}").predict(pd.DataFrame({"subject": ["the cat"]})) is not None
    client.delete_registered_model("shipped")
    assert [each.version for each in old_versions(1)] == ["2"]


def test_versions_of_which_something_is_missing_go_and_keep_nothing_from_going(four):
    client = MlflowClient()
    client.delete_logged_model(next(each for each in old_versions(1) if each.version == "3").model)
    Path("nothing").mkdir()
    without_run = client.create_model_version(NAME, str(Path("nothing").absolute()))
    copy = client.copy_model_version(f"models:/{NAME}/2", NAME)
    client.set_registered_model_alias(NAME, "champion", without_run.version)
    assert needed_hashes() is not None
    client.delete_registered_model_alias(NAME, "champion")
    assert {each.version for each in old_versions(0)} == {"1", "2", "3", str(without_run.version), str(copy.version)}
    remove_versions(old_versions(0))
    assert there() == {"4"}


def test_what_was_rejected_stays_rejected_when_its_version_is_gone(four):
    MlflowClient().set_model_version_tag(NAME, "2", "threestage.review", "Rejected")
    (old,) = (each for each in old_versions(1) if each.version == "2")
    assert old.rejected
    remove_versions([old])
    assert another(0.6) == DELETED
    assert str(challenger().version) == "4"


def test_the_hashes_of_all_stages_behind_a_version_with_an_alias_are_needed(four):
    needed = needed_hashes()
    for stage in ("pretrain", "finetune@classifier", "evaluate@classifier"):
        hashes = locked(stage)
        assert {*hashes.deps.values(), *hashes.outs.values()} <= needed
    evidence = locked("evaluate@classifier").outs["reports/evaluation/classifier/curve.csv"]
    metrics = locked("evaluate@classifier").outs["reports/evaluation/classifier/metrics.json"]
    assert {evidence, metrics} <= needed
    another(0.9)
    assert metrics not in needed_hashes()


def test_a_lock_that_can_not_be_read_is_named_and_leaves_the_rest_to_be_tidied(four, monkeypatch, capsys, prefect_api):
    blob = "printf '100644 blob %s\\tdvc.lock\\n' $(echo '<<<<<<< HEAD' | git hash-object -w --stdin)"
    run("sh", "-c", f"git branch unmerged $(git commit-tree $({blob} | git mktree) -m middle)")
    assert collect(monkeypatch) == 1
    said = capsys.readouterr()
    assert "error: versions: dvc.lock of refs/heads/unmerged: not what DVC writes" in said.err
    assert re.search(r"^0 checkpoints .*$", said.out, re.M)
    assert re.search(r"^0 runs in Prefect; what stays", said.out, re.M)


def collect(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["gc", *options])
    return main()


def test_the_command_says_what_would_go_and_removes_it_when_told_to(four, monkeypatch, capsys, prefect_api):
    assert collect(monkeypatch, "--versions", "2") == 0
    said = capsys.readouterr().out
    assert re.search(
        rf"^2 versions, \d+\.\d MB; what stays: the newest 2 .*\n  {NAME} version 2\n  {NAME} version 1$", said, re.M
    )
    assert re.search(r"^\d+\.\d MB would go; `make gc YES=1` removes it$", said, re.M)
    assert there() == {"1", "2", "3", "4"}
    assert collect(monkeypatch, "--versions", "2", "--yes") == 0
    assert "MB removed" in capsys.readouterr().out
    assert there() == {"3", "4"}
    run("dvc", "status")
    assert collect(monkeypatch, "--versions", "2", "--yes") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0.0 MB removed"
