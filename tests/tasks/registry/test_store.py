import re
import shutil
import socket
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path

import mlflow
import pytest
from loopback import Answer, serving
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llm.errors import UserError
from tasks.registry import store
from tasks.registry.store import (
    ServerAwayError,
    check_server,
    configure_tracking,
    namespace,
    server_errors,
)

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"


def test_namespace_on_a_server_names_user_and_machine_and_has_no_dash(monkeypatch):
    assert namespace() == "threestage"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert re.fullmatch(r"threestage\.\w+\.\w+", namespace())
    monkeypatch.setenv("LOGNAME", "anna-maria")
    assert namespace().startswith("threestage.anna_maria.")
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    assert namespace() == "team"
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage-classifier")
    with pytest.raises(UserError, match=r"^THREESTAGE_NAMESPACE=threestage-classifier: only letters, digits, \. and _"):
        namespace()


def test_configure_tracking_timeout_of_a_server_that_is_down_or_never_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store.ANSWERS_WITHIN <= 20
    monkeypatch.setattr(store, "ANSWERS_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for port in (9, listening.getsockname()[1]):
            url = f"http://127.0.0.1:{port}"
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            with pytest.raises(UserError, match=f"^MLFLOW_TRACKING_URI={url}: .*; try again when it answers$"):
                configure_tracking()


def test_configure_tracking_error_for_a_deleted_experiment_and_a_corrupt_file(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_store}")
    configure_tracking()
    MlflowClient().delete_experiment(mlflow.get_experiment_by_name("threestage").experiment_id)
    with pytest.raises(UserError, match="deleted") as caught:
        configure_tracking()
    assert "\n" not in str(caught.value)
    (tmp_path / "broken.db").write_text("this is no database, but it is long enough to look at" * 9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    with pytest.raises(UserError, match=r"broken\.db: .*file is not a database"):
        configure_tracking()


def test_locked_store_is_away_and_a_broken_one_is_not(mlflow_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "LOCKED_FOR", 0.1)
    with closing(sqlite3.connect(mlflow_store, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServerAwayError, match=f"^{mlflow_store}: database is locked; "):
            configure_tracking()
        writer.execute("DROP TABLE experiments")
        writer.execute("COMMIT")
    with pytest.raises(UserError, match=f"^{mlflow_store}: no such ") as broken, server_errors():
        MlflowClient().search_experiments()
    assert not isinstance(broken.value, ServerAwayError)


def test_store_moves_with_its_folder_and_leaves_other_artifacts(ready_store, tmp_path, monkeypatch):
    before = tmp_path / "before"
    after = tmp_path / "after, moved"
    before.mkdir()
    shutil.copy(ready_store, before / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{before}/mlflow.db")
    configure_tracking()
    with mlflow.start_run() as run:
        mlflow.log_text("hello", "said.txt")
    MlflowClient().create_experiment("another", artifact_location="/elsewhere/mlartifacts")
    shutil.copytree(before, after)
    Path(run.info.artifact_uri, "said.txt").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{after}/mlflow.db")
    configure_tracking()
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/said.txt") == "hello"
    assert mlflow.get_experiment_by_name("another").artifact_location == "/elsewhere/mlartifacts"


# ---- errors of a server


@pytest.fixture
def _no_retries(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)


def search(url):
    MlflowClient(url).search_experiments()


def artifacts(url):
    get_artifact_repository(f"{url}/api/2.0/mlflow-artifacts/artifacts/1").list_artifacts()


@pytest.mark.parametrize("ask", [search, artifacts, check_server])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, UserError), (404, UserError), (429, ServerAwayError), (500, ServerAwayError), (None, ServerAwayError)],
)
@pytest.mark.usefixtures("_no_retries")
def test_server_errors_tell_a_refusal_from_trouble_that_may_pass_without_a_password(monkeypatch, ask, status, kind):
    with serving(lambda _: Answer(status)) if status else nullcontext(NOBODY) as url:
        secret = url.replace("//", "//anna:secret@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
        with pytest.raises(UserError, match=str(status or "try again when")) as caught, server_errors():
            ask(secret)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"MLFLOW_TRACKING_URI={url}: ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_server_errors_pass_on_errors_of_the_file_store(mlflow_store):
    with pytest.raises(MlflowException), server_errors():
        mlflow.get_run("0" * 32)
