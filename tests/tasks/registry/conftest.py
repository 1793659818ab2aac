"""A project of small models to register, the same with a registered version, and a tracking server."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import mlflow
import pytest
from decisions import promote, register
from dvc.repo import Repo
from filelock import FileLock
from mlflow import MlflowClient
from projects import OPENS_STORE, git
from small_models import make_models

from tasks.registry.register import register_model
from tasks.registry.store import configure_tracking

IGNORED = "mlflow.db*\n.threestage/\n.prefect/\nmlartifacts/\ntmp/\nremote/\n__pycache__/\n"


def enter(folder, copy, monkeypatch):
    """Work in a copy of a project, with its store."""
    monkeypatch.chdir(shutil.copytree(folder, copy, dirs_exist_ok=True, symlinks=True))
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy / 'mlflow.db'}")
    configure_tracking()  # the store has moved


def evaluate_with(f1):
    """Give the classifier other evidence."""
    Path("params.yaml").write_text(f"f1: {f1}\n")
    with Repo() as repo:
        repo.reproduce("evaluate@classifier")


@pytest.fixture(scope="session")
def projects(shared):
    """The project of small models, once for all processes: `ran` has no version, `registered` the classifier's first.

    All is in a commit.
    """
    folder, done = shared / "small", shared / "small.done"
    with FileLock(shared / "small.lock"), pytest.MonkeyPatch.context() as patch:
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            (ran := folder / "ran").mkdir(parents=True)
            make_models(ran)
            patch.chdir(ran)
            patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
            with Repo() as repo:
                repo.reproduce()
            Path(".gitignore").write_text(IGNORED)
            git(ran, "add --all")
            git(ran, "commit --quiet --message Small")
            enter(ran, folder / "registered", patch)
            register_model("classifier")
            done.touch()
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def project(projects, tmp_path, monkeypatch):
    """The project without a version."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    enter(projects / "ran", tmp_path, monkeypatch)


@pytest.fixture
def registered_project(projects, tmp_path, monkeypatch):
    """The project with version 1 of the classifier, its challenger."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    enter(projects / "registered", tmp_path, monkeypatch)


def in_store(store, folder, monkeypatch):
    """Work in an empty folder with a copy of a store."""
    shutil.copy(store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    configure_tracking()
    return MlflowClient()


@pytest.fixture(scope="session")
def stores(ready_store, tmp_path_factory):
    """Registries in which `classifier` has five versions without weights: `new`, and `decided` with champion 2."""
    folder = tmp_path_factory.mktemp("five")
    shutil.copy(ready_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)
        configure_tracking()
        register("classifier", 5)
        shutil.copy(folder / "mlflow.db", folder / "new.db")
        promote("1", "2")
        shutil.copy(folder / "mlflow.db", folder / "decided.db")
    mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def new(stores, tmp_path, monkeypatch):
    """MLflow's client, as a person uses it: the challenger is version 5, and no version was decided on."""
    return in_store(stores / "new.db", tmp_path, monkeypatch)


@pytest.fixture
def decided(stores, tmp_path, monkeypatch):
    """The same after version 1 and then version 2 were approved."""
    return in_store(stores / "decided.db", tmp_path, monkeypatch)


@pytest.fixture
def project_params():
    """The models of a params.yaml in this folder."""
    Path("params.yaml").write_text("foundation: {}\napplications: {classifier: {}, assistant: {}}\n")


@pytest.fixture(scope="session")
def server_for_tests(ready_store, tmp_path_factory):
    """A real tracking server with a store of its own."""
    from tasks.stages.prefect import free_port

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(ready_store, folder / "server.db")
    with free_port() as port:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}", "--serve-artifacts"]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        server = subprocess.Popen(command, process_group=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        try:
            while True:
                try:
                    if httpx.get(f"{url}{OPENS_STORE}", timeout=300).is_success:
                        break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    assert server.poll() is None
                time.sleep(0.1)
            yield url
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@pytest.fixture
def tracking_server(server_for_tests, project, monkeypatch, request):
    """In the project, at that server, in a namespace of this test's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_for_tests)
    monkeypatch.setenv("THREESTAGE_NAMESPACE", f"n{abs(hash(request.node.name))}")
    return server_for_tests
