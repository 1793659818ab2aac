"""The server as a process, and how it meets the network."""

import json
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from fastapi import FastAPI, Request
from projects import ROOT, environment, free_ports

from app.api.server import http_config
from app.clients import network_of
from tests.app.conftest import any_alive, children, is_ready, listening, post, wait_until

HELLO = [{"role": "user", "content": "hello how are you ?"}]
SERVE = """
import sys, time
import app.api.server
from app.settings import Settings
from llm.kernels.serving.decode import Decoder
from llm.model.gpt import GPT

def slowly(hidden_states):
    def step(self, *args, **options):
        time.sleep(0.05)
        return hidden_states(self, *args, **options)
    return step

for kind in (GPT, Decoder):
    kind.hidden_states = slowly(kind.hidden_states)
app.api.server.GOODBYE = 6
app.api.server.serve(
    app.api.server.create_app(Settings(feedback=False)), "127.0.0.1", int(sys.argv[1]), log_level="warning"
)
"""


class Reader(threading.Thread):
    """Reads a stream of so many tokens: its events so far, and whether the first text came."""

    def __init__(self, address: str, tokens: int) -> None:
        super().__init__()
        self.events, self.begun = [], threading.Event()
        self.address, self.body = address, {"messages": HELLO, "max_tokens": tokens, "stream": True}
        self.start()

    def run(self) -> None:
        with httpx.stream("POST", f"{self.address}/v1/chat/completions", json=self.body, timeout=300) as answer:
            for line in filter(None, answer.iter_lines()):
                self.events.append(line.removeprefix("data: "))
                if len(self.events) > 1:
                    self.begun.set()


@pytest.mark.slow
def test_sigterm_lets_a_short_stream_end_and_gives_a_long_one_an_error(registry, tmp_path):
    (port,) = free_ports(1)
    address, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    variables = environment(MLFLOW_TRACKING_URI=f"sqlite:///{registry / 'mlflow.db'}", PYTHONPATH=str(ROOT))
    with log.open("wb") as out:
        command = [sys.executable, "-c", SERVE, str(port)]
        server = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out, env=variables)

    def has_started() -> bool:
        assert server.poll() is None, log.read_text()
        return is_ready(address)

    try:
        wait_until(has_started, 300)
        post(address, "/classify", {"emails": [{"body": "the cat"}]}).raise_for_status()
        helpers = children(server.pid)
        short, long = Reader(address, 5), Reader(address, 450)
        assert short.begun.wait(120)
        assert long.begun.wait(120)
        server.send_signal(signal.SIGTERM)
        for reader in (short, long):
            reader.join(120)
        assert short.events[-1] == "[DONE]"
        assert json.loads(short.events[-2])["choices"][0]["finish_reason"] == "length"
        assert json.loads(long.events[-1])["error"]["code"] == "unavailable"
        assert server.wait(120) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
        wait_until(lambda: not any_alive(helpers), 60)
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize(("proxy", "network"), [("127.0.0.1", "2001:db8::/64"), (None, "127.0.0.0/24")])
def test_client_address_comes_from_a_known_proxy(monkeypatch, proxy, network):
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    if proxy:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxy)
    app = FastAPI()

    @app.get("/")
    def client(request: Request) -> str:
        return network_of(request)

    with listening(http_config(app, "127.0.0.1", 0, log_level="warning")) as address:
        assert httpx.get(address, headers={"X-Forwarded-For": "2001:db8::5"}, timeout=60).json() == network
