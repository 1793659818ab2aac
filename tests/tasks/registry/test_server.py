import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llm.errors import UserError
from tasks.registry.server import ServerAwayError, check_server, place, server_errors


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)


def asked(url: str) -> None:
    MlflowClient(url).search_experiments()


def artifacts(url: str) -> None:
    get_artifact_repository(f"{url}/api/2.0/mlflow-artifacts/artifacts/1").list_artifacts()


@pytest.mark.parametrize("ask", [asked, artifacts])
@pytest.mark.parametrize(
    ("status", "away", "said"),
    [
        (401, False, "it refuses (401); one of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD is wrong"),
        (403, False, "it refuses anna this (403); who runs it can allow it"),
        (404, False, ""),
        (500, True, "it went away ("),
        (503, True, "it went away ("),
    ],
)
def test_a_refusal_is_told_from_trouble_that_may_pass(answering, monkeypatch, ask, status, away, said):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with answering(status) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UserError) as caught, server_errors():
            ask(url)
    assert isinstance(caught.value, ServerAwayError) == away
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI={url}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ask", [asked, artifacts])
def test_a_server_that_is_gone_is_away(monkeypatch, ask):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url := "http://127.0.0.1:9")
    with pytest.raises(ServerAwayError, match=f"^MLFLOW_TRACKING_URI={url}: it went away"), server_errors():
        ask(url)


@pytest.mark.parametrize(("status", "kind"), [(403, UserError), (404, UserError), (429, ServerAwayError)])
def test_the_first_request_tells_them_apart_too(answering, status, kind):
    with answering(status) as url, pytest.raises(UserError) as caught:
        check_server(url)
    assert type(caught.value) is kind


def test_a_password_in_the_address_is_in_no_message(answering, monkeypatch):
    with answering(401) as url:
        secret = url.replace("//", "//anna:secret@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
        for ask in (check_server, asked):
            with pytest.raises(UserError, match=r"it refuses \(401\)") as caught, server_errors():
                ask(secret)
            assert "secret" not in str(caught.value)
    with pytest.raises(ServerAwayError) as caught, server_errors():
        asked("http://anna:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)
    assert place("postgresql://mlflow:secret@db/mlflow") == "MLFLOW_TRACKING_URI=postgresql://db/mlflow"


def test_what_a_file_store_raises_stays_as_it_is(mlflow_store):
    with pytest.raises(MlflowException), server_errors():
        mlflow.get_run("0" * 32)
