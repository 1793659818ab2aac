import shutil
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from decisions import set_tags
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from small_models import challenger

from tasks.registry.decide import compared, settle
from tasks.registry.register import DELETED, register_model
from tasks.registry.tidy import old_versions, unused_weights
from tasks.stages.lock import exclusive
from tests.tasks.registry.conftest import enter, evaluate_with

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"


def another(f1: float) -> str:
    """Register the classifier with other evidence."""
    evaluate_with(f1)
    return register_model("classifier")


def there() -> set[str]:
    """The versions that are in the registry."""
    return {str(version.version) for version in MlflowClient().search_model_versions(f"name = '{NAME}'")}


def old(days: float = 0) -> list[str]:
    """The versions that may go."""
    names = [version.name.removeprefix(f"{NAME} version ") for version in old_versions(days)]
    return [name.partition(",")[0] for name in names]


def remove(version: str) -> None:
    """Remove a version, as tidy does."""
    (item,) = [item for item in old_versions(0) if item.name.startswith(f"{NAME} version {version}")]
    item.remove()


@pytest.fixture(scope="module")
def made(projects, tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        enter(projects / "registered", folder, patch)
        for f1 in (0.6, 0.7, 0.8):
            another(f1)
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def four(made, tmp_path, monkeypatch):
    """Four versions of one model: the last is the challenger, and the others are superseded."""
    enter(made, tmp_path, monkeypatch)


def test_old_versions_are_superseded_or_rejected_ones_without_an_alias(four):
    client = MlflowClient()
    assert old() == ["3", "2", "1"]  # the fourth is the challenger
    assert old(days=30) == []
    client.set_registered_model_alias(NAME, "mine", "2")
    client.set_registered_model_alias(NAME, "challenger", "1")
    compared("classifier", "1", champion=None)
    client.delete_registered_model_alias(NAME, "challenger")
    assert old() == ["3"]  # the first waits, and nobody decided on the fourth
    set_tags(client, "3", state="approved")  # by hand, and no run has seen it yet
    assert old() == []


def test_interrupted_removal_of_a_version_is_completed_and_it_can_be_registered_again(four, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    run_id = MlflowClient().get_model_version(NAME, "3").run_id
    evidence = Path(MlflowClient().get_run(run_id).info.artifact_uri)
    assert any(path.is_file() for path in evidence.rglob("*"))
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
    assert "2" not in " ".join(old())  # nobody has recorded that yet
    settle("classifier")
    remove("2")
    assert another(0.6) == DELETED
    assert str(challenger().version) == "4"


def test_weights_of_superseded_versions_go_after_them(four):
    code = Path("tasks/served.py")
    code.write_text(code.read_text() + "\n# newer\n")
    assert another(0.9) == "5"  # with a model of its own, as the code is newer
    superseded = old_versions(0)
    assert [version.name for version in superseded] == [f"{NAME} version {number}, superseded" for number in "4321"]
    assert unused_weights(0) == []
    for version in superseded:
        version.remove()
    (weights,) = unused_weights(0)
    weights.remove()
    assert there() == {"5"}
    assert mlflow.pyfunc.load_model(f"models:/{NAME}/5") is not None


def test_removal_leaves_the_run_and_the_model_of_another_version(four):
    client = MlflowClient()
    first = client.get_model_version(NAME, "1")
    again = client.create_model_version(NAME, first.source, first.run_id)  # "Register model" in MLflow's pages
    client.set_registered_model_alias(NAME, "champion", again.version)
    client.copy_model_version(f"models:/{NAME}/2", "shipped")  # "Promote" there
    assert "1" not in old()
    for item in old_versions(0):
        item.remove()
    assert unused_weights(0) == []
    for name in (f"{NAME}@champion", "shipped/1"):
        assert mlflow.pyfunc.load_model(f"models:/{name}").predict(pd.DataFrame({"subject": ["the cat"]})) is not None


def test_unused_weights_go_after_some_days_unless_a_version_serves_them(four):
    (model,) = mlflow.search_logged_models(output_format="list")
    client = MlflowClient()
    artifacts = Path(client.get_run(model.source_run_id).info.artifact_uri)
    (artifacts / "checkpoints").mkdir()
    (artifacts / "checkpoints/step-000001.safetensors").write_text("weights")
    (artifacts / "progress.csv").touch()
    killed = client.create_run("1", start_time=1, run_name="finetune@classifier")  # never registered
    client.log_text(killed.info.run_id, "more", "checkpoints/step-000001.safetensors")
    (item,) = unused_weights(30)
    assert item.name == f"checkpoints of run {killed.info.run_id}, finetune@classifier"
    item.remove()
    assert unused_weights(0) == []  # versions serve it
    client.delete_registered_model(NAME)
    assert unused_weights(30) == []
    for item in unused_weights(0):
        item.remove()
    assert unused_weights(0) == []
    assert (artifacts / "progress.csv").exists()
    assert not (artifacts / "checkpoints").exists()
    assert not Path(model.artifact_location).exists()
    with pytest.raises(MlflowException):
        client.get_logged_model(model.model_id)


def test_checkpoints_of_a_running_training_stay(four):
    client = MlflowClient()
    run = client.create_run("1", run_name="pretrain")
    client.log_text(run.info.run_id, "weights", "checkpoints/step-000001.safetensors")
    assert unused_weights(0) == []
    client.set_terminated(run.info.run_id)
    assert [item.name for item in unused_weights(0)] == [f"checkpoints of run {run.info.run_id}, pretrain"]


def test_old_versions_with_missing_evidence_are_removed(four):
    client = MlflowClient()
    shutil.rmtree(client.get_run(client.get_model_version(NAME, "3").run_id).info.artifact_uri)
    for item in old_versions(0):
        item.remove()
    assert there() == {"4"}


def test_tidy_command_lists_always_and_removes_when_no_retraining_runs(four, tmp_path, command_line):
    def tidy(*options):
        return command_line(tmp_path, "tidy", "--days", "0", *options)

    with exclusive("retrain"):
        code, listing, _ = tidy()
        assert code == 0
        code, _, error = tidy("--yes")
        assert code == 1
        assert "retrain/lock is held by process" in error
    first, second, third, end = listing.splitlines()
    assert [first, second, third] == [f"{NAME} version {number}, superseded" for number in "321"]
    assert end.startswith("`threestage tidy --yes` removes it")
    assert there() == {"1", "2", "3", "4"}
    code, listing, _ = tidy("--yes")
    assert code == 0
    assert listing.endswith("removed\n")
    assert there() == {"4"}
