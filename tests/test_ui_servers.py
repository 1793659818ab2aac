"""What `make ui` really starts: whom its servers answer, and how a training goes on without them."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from projects import OPENS_STORE, ROOT, environment, free_ports
from real_servers import wait_for
from web_page import check_mlflow_refuses_pages, check_prefect_refuses_pages

pytestmark = pytest.mark.slow


class Ui:
    """`make ui` in a folder of its own, with this Python's environment as the one that set-up makes."""

    def __init__(self, folder: Path, store: Path) -> None:
        for name in ("pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, folder)
        shutil.copy(store, folder / "mlflow.db")
        (folder / "ready").touch()
        ports = free_ports(2)
        self.mlflow = f"http://127.0.0.1:{ports[0]}"
        self.prefect = f"http://127.0.0.1:{ports[1]}"
        self.log = folder / "log"
        variables = [f"{name}_PORT={port}" for name, port in zip(("MLFLOW", "PREFECT"), ports, strict=True)]
        variables += [f"BIN={Path(sys.executable).parent}", "READY=ready"]
        env = {name: value for name, value in environment().items() if not name.startswith(("MAKE", "MLFLOW_"))}
        with self.log.open("w") as log:
            self.make = subprocess.Popen(
                ["make", "--file", ROOT / "Makefile", "ui", *variables],
                cwd=folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def is_ready(self) -> bool:
        assert self.make.poll() is None, self.log.read_text()[-3000:]
        return "\nReady: " in self.log.read_text()

    def kill(self) -> None:
        """End both servers, as the loss of their machine would."""
        if self.make.poll() is None:
            os.killpg(self.make.pid, signal.SIGKILL)
            self.make.wait()


@pytest.fixture(scope="module")
def ui(tmp_path_factory, ready_store) -> Iterator[Ui]:
    servers = Ui(tmp_path_factory.mktemp("ui"), ready_store)
    try:
        wait_for(servers.is_ready)
        assert httpx.get(f"{servers.mlflow}{OPENS_STORE}").is_success
        yield servers
    finally:
        servers.kill()


def test_prefect_of_make_ui_refuses_other_sites_and_answers_its_own_page(ui):
    check_prefect_refuses_pages(ui.prefect)
    page = ui.prefect.replace("127.0.0.1", "localhost")  # which asks the server by its address
    headers = {"Origin": page, "Access-Control-Request-Method": "POST"}
    asked = httpx.options(f"{ui.prefect}/api/flows/filter", headers=headers)
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, page)
    settings = httpx.get(f"{page}/ui-settings").json()
    assert (settings["api_url"], settings["csrf_enabled"]) == (f"{ui.prefect}/api", True)


def test_mlflow_of_make_ui_refuses_other_sites_and_runs_no_jobs(ui):
    check_mlflow_refuses_pages(ui.mlflow)
    commands = [" ".join(process.cmdline()) for process in psutil.Process(ui.make.pid).children(recursive=True)]
    assert any("mlflow server" in line for line in commands)
    assert [line for line in commands if "mlflow.server.jobs" in line] == []
