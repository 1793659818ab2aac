"""A registry of small models and a real server over it, made once; the command line over the same."""

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import mlflow
import psutil
import pytest
import uvicorn
from fastapi import FastAPI
from mlflow import MlflowClient
from projects import ROOT, environment
from small_models import write_model
from typer.testing import CliRunner, Result

from app.api.server import create_app, http_config
from app.feedback import Feedback
from app.page.mount import mount_page
from app.registry import RegisteredVersion, VersionName
from app.settings import Settings
from cli.main import cli
from tasks.registry.store import configure_tracking

CHARSETS = {
    charset: f"From: a@b.example\nSubject: Lunch\nContent-Type: text/plain; charset={charset}\n"
    f"Content-Transfer-Encoding: 8bit\n\n{body}\n".encode(charset)
    for charset, body in {
        "iso-8859-2": "Cześć, proszę zapłacić za obiad we środę",
        "koi8-r": "Привет, увидимся в среду",
    }.items()
}
"""Mails in charsets that only their headers name: Polish, Russian."""
UNAPPROVED = "threestage-classifier/1 is not approved: its model has had no champion yet\n"
"""A line on stderr about the shared registry's classifier."""
DATASETS = {"classifier": "emails", "foundation": "corpus"}


def register(folder: Path, model: str, *aliases: str) -> str:
    """A version of a model folder as `register` leaves it, but for its evidence; gives its number."""
    configure_tracking()
    client, name = MlflowClient(), f"threestage-{model}"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    with mlflow.start_run() as run:
        logged = mlflow.pyfunc.log_model(
            name=model, python_model="tasks/served.py", artifacts={"model": str(folder)}, pip_requirements=["mlflow"]
        )
        mlflow.log_param("dataset", DATASETS.get(model, "instructions"))
    version = client.create_model_version(
        name, logged.model_uri, run.info.run_id, model_id=logged.model_id, description=f"A small {model}."
    )
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version.version)
    return str(version.version)


@contextmanager
def tracked(folder: Path) -> Iterator[None]:
    """The store in `folder`, for fixtures that outlive a test."""
    mlflow.set_tracking_uri(None)  # which forgets the variable, too
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def registry(tmp_path_factory) -> Path:
    """A store in which the assistant has a champion and a challenger, the others a challenger. Look at it only."""
    folder = tmp_path_factory.mktemp("registry")
    with tracked(folder):
        register(write_model(folder / "assistant-1/assistant", "assistant", 1), "assistant", "champion")
        register(write_model(folder / "assistant-2/assistant", "assistant", 2), "assistant", "challenger")
        register(write_model(folder / "classifier-1/classifier", "classifier", 3), "classifier", "challenger")
        register(write_model(folder / "foundation-1/foundation", "foundation", 4), "foundation", "challenger")
    return folder


def listed_version(name: str, *capabilities: str, is_default: bool = True) -> RegisteredVersion:
    """A version as a list of the registry has it, from a name such as `classifier/1`."""
    return RegisteredVersion(
        name=VersionName(*name.split("/")),
        aliases=(),
        created=0,
        description="",
        capabilities=capabilities,
        is_default=is_default,
    )


@pytest.fixture
def store(registry, tmp_path):
    """A copy of the shared registry, in which the assistant's version 1 is champion and 2 challenger."""
    shutil.copytree(registry, tmp_path, dirs_exist_ok=True)
    with tracked(tmp_path):
        configure_tracking()  # the store has moved
        yield tmp_path


@contextmanager
def running(settings: Settings, *, page: bool = False) -> Iterator[str]:
    """A real server of its own on a port of its own; its address, when it is ready."""
    app = create_app(settings)
    if page:
        mount_page(app)
    with ready(app) as address:
        yield address


@contextmanager
def ready(app: FastAPI) -> Iterator[str]:
    """An application of ours on a port of its own; its address, when default versions are loaded."""
    with listening(http_config(app, "127.0.0.1", 0, log_level="warning")) as address:
        wait_until(lambda: is_ready(address), 120)
        yield address


@contextmanager
def listening(config: uvicorn.Config) -> Iterator[str]:
    """An application on a port of its own; its address."""
    own = socket.create_server(("127.0.0.1", 0))  # from here on nobody else's; the server closes it
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([own],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{own.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def get(address: str, path: str) -> httpx.Response:
    return httpx.get(f"{address}{path}", timeout=300)


def post(address: str, path: str, body: dict, **headers: str) -> httpx.Response:
    return httpx.post(f"{address}{path}", json=body, headers=headers, timeout=300)


def readiness(address: str) -> dict:
    """The answer of /readyz."""
    return get(address, "/readyz").json()


def is_ready(address: str) -> bool:
    """Whether a server has its default versions; one that does not listen yet has none."""
    with suppress(httpx.TransportError):
        return get(address, "/readyz").status_code == 200
    return False


def wait_until(what: Callable[[], bool], seconds: float) -> None:
    """Wait for something to become true, so long that only what hangs takes it."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def quarantine(tmp_path_factory) -> Path:
    """Where feedback to the shared server waits."""
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="session")
def app(registry, quarantine) -> FastAPI:
    """The shared server's application: four rows, and eight places to wait."""
    return create_app(Settings(quarantine=quarantine, rows=4, queue=8, poll_seconds=0.5))


@pytest.fixture(scope="session")
def server(registry, app) -> Iterator[str]:
    """The address of one server over `registry` for the session."""
    with tracked(registry), ready(app) as address:
        yield address


@pytest.fixture
def change_settings(app) -> Iterator[Callable[..., None]]:
    """Other settings for the shared server's requests, as long as the test runs."""
    before = app.state.settings

    def change(**values: float) -> None:
        app.state.settings = before.model_copy(update=values)

    yield change
    app.state.settings = before


@pytest.fixture
def threestage(registry, tmp_path, monkeypatch):
    """Run the command line in this process, over the shared registry, from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, stdin: str | bytes = "") -> Result:
        with tracked(registry):
            return CliRunner().invoke(cli, arguments, input=stdin)

    return call


def shell(line: str, folder: Path, registry: Path, **streams) -> subprocess.Popen:
    """A line of bash, in which `threestage` is the real command."""
    variables = environment(MLFLOW_TRACKING_URI=f"sqlite:///{registry / 'mlflow.db'}", PYTHONPATH=str(ROOT))
    begin = f'set -o pipefail; threestage() {{ "{sys.executable}" -m cli "$@"; }}; '
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(["bash", "-c", begin + line], cwd=folder, env=variables, text=True, **(pipes | streams))


def error_of(result: Result, code: int = 1) -> str:
    """The one line that was said."""
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


def rows_of(text: str) -> list[dict]:
    """JSON lines; only \\n ends one, as a string in them may have U+2028."""
    return [json.loads(line) for line in text.encode().splitlines()]


def talk(turns: Iterable[str]) -> list[dict[str, str]]:
    """The messages of a conversation, whose first turn is the user's."""
    return [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]


def feedback_rows(folder: Path, dataset: str) -> list[dict]:
    """The rows of a dataset that wait."""
    waiting = Feedback(Settings(quarantine=folder)).waiting()
    return [dict(feedback.row) for feedback in waiting if feedback.dataset == dataset]


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def any_alive(pids: list[int]) -> bool:
    return any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
