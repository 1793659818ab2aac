"""A server as a process: from its start to SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from projects import free_ports

from app.server import GOODBYE
from tests.app.conftest import alive, children, tracked, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HELLO = [{"role": "user", "content": "hello how are you ?"}]
SERVE = """
import sys, time
from pathlib import Path
from app.server import serve
from app.settings import Settings
from llm.kernels.serving.decode import Decoder
from llm.model.gpt import GPT

pause = float(sys.argv[2])

def slowly(hidden_states):
    def step(self, *args, **options):
        time.sleep(pause)
        return hidden_states(self, *args, **options)
    return step

for kind in (GPT, Decoder):
    kind.hidden_states = slowly(kind.hidden_states)
serve(Settings(feedback=False), "127.0.0.1", int(sys.argv[1]), page=False, log_level="warning")
"""


def with_goodbye(seconds: float) -> str:
    """The same with another GOODBYE."""
    return SERVE.replace(
        "from app.server import serve",
        f"import app.server\napp.server.GOODBYE = {seconds}\nfrom app.server import serve",
    )


@contextmanager
def process(*command: str, port: int, folder: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server that is ready, and its address; killed at the end where it lives on."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdout=log, stderr=log,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert server.poll() is None, (folder / "log").read_text()
        try:
            return httpx.get(f"{address}/readyz", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, 300)
        yield server, address
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def stream(address: str, tokens: int) -> tuple[list[str], threading.Event, threading.Thread]:
    """Read a stream in a thread: its events so far, and whether the first text came."""
    events, begun = [], threading.Event()

    def read() -> None:
        body = {"messages": HELLO, "max_tokens": tokens, "stream": True}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=300) as answer:
            for line in answer.iter_lines():
                if line:
                    events.append(line.removeprefix("data: "))
                if len(events) > 1:
                    begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    return events, begun, thread


def test_sigterm_lets_streams_come_to_their_end_and_is_no_failure(registry, tmp_path, port):
    command = "-c", with_goodbye(300), str(port), "0.05"
    with tracked(registry), process(*command, port=port, folder=tmp_path) as (server, address):
        streams = [stream(address, 60) for _ in range(3)]
        for _, begun, _ in streams:
            assert begun.wait(120)
        server.send_signal(signal.SIGTERM)
        began = time.monotonic()
        for events, _, thread in streams:
            thread.join(120)
            assert events[-1] == "[DONE]"
            assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert server.wait(120) == 0, (tmp_path / "log").read_text()
        assert time.monotonic() - began < GOODBYE + 60
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/healthz", timeout=60)
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_stream_that_would_outlast_the_goodbye_ends_with_an_error(registry, tmp_path, port):
    command = "-c", with_goodbye(1), str(port), "1"
    with tracked(registry), process(*command, port=port, folder=tmp_path) as (server, address):
        events, begun, thread = stream(address, 400)
        assert begun.wait(120)
        server.send_signal(signal.SIGTERM)
        thread.join(120)
        assert json.loads(events[-1])["error"]["code"] == "unavailable"
        assert server.wait(120) == 0, (tmp_path / "log").read_text()


def test_a_server_that_is_killed_leaves_no_process_behind(registry, tmp_path, port):
    with tracked(registry), process("-c", SERVE, str(port), "0", port=port, folder=tmp_path) as (server, address):
        httpx.post(f"{address}/classify", json={"emails": [{"body": "the cat"}]}, timeout=300).raise_for_status()
        helpers = children(server.pid)
        server.kill()
        server.wait()
        wait_until(lambda: not any(alive(pid) for pid in helpers), 60)


def test_a_port_that_is_taken_is_said(registry, tmp_path, port):
    with tracked(registry), socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        run = subprocess.run(
            [sys.executable, "-c", SERVE, str(port), "0"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert run.returncode != 0
    assert "address already in use" in run.stderr
