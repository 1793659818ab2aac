"""A project of small models to register, and a tracking server."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from projects import OPENS_STORE
from small_models import make_models, run


@pytest.fixture(scope="session")
def blank(tmp_path_factory) -> Path:
    """Its graph never ran."""
    folder = tmp_path_factory.mktemp("blank")
    make_models(folder)
    return folder


@pytest.fixture(scope="session")
def ran(blank, tmp_path_factory):
    folder = shutil.copytree(blank, tmp_path_factory.mktemp("ran"), dirs_exist_ok=True)
    run("dvc", "repro", "-q", folder=folder)
    return folder


def enter(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shutil.copytree(folder, tmp_path, dirs_exist_ok=True))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


@pytest.fixture
def unrun(blank, tmp_path, monkeypatch):
    enter(blank, tmp_path, monkeypatch)


@pytest.fixture
def project(ran, tmp_path, monkeypatch):
    enter(ran, tmp_path, monkeypatch)


@pytest.fixture
def tracking_server(project, tmp_path, monkeypatch, port, ready_store):
    """A real tracking server with a store of its own."""
    shutil.copy(ready_store, tmp_path / "server.db")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--serve-artifacts"]
    command += ["--artifacts-destination", str(tmp_path / "server")]
    server = subprocess.Popen(command, process_group=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{url}{OPENS_STORE}", timeout=300).is_success:
                    break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                assert server.poll() is None
            time.sleep(0.1)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.fixture
def answering() -> Callable[[int], AbstractContextManager[str]]:
    """Make a server on loopback that answers everything with one status."""

    @contextmanager
    def answer(status: int) -> Iterator[str]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(status)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()

    return answer
