"""What a tracking server does that a file does not."""

import tempfile

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from small_models import challenger

from app.errors import Unavailable
from app.settings import Settings
from app.versions import Versions
from llm.objectives import CLASSIFY
from tasks.registry.lineage import find_lineage
from tasks.registry.register import register_model, registered
from tasks.registry.server import ServerAwayError, server_errors

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"


def test_a_tracking_server_takes_a_version_and_gives_the_model_back(tracking_server, monkeypatch):
    assert register_model("classifier") == "1"
    (own,) = MlflowClient().search_registered_models()
    assert own.name != NAME  # a laptop moves no alias of the team's without a word
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage")
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, challenger"}
    served = mlflow.pyfunc.load_model("models:/threestage-classifier@challenger")
    table = served.predict(pd.DataFrame({"subject": ["the cat"], "body": ["sat"]}))
    assert table["label"][0] in ("ham", "spam")
    files = [file.path for file in MlflowClient().list_artifacts(challenger().run_id, "lineage")]
    assert "lineage/stages.json" in files
    assert find_lineage("classifier").title == "threestage-classifier version 1 (challenger)"
    model = mlflow.get_logged_model(challenger().source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics}["f1"] == 0.5


def test_what_the_app_fetches_from_a_tracking_server_goes_with_the_version(tracking_server, tmp_path, monkeypatch):
    assert register_model("classifier") == "1"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {*tmp_path.iterdir()}
    versions, failing = Versions(Settings()), Versions(Settings())
    try:
        loaded = versions.get("classifier", CLASSIFY)
        assert loaded.folder.is_relative_to(tmp_path)
        assert (loaded.folder / "model.safetensors").exists()
        with monkeypatch.context() as patched:
            patched.setattr("app.versions.load_for_inference", lambda folder: 1 / 0)
            with pytest.raises(Unavailable, match="ZeroDivisionError"):
                failing.get("classifier", CLASSIFY)
    finally:
        versions.close(0)
        failing.close(0)
    assert {*tmp_path.iterdir()} == before


def test_a_server_that_is_away_is_known_behind_mlflows_word_that_a_model_may_have_been_deleted(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ServerAwayError, match="it went away"), server_errors():
        MlflowClient("http://127.0.0.1:9").set_logged_model_tags("m-1", {"threestage.model": "classifier"})


def test_a_server_that_is_away_is_known_behind_mlflows_word_that_files_could_not_be_fetched(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    artifacts = HttpArtifactRepository("http://127.0.0.1:9/api/2.0/mlflow-artifacts/artifacts/1")
    monkeypatch.setattr(artifacts, "_is_directory", lambda path: False)  # as it said just before
    with pytest.raises(MlflowException, match="following failures") as raised:
        artifacts.download_artifacts("lineage/stages.json")
    with pytest.raises(ServerAwayError, match="it went away"), server_errors():
        raise raised.value


def test_a_tracking_server_that_goes_away_while_a_model_is_registered_is_said_in_a_line(tracking_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log_model = mlflow.pyfunc.log_model

    def last(**arguments: object) -> object:
        logged = log_model(**arguments)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        mlflow.set_tracking_uri("http://127.0.0.1:9")
        return logged

    monkeypatch.setattr(mlflow.pyfunc, "log_model", last)
    with pytest.raises(ServerAwayError, match=r"^MLFLOW_TRACKING_URI=http://127.0.0.1:9: it went away") as caught:
        register_model("classifier")
    assert "\n" not in str(caught.value)
