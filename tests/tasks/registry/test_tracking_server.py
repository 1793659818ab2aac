"""A version and a download on a tracking server, and how it goes away."""

import tempfile

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from app.settings import Settings
from app.versions import Versions
from llm.objectives import CLASSIFY
from tasks.registry.register import register_model, registered
from tasks.registry.store import ServerAwayError, namespace, server_errors

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def away(monkeypatch):
    """No server, and nobody waits for it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)


def test_tracking_server_takes_a_version_and_gives_the_model_back(tracking_server, monkeypatch):
    monkeypatch.delenv("THREESTAGE_NAMESPACE")  # a laptop moves no alias of the team's without a word
    assert register_model("classifier") == "1"
    client = MlflowClient()
    own = f"{namespace()}-classifier"
    assert own != "threestage-classifier"
    assert [str(version.version) for version in client.search_model_versions(f"name = '{own}'")] == ["1"]
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage")
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, challenger, pending"}
    version = client.get_model_version_by_alias("threestage-classifier", "challenger")
    assert {"card.md", "dvc.lock"} <= {file.path for file in client.list_artifacts(version.run_id)}
    model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics}["f1"] == 0.5


def test_app_removes_the_downloads_of_its_versions(tracking_server, tmp_path, monkeypatch):
    assert register_model("classifier") == "1"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {*tmp_path.iterdir()}
    versions = Versions(Settings())
    folder = versions.get("classifier", CLASSIFY).folder
    assert folder.is_relative_to(tmp_path)
    assert (folder / "model.safetensors").exists()
    versions.close(0)
    assert {*tmp_path.iterdir()} == before


def test_registration_error_when_the_tracking_server_goes_away(tracking_server, monkeypatch):
    log_model = mlflow.pyfunc.log_model

    def log_and_lose_server(**arguments):
        logged = log_model(**arguments)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
        mlflow.set_tracking_uri(NOBODY)
        return logged

    monkeypatch.setattr(mlflow.pyfunc, "log_model", log_and_lose_server)
    with pytest.raises(ServerAwayError, match=rf"^MLFLOW_TRACKING_URI={NOBODY}: .*; try again when it answers.*$"):
        register_model("classifier")


def test_server_errors_see_an_absent_server_behind_a_failed_download(away, monkeypatch):
    artifacts = HttpArtifactRepository(f"{NOBODY}/api/2.0/mlflow-artifacts/artifacts/1")
    monkeypatch.setattr(artifacts, "_is_directory", lambda path: False)  # as it answered just before
    with pytest.raises(MlflowException, match="following failures") as raised:
        artifacts.download_artifacts("dvc.lock")
    with pytest.raises(ServerAwayError, match="try again when it answers"), server_errors():
        raise raised.value
