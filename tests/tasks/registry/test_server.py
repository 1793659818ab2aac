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


@pytest.mark.parametrize("ask", [search, artifacts, check_server])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, UserError),
        (403, UserError),
        (404, UserError),
        (429, ServerAwayError),
        (500, ServerAwayError),
        (503, ServerAwayError),
    ],
)
def test_server_errors_tell_a_refusal_from_trouble_that_may_pass(answering, monkeypatch, ask, status, kind):
    with answering(status) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UserError, match=str(status)) as caught, server_errors():
            ask(url)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI={url}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ask", [search, artifacts, check_server])
def test_server_errors_raise_away_when_nobody_answers(monkeypatch, ask):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url := "http://127.0.0.1:9")
    with pytest.raises(ServerAwayError, match=f"^MLFLOW_TRACKING_URI={url}: .*; try again when"), server_errors():
        ask(url)


def test_error_messages_hold_no_password_of_the_address(answering, monkeypatch):
    with answering(401) as url:
        secret = url.replace("//", "//anna:secret@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
        for ask in (check_server, search):
            with pytest.raises(UserError, match="401") as caught, server_errors():
                ask(secret)
            assert "secret" not in str(caught.value)
    with pytest.raises(ServerAwayError) as caught, server_errors():
        search("http://anna:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)
    assert shown_address("postgresql://mlflow:secret@db/mlflow") == "MLFLOW_TRACKING_URI=postgresql://db/mlflow"


def test_server_errors_pass_on_errors_of_the_file_store(mlflow_store):
    with pytest.raises(MlflowException), server_errors():
        mlflow.get_run("0" * 32)
