import re
import socket
import sqlite3

import mlflow
import pytest
from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry import server
from tasks.registry.store import configure_tracking, namespace

pytestmark = pytest.mark.slow


def test_namespace_on_a_server_names_user_and_machine_and_has_no_dash(monkeypatch):
    assert namespace() == "threestage"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert re.fullmatch(r"threestage\.\w+\.\w+", namespace())
    users = ("LOGNAME", "USER", "LNAME", "USERNAME")
    with monkeypatch.context() as nobody:
        for variable in users:
            nobody.delenv(variable, raising=False)
        nobody.setattr("pwd.getpwuid", {}.__getitem__)
        with pytest.raises(UserError, match="nobody knows who you are: set THREESTAGE_NAMESPACE"):
            namespace()
    for variable in users:
        monkeypatch.setenv(variable, "anna-maria")
    assert namespace().startswith("threestage.anna_maria.")
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    assert namespace() == "team"
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage-classifier")
    with pytest.raises(UserError, match=r"^THREESTAGE_NAMESPACE=threestage-classifier: only letters, digits, \. and _"):
        namespace()


def test_configure_tracking_timeout_of_a_server_that_is_down_or_never_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert server.ANSWERS_WITHIN <= 20
    monkeypatch.setattr(server, "ANSWERS_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for port in (9, listening.getsockname()[1]):
            url = f"http://127.0.0.1:{port}"
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            with pytest.raises(UserError, match=f"^MLFLOW_TRACKING_URI={url}: .*; try again when it answers$"):
                configure_tracking()


def test_configure_tracking_error_for_a_deleted_experiment_a_locked_store_and_a_corrupt_file(
    mlflow_store, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_store}")
    configure_tracking()
    MlflowClient().delete_experiment(mlflow.get_experiment_by_name("threestage").experiment_id)
    with pytest.raises(UserError, match="deleted") as caught:
        configure_tracking()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr("tasks.registry.store.LOCKED_FOR", 0.1)
    with sqlite3.connect(mlflow_store) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"mlflow\.db: database is locked; is it .* nobody else writes now"):
            configure_tracking()
    (tmp_path / "broken.db").write_text("this is no database, but it is long enough to look at" * 9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    with pytest.raises(UserError, match=r"broken\.db: file is not a database; is it a store of MLflow's"):
        configure_tracking()
