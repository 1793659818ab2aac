import shutil
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from decisions import set_tags
from dvc.repo import Repo
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from projects import git
from small_models import challenger

from llm.errors import UserError
from tasks.registry.decide import compared, settle
from tasks.registry.register import DELETED, register_model
from tasks.registry.tidy import Item, cache_files, old_versions, training_weights
from tasks.stages.hashes import locked, md5_of
from tasks.stages.lock import exclusive
from tests.tasks.registry.conftest import enter, evaluate_with

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
DVC_YAML = """
stages:
  train: {cmd: "mkdir model; cp raw model/weights; cp raw metrics", deps: [raw], outs: [model, metrics]}
"""
LONG_AGO = "2026-01-02T03:04:05Z"
KEEP = Path("locks")  # a copy of dvc.lock for each f1


def another(f1: float) -> str:
    """Register the classifier with other evidence."""
    evaluate_with(f1)
    return register_model("classifier")


def there() -> set[str]:
    """The versions that are in the registry."""
    return {str(version.version) for version in MlflowClient().search_model_versions(f"name = '{NAME}'")}


def old(keep: int = 0, days: float = 30.0) -> list[str]:
    """The versions that may go."""
    names = [version.name.removeprefix(f"{NAME} version ") for version in old_versions(keep, days)]
    return [name.partition(",")[0] for name in names]


def remove(version: str) -> None:
    """Remove a version, as tidy does."""
    (item,) = [item for item in old_versions(1, 30) if item.name.startswith(f"{NAME} version {version}")]
    item.remove()


@pytest.fixture(scope="module")
def made(projects, tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        enter(projects / "registered", folder, patch)
        git(folder, "rm -q --cached dvc.lock")  # so that no commit holds a version
        git(folder, "commit -q --amend -m Unlocked")
        KEEP.mkdir()
        shutil.copy("dvc.lock", KEEP / "0.5")
        for f1 in (0.6, 0.7, 0.8):
            another(f1)
            shutil.copy("dvc.lock", KEEP / str(f1))
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def four(made, tmp_path, monkeypatch):
    """Four versions of one model: the last is the challenger and in this folder, and the others are superseded."""
    enter(made, tmp_path, monkeypatch)


def test_old_versions_keep_aliased_waiting_newest_and_present_ones(four):
    client = MlflowClient()
    assert old(1) == old(0) == ["3", "2", "1"]  # the fourth is the challenger
    client.delete_registered_model_alias(NAME, "challenger")
    assert old() == ["3", "2", "1"]  # and what is here
    client.set_registered_model_alias(NAME, "mine", "2")
    client.set_registered_model_alias(NAME, "challenger", "1")
    compared("classifier", "1", champion=None)
    client.delete_registered_model_alias(NAME, "challenger")
    assert old() == ["3"]
    set_tags(client, "3", state="approved")  # by hand, and no run has seen it yet
    assert old() == []
    assert old(2) == []


def test_old_versions_keep_those_of_a_branch_or_tag_and_of_nightly_branches_for_some_days(four, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_COMMITTER_DATE", LONG_AGO)
    for f1, ref in {0.5: "refs/tags/of-ours", 0.6: "refs/remotes/origin/theirs", 0.7: "refs/heads/retrain/x"}.items():
        git(tmp_path, "checkout -q --detach")
        shutil.copy(KEEP / str(f1), "dvc.lock")
        git(tmp_path, "add --force dvc.lock")
        git(tmp_path, "commit -q -m", ref)
        git(tmp_path, f"update-ref {ref} HEAD")
    shutil.copy(KEEP / "0.8", "dvc.lock")
    assert old() == []
    git(tmp_path, "update-ref refs/remotes/origin/retrain/2026-01-02 refs/heads/retrain/x")
    git(tmp_path, "update-ref refs/heads/retrain/2026-01-02-2 refs/heads/retrain/x")
    git(tmp_path, "branch -q -D retrain/x")
    assert old() == ["3"]
    assert old(days=(time.time() - 1_767_000_000) / 86_400) == []


def test_interrupted_removal_of_a_version_is_completed_and_it_can_be_registered_again(four, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (item,) = [item for item in old_versions(1, 30) if item.name == f"{NAME} version 3, superseded"]
    run_id = MlflowClient().get_model_version(NAME, "3").run_id
    evidence = Path(MlflowClient().get_run(run_id).info.artifact_uri)
    assert item.bytes == sum(path.stat().st_size for path in evidence.rglob("*") if path.is_file()) > 1000
    for step in ("delete_run", "delete_model_version"):
        with monkeypatch.context() as patched:
            patched.setattr(MlflowClient, step, interrupt)
            with pytest.raises(KeyboardInterrupt):
                remove("3")
    remove("3")
    assert there() == {"1", "2", "4"}
    assert not any(path.is_file() for path in evidence.rglob("*"))
    assert another(0.7) == "5"
    assert str(challenger().version) == "5"


def test_rejected_version_stays_rejected_when_it_is_removed(four):
    set_tags(MlflowClient(), "2", state="Rejected")
    assert "2" not in " ".join(old(1))  # nobody has recorded that yet
    settle("classifier")
    remove("2")
    assert another(0.6) == DELETED
    assert str(challenger().version) == "4"


def test_superseded_versions_are_named_and_their_weights_go_after_them(four):
    code = Path("tasks/served.py")
    code.write_text(code.read_text() + "\n# newer\n")
    assert another(0.9) == "5"  # with a model of its own, as the code is newer
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text().replace(locked("finetune@classifier").outs["models/classifier"], "0" * 32))
    superseded = old_versions(1, 30)
    assert [version.name for version in superseded] == [f"{NAME} version {number}, superseded" for number in "4321"]
    assert training_weights(0) == []
    for version in superseded:
        version.remove()
    (weights,) = training_weights(0)
    assert weights.bytes > 10_000
    assert there() == {"5"}


def test_removal_leaves_the_run_and_the_model_of_another_version(four):
    client = MlflowClient()
    first = client.get_model_version(NAME, "1")
    again = client.create_model_version(NAME, first.source, first.run_id)  # "Register model" in MLflow's pages
    client.set_registered_model_alias(NAME, "champion", again.version)
    client.copy_model_version(f"models:/{NAME}/2", "shipped")  # "Promote" there
    assert "1" not in old(1)
    for item in old_versions(1, 30):
        item.remove()
    assert training_weights(0) == []
    for name in (f"{NAME}@champion", "shipped/1"):
        assert mlflow.pyfunc.load_model(f"models:/{name}").predict(pd.DataFrame({"subject": ["the cat"]})) is not None


def test_training_weights_go_after_some_days_unless_a_version_or_a_lock_needs_them(four):
    (model,) = mlflow.search_logged_models(output_format="list")
    client = MlflowClient()
    artifacts = Path(client.get_run(model.source_run_id).info.artifact_uri)
    (artifacts / "checkpoints").mkdir()
    (artifacts / "checkpoints/step-000001.safetensors").write_text("weights")
    (artifacts / "progress.csv").touch()
    killed = client.create_run("1", start_time=1, run_name="finetune@classifier")  # never registered
    client.log_text(killed.info.run_id, "more", "checkpoints/step-000001.safetensors")
    (item,) = training_weights(30)
    assert (item.name, item.bytes) == (f"checkpoints of run {killed.info.run_id}, finetune@classifier", len("more"))
    item.remove()
    client.delete_registered_model(NAME)
    assert training_weights(0) == []  # it is here
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(
        lock.replace(locked("finetune@classifier").outs["models/classifier"], "0" * 32 + ".dir")
    )
    assert training_weights(30) == []
    weights, checkpoints = training_weights(0)
    size = sum(path.stat().st_size for path in Path(model.artifact_location).rglob("*") if path.is_file())
    assert weights.bytes == size > 10_000
    weights.remove()
    assert checkpoints.bytes == len("weights")
    checkpoints.remove()
    assert training_weights(0) == []
    assert (artifacts / "progress.csv").exists()
    assert not any(path.is_file() for path in Path(model.artifact_location).rglob("*"))
    with pytest.raises(MlflowException):
        client.get_logged_model(model.model_id)


def test_old_versions_with_missing_parts_are_removed(four):
    client = MlflowClient()
    Path("nothing").mkdir()
    bare = client.create_model_version(NAME, str(Path("nothing").absolute()))
    client.set_registered_model_alias(NAME, "champion", bare.version)
    assert cache_files(30) is not None
    client.delete_registered_model_alias(NAME, "champion")
    shutil.rmtree(MlflowClient().get_run(client.get_model_version(NAME, "3").run_id).info.artifact_uri)
    assert old() == [str(bare.version), "3", "2", "1"]
    for item in old_versions(0, 30):
        item.remove()
    assert there() == {"4"}


def md5s(files: list[Item]) -> set[str]:
    """The MD5s of files of the cache, which are in their paths."""
    return {Path(file.name).parent.name + Path(file.name).name for file in files}


def test_cache_files_keep_the_data_behind_versions_with_an_alias_or_waiting(four):
    evidence = locked("evaluate@classifier").outs["reports/evaluation/classifier/curve.csv"]
    weights = {md5 for stage in ("pretrain", "finetune@classifier") for md5 in locked(stage).outs.values()}
    client = MlflowClient()
    compared("classifier", "4", champion=None)
    Path("dvc.lock").unlink()
    assert not md5s(cache_files(30)) & {evidence, *weights}
    client.delete_registered_model_alias(NAME, "challenger")
    assert not md5s(cache_files(30)) & {evidence, *weights}  # it waits
    client.delete_model_version(NAME, "4")
    assert {evidence, *weights} <= md5s(cache_files(30))


# ---- DVC's cache


def train(content: str) -> tuple[str, str]:
    """Run the stage on other data; the MD5s of the folder and of the file that it made."""
    Path("raw").write_text(content)
    with Repo() as repo:
        repo.reproduce()
    return md5_of(Path("model")), md5_of(Path("metrics"))


@pytest.fixture
def results(mlflow_store, tmp_path, monkeypatch):
    """A project of one stage, without a version."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init --quiet")
    Repo.init().close()
    Path("dvc.yaml").write_text(DVC_YAML)
    Path(".gitignore").write_text("mlflow.db\n.threestage\nmlartifacts\n")
    return tmp_path


def commit(folder: Path) -> None:
    git(folder, "add --all")
    git(folder, "commit --quiet --message Results")


def test_cache_files_keep_those_of_this_folder_a_branch_or_a_remote(results):
    committed = train("committed")
    commit(results)
    theirs = train("theirs")
    commit(results)
    git(results, "update-ref refs/remotes/origin/theirs HEAD")
    git(results, "reset --quiet --hard HEAD~1")
    gone = train("old and long")
    here = train("here")
    files = cache_files(30)
    assert md5s(files) == {*gone}
    assert [Path(file.name).suffix for file in files] == [".dir", ""], "a listing goes before its files"
    assert min(file.bytes for file in files) == len("old and long")
    for file in files:
        file.remove()
    assert cache_files(30) == []
    for revision, hashes in {"HEAD": committed, "origin/theirs": theirs}.items():
        git(results, f"checkout --quiet --force {revision} -- dvc.lock")
        with Repo() as repo:
            repo.checkout(force=True)
        assert (md5_of(Path("model")), md5_of(Path("metrics"))) == hashes != here


def test_cache_files_leave_a_shared_cache_alone(results, tmp_path_factory):
    train("theirs")
    commit(results)
    git(results, "branch theirs")
    shutil.rmtree(".dvc/cache")
    unused = train("old")
    here = train("here")
    assert md5s(cache_files(30)) == {*unused} - {*here}
    with Repo() as repo, repo.config.edit() as settings:
        settings["cache"]["dir"] = str(tmp_path_factory.mktemp("shared"))
    with pytest.raises(UserError, match="others may share it; `dvc gc --projects`"):
        cache_files(30)


# ---- the command


def test_tidy_command_lists_always_and_removes_when_no_retraining_runs(four, tmp_path, command_line, prefect_api):
    def tidy(*options):
        return command_line(tmp_path, "tidy", *options)

    with exclusive("retrain"):
        code, listing, _ = tidy("--versions", "2")
        assert code == 0
        code, _, error = tidy("--versions", "2", "--yes")
        assert code == 1
        assert "retrain/lock is held by process" in error
    lines = listing.splitlines()
    assert lines[0].startswith("2 versions, ")
    assert lines[1:3] == [f"  {NAME} version 2, superseded", f"  {NAME} version 1, superseded"]
    assert lines[-1].endswith(" MB would go; `make tidy YES=1` removes it")
    assert there() == {"1", "2", "3", "4"}
    code, listing, _ = tidy("--versions", "2", "--yes")
    assert code == 0
    assert listing.endswith(" MB removed\n")
    assert there() == {"3", "4"}
    # A lock that can't be read is named, and the rest is tidied.
    git(tmp_path, "checkout --quiet -b unmerged")
    Path("dvc.lock").write_text("<<<<<<< HEAD\n")
    git(tmp_path, "add --force dvc.lock")
    git(tmp_path, "commit --quiet --message middle")
    shutil.copy(KEEP / "0.8", "dvc.lock")
    code, listing, error = tidy()
    assert code == 1
    assert "not what DVC writes" in error
    assert "0 checkpoints of interrupted trainings" in listing
