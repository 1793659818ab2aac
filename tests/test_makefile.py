"""Set-up and servers fail in a line that helps. The real Makefile runs; what it would install or start is a stub."""

import importlib.metadata
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from installed import with_requirements
from packaging.utils import canonicalize_name
from packaging.version import Version
from projects import ROOT, environment, free_ports
from real_servers import wait_for

pytestmark = pytest.mark.slow

OLD_PYTHON = """#!/bin/sh
exec "{python}" -c 'import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])' "$@"
"""
PYTHON = """#!/bin/sh
# Answers `-c` and `-V` as a real Python does, makes a .venv of itself, and writes down all else.
case "$1 $2" in
  "-c "* | "-V "*) exec "{python}" "$@";;
  "-m venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/threestage;;
esac
echo "$@" >> calls
"""
SET_UP = [
    "-m venv --clear .venv",
    "-m pip install --quiet --no-compile --constraint requirements.lock --upgrade pip>=25",
    "-m pip install --quiet --no-compile --constraint requirements.lock --editable .[app]",
    "-m tasks.stages.libraries",
]
TOOLS = "-m pip install --quiet --no-compile --constraint requirements.lock --editable .[dev]"
QUICK = "-m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m not slow"
SERVERS = {"mlflow": "MLflow", "uvicorn": "Prefect"}
"""The commands of `make ui`, and which server each starts."""
MADE_ANEW = ".venv is broken, of another Python or of another folder: it is made anew"


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return path


def _command(folder: Path, *arguments: str) -> dict:
    """How `make` is started: with the folder's python3 before all others, not as a child of another make."""
    variables = environment()
    for name in ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "MLFLOW_PORT", "PREFECT_PORT"):
        variables.pop(name, None)
    variables["PATH"] = f"{folder / 'path'}:{variables['PATH']}"
    return {"args": ["make", *arguments], "cwd": folder, "env": variables, "text": True}


def _make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**_command(folder, *arguments), capture_output=True, timeout=300)


def _calls(folder: Path) -> list[str]:
    file = folder / "calls"
    calls = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return calls


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a space in its name, the Makefile and what it reads, and a python3 that installs nothing."""
    folder = tmp_path / "a project"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    _script(folder / "path/python3", PYTHON)
    for name in ("chromium", "initdb", "g++", "go"):
        _script(folder / "path" / name, "#!/bin/sh\n")
    return folder


@pytest.fixture
def ready(folder) -> Path:
    """The same after set-up."""
    assert _make(folder, "test-quick").returncode == 0
    assert _calls(folder) == [*SET_UP, TOOLS, QUICK]
    return folder


@pytest.mark.parametrize(("name", "version"), [("python3", "Python 3.9.2"), ("python3.99", "missing")])
def test_python_that_is_too_old_or_missing_is_an_error_on_one_line(folder, name, version):
    _script(folder / "path/python3", OLD_PYTHON)
    done = _make(folder, "test-quick", *([] if name == "python3" else [f"PYTHON={name}"]))
    way_out = "3.11 or newer is needed: name another, as in make run PYTHON=python3.12"
    assert (done.returncode, done.stdout) == (2, f"{name} is {version}; {way_out}\n")
    assert not (folder / ".venv").exists()


def _interpreter_is_gone(folder: Path) -> None:
    python = folder / ".venv/bin/python"
    python.unlink()
    python.symlink_to(folder / "removed")


def _python_is_old(folder: Path) -> None:
    _script(folder / ".venv/bin/python", OLD_PYTHON)


def _pip_is_missing(folder: Path) -> None:
    _script(folder / ".venv/bin/python", '#!/bin/sh\nexec "{python}" -S "$@"\n')


def _folder_has_moved(folder: Path) -> None:
    (folder / ".venv/ready").write_text("/where/it/was\n")


def test_environment_is_kept_until_pins_change_or_it_is_broken(ready):
    def second() -> tuple[str, list[str]]:
        done = _make(ready, "test-quick")
        assert done.returncode == 0
        return done.stdout, _calls(ready)

    assert second() == ("", [QUICK])
    later = time.time() + 9
    os.utime(ready / "requirements.lock", (later, later))
    output, calls = second()
    assert MADE_ANEW not in output
    assert calls == [*SET_UP[1:], TOOLS, QUICK]
    os.utime(ready / "requirements.lock", (1, 1))
    for harm in (_interpreter_is_gone, _python_is_old, _pip_is_missing, _folder_has_moved):
        harm(ready)
        output, calls = second()
        assert output.splitlines()[0] == MADE_ANEW, harm.__name__
        assert calls == [*SET_UP, TOOLS, QUICK], harm.__name__
    assert second() == ("", [QUICK])


def _free() -> list[str]:
    return [f"{name}={port}" for name, port in zip(("MLFLOW_PORT", "PREFECT_PORT"), free_ports(2), strict=True)]


def _servers(folder: Path, **ends: str) -> None:
    """Stubs of both: they write down what they were told and their process, then `ends` or go on for ten minutes."""
    for name in SERVERS:
        wrote = f'echo "$*" > {name}.told\necho $$ > {name}.new && mv {name}.new {name}.pid'
        _script(folder / f".venv/bin/{name}", f"#!/bin/sh\n{wrote}\n{ends.get(name, 'exec sleep 600')}\n")


def test_port_in_use_is_named_before_a_server_starts(ready):
    _servers(ready)
    for name in ("MLFLOW_PORT", "PREFECT_PORT"):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            arguments = ["ui", *_free(), f"{name}={port}"]
            done = _make(ready, *arguments)
        assert done.returncode == 2
        assert done.stdout == f"{name}={port} is no free port: name another, as in make ui {name}=5050\n"
    assert not list(ready.glob("*.pid"))


def _alive(folder: Path, name: str) -> bool:
    pid = int((folder / f"{name}.pid").read_text())
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@contextmanager
def _ui(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`make ui` in a process group of its own, as a terminal starts it."""
    ports = _free()
    started = subprocess.Popen(
        **_command(folder, "ui", *ports),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # which `nohup` has ignored
    )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def test_server_that_ends_early_is_reported_and_ends_its_neighbour(ready):
    for first, second in (("mlflow", "uvicorn"), ("uvicorn", "mlflow")):
        (ready / f"{second}.pid").unlink(missing_ok=True)
        _servers(ready, **{first: f"while [ ! -e {second}.pid ]; do sleep 0.05; done; exit 1"})
        with _ui(ready) as ui:
            output, _ = ui.communicate(timeout=300)
        assert ui.returncode == 2
        assert output.splitlines()[-1] == f"{SERVERS[first]} has ended, and {SERVERS[second]} with it"
        assert not _alive(ready, second)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_ends_both_servers(ready, sent):
    def both_run() -> bool:
        return len(list(ready.glob("*.pid"))) == 2

    _servers(ready)
    with _ui(ready) as ui:
        wait_for(both_run)
        assert _alive(ready, "mlflow")
        assert _alive(ready, "uvicorn")
        # where commands put them that know of no server
        assert f"--default-artifact-root {ready.resolve()}/mlartifacts " in (ready / "mlflow.told").read_text()
        os.killpg(ui.pid, sent)
        ui.communicate(timeout=120)
    assert not _alive(ready, "mlflow")
    assert not _alive(ready, "uvicorn")


def _clean(folder: Path, *arguments: str, answer: str | None = None) -> tuple[int, str]:
    """The exit code of `make clean` and what it printed, on a terminal where somebody answers."""
    main, terminal = pty.openpty()
    try:
        os.write(main, f"{answer}\n".encode())
        stdin = subprocess.DEVNULL if answer is None else terminal
        done = subprocess.run(
            **_command(folder, "clean", *arguments), stdin=stdin, capture_output=True, timeout=300, check=False
        )
    finally:
        os.close(main)
        os.close(terminal)
    return done.returncode, done.stdout


def test_clean_asks_before_it_removes_what_nothing_brings_back(folder):
    def left() -> set[str]:
        return {path.name for path in folder.iterdir()} & {".pytest_cache", "mlflow.db", "mlartifacts", ".threestage"}

    (folder / ".pytest_cache").mkdir()
    assert _clean(folder)[0] == 0
    assert left() == set(), "caches alone go without a question"
    for arguments, answer, code in (
        ([], None, 2),
        ([], "no", 2),
        (["YES=0"], None, 2),
        ([], "yes", 0),
        (["YES=1"], None, 0),
    ):
        for name in (".pytest_cache", "mlartifacts", ".threestage"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "mlflow.db").touch()
        exit_code, output = _clean(folder, *arguments, answer=answer)
        assert exit_code == code, output
        assert left() == (set() if code == 0 else {".pytest_cache", "mlflow.db", "mlartifacts", ".threestage"})
        assert "YES=1" in arguments or "registered models, decisions about them" in output
        assert ("Nothing was removed" in output) == bool(code)
    assert (folder / "pyproject.toml").exists()


def _pins() -> dict[str, str]:
    """The versions in requirements.lock by normalized name."""
    pins = re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pins}


def test_lock_pins_every_package_that_an_environment_needs():
    pins = _pins()
    needed = with_requirements(["threestage[dev]"]) - {"threestage"}
    here = {name: Version(importlib.metadata.version(name)).public for name in needed}
    assert len(here) > 200
    assert {name: version for name, version in here.items() if pins.get(name) != version} == {}


def test_lock_names_the_libraries_that_the_committed_results_were_made_with():
    recorded = json.loads((ROOT / "libraries.json").read_text())
    pins = _pins()
    assert recorded == {name: pins[canonicalize_name(name)] for name in recorded}
