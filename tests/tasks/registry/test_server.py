import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llm.errors import UserError
from tasks.registry.server import ServerAwayError, check_server, server_errors, shown_address


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)


def search(url: str) -> None:
    MlflowClient(url).search_experiments()


def artifacts(url: str) -> None:
    get_artifact_repository(f"{url}/api/2.0/mlflow-artifacts/artifacts/1").list_artifacts()


@pytest.mark.parametrize("ask", [search, artifacts])
@pytest.mark.parametrize(
    ("status", "is_away", "message"),
    [
        (401, False, "it refuses (401); one of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD is wrong"),
        (403, False, "it refuses anna this (403); who runs it can allow it"),
        (404, False, ""),
        (500, True, "it went away ("),
        (503, True, "it went away ("),
    ],
)
def test_server_errors_tell_a_refusal_from_trouble_that_may_pass(answering, monkeypatch, ask, status, is_away, message):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with answering(status) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UserError) as caught, server_errors():
            ask(url)
    assert isinstance(caught.value, ServerAwayError) == is_away
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI={url}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ask", [search, artifacts])
def test_server_errors_raise_away_when_nobody_answers(monkeypatch, ask):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url := "http://127.0.0.1:9")
    with pytest.raises(ServerAwayError, match=f"^MLFLOW_TRACKING_URI={url}: it went away"), server_errors():
        ask(url)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, UserError, "it refuses (401); set MLFLOW_TRACKING_USERNAME"),
        (403, UserError, "it refuses you this (403)"),
        (404, UserError, "it answers 404"),
        (429, ServerAwayError, "it answers 429"),
        (503, ServerAwayError, "it answers 503"),
    ],
)
def test_check_server_tells_a_refusal_from_trouble_that_may_pass(answering, monkeypatch, status, kind, message):
    with answering(status) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UserError) as caught:
            check_server(url)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI={url}: {message}")


def test_error_messages_hold_no_password_of_the_address(answering, monkeypatch):
    with answering(401) as url:
        secret = url.replace("//", "//anna:secret@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
        for ask in (check_server, search):
            with pytest.raises(UserError, match=r"it refuses \(401\)") as caught, server_errors():
                ask(secret)
            assert "secret" not in str(caught.value)
    with pytest.raises(ServerAwayError) as caught, server_errors():
        search("http://anna:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)
    assert shown_address("postgresql://mlflow:secret@db/mlflow") == "MLFLOW_TRACKING_URI=postgresql://db/mlflow"


def test_server_errors_pass_on_errors_of_the_file_store(mlflow_store):
    with pytest.raises(MlflowException), server_errors():
        mlflow.get_run("0" * 32)
