import re
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from small_models import challenger, run

from flows.gc import main
from tasks.registry.register import DELETED, register_model
from tasks.registry.retention import needed_hashes, old_versions, remove_versions
from tasks.stages.hashes import locked

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"


@pytest.fixture(autouse=True)
def someone(monkeypatch):
    for who in ("AUTHOR", "COMMITTER"):
        for what in ("NAME", "EMAIL"):
            monkeypatch.setenv(f"GIT_{who}_{what}", "test@localhost")


def another(f1):
    """Register the classifier with other evidence."""
    Path("params.yaml").write_text(f"f1: {f1}\n")
    run("dvc", "repro", "-q", "evaluate@classifier")
    return register_model("classifier")


def there():
    return {str(each.version) for each in MlflowClient().search_model_versions(f"name = '{NAME}'")}


@pytest.fixture
def four(project):
    """Four versions, of which the last is the challenger and what is here."""
    return [register_model("classifier"), *(another(f1) for f1 in (0.6, 0.7, 0.8))]


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
