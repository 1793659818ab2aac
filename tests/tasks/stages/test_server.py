import asyncio
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from loopback import Answer, Asked, serving
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.clients import PrefectEventsClient
from prefect.exceptions import TerminationSignal
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from real_servers import Runs
from web_page import check_prefect_refuses_pages

from llm.errors import UserError
from tasks.stages import end_states, server


def started(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code])


def test_temporary_server_that_ends_is_named_with_its_exit_code():
    with started("raise SystemExit(3)") as process, pytest.raises(UserError, match="ended with exit code 3"):
        server.wait_until_healthy(process, "http://127.0.0.1:9/api")


def test_temporary_server_that_never_answers_is_a_timeout(monkeypatch):
    monkeypatch.setattr(server, "STARTS_WITHIN", 0.3)
    with started("import time; time.sleep(60)") as process:
        reason = "the temporary Prefect server does not answer after 0.3 s; set PREFECT_API_URL to a standing one"
        with pytest.raises(UserError, match=reason):
            server.wait_until_healthy(process, "http://127.0.0.1:9/api")
        process.kill()


def connect(url: str) -> None:
    """Use the Prefect server of this address for a moment."""
    with temporary_settings({PREFECT_API_URL: url}), server.prefect_server() as used:
        assert used == url


def test_configured_server_that_never_answers_is_a_timeout(monkeypatch):
    assert server.ANSWERS_WITHIN <= 20
    monkeypatch.setattr(server, "ANSWERS_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api/"
        with pytest.raises(UserError, match=f"^PREFECT_API_URL={url}: nobody answers"):
            connect(url)


def test_servers_on_this_machine_are_reached_without_a_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "own.example")
    monkeypatch.setenv("no_proxy", "")
    with serving(lambda asked: Answer()) as host:
        url = f"{host}/api"
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        for _ in range(2):
            server.reach_directly()
            assert httpx.get(url).is_success
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "own.example,127.0.0.1,localhost"


@pytest.mark.slow
def test_server_of_a_flow_refuses_pages_of_other_sites(prefect_api):
    check_prefect_refuses_pages(prefect_api.removesuffix("/api"))


@pytest.mark.parametrize(
    ("name", "key"),
    [("finetune@classifier", "finetune-classifier"), ("My_App ", "my-app"), ("fetch-corpus", "fetch-corpus")],
)
def test_artifact_keys_are_small_letters_digits_and_dashes(name, key):
    assert server.artifact_key(name) == key


def stopping(stop, ids):
    """A flow with a task that ends well, one that is stopped by `stop`, and a flow below it."""

    @task(task_run_name="before")
    def before():
        pass

    @task(task_run_name="stopped")
    def stopped():
        raise stop

    @flow(flow_run_name="child")
    def child():
        stopped()

    @flow(flow_run_name="root")
    def root(number: int):
        ids.append(FlowRunContext.get().flow_run.id)
        before()
        child()

    return root


@pytest.fixture
def late(monkeypatch) -> Iterator[None]:
    """The server hears of task runs only when somebody is about to give them a word."""
    emit = PrefectEventsClient.emit
    end_below = server.end_below
    begun = threading.Event()

    async def emit_late(client, event):
        while not begun.is_set():
            await asyncio.sleep(0.01)
        await emit(client, event)

    def begin(*arguments):
        begun.set()
        end_below(*arguments)

    monkeypatch.setattr(PrefectEventsClient, "emit", emit_late)
    monkeypatch.setattr(server, "end_below", begin)
    monkeypatch.setattr(end_states, "TOLD_WITHIN", 600)  # only what hangs takes so long
    yield
    begun.set()


@pytest.mark.parametrize("stop", [InterruptedError("after step 3"), TerminationSignal(15)])
@pytest.mark.slow
def test_interrupted_run_is_cancelled_at_every_level_and_raises_what_stopped_it(prefect_api, late, stop):
    ids = []
    with pytest.raises(type(stop)) as raised:
        server.run_as_child(stopping(stop, ids), {"number": 1})
    assert raised.value is stop
    expected = dict.fromkeys(("root", "child", "stopped"), "Cancelled") | {"before": "Completed"}
    tree = Runs(prefect_api).tree(ids[0])
    assert {name: state for name, state in tree.items() if not name.startswith("child-")} == expected
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(ids[0]).state.message == (str(stop) or "stopped")


@pytest.mark.slow
def test_run_that_raises_is_failed_and_another_returns_its_value(prefect_api):
    ids = []
    with pytest.raises(ValueError, match="wrong"):
        server.run_as_child(stopping(ValueError("wrong"), ids), {"number": 1})
    assert Runs(prefect_api).tree(ids[0])["root"] == "Failed"

    @flow
    def well(number: int) -> int:
        return number + 1

    assert server.run_as_child(well, {"number": 1}) == 2


class Wire(socketserver.ThreadingTCPServer):
    """A way to the server of an address, that can be cut: as if the server were gone."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        server_url = httpx.URL(url)
        self.ends = []
        self.server_end = (server_url.host, server_url.port)
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.url = str(server_url.copy_with(port=self.server_address[1]))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, client_address):
        connection = socket.create_connection(self.server_end)
        self.ends += [request, connection]
        answers = threading.Thread(target=self.carry, args=(connection, request), daemon=True)
        answers.start()
        self.carry(request, connection)
        answers.join()

    def carry(self, source, target):
        with suppress(OSError):
            while part := source.recv(65536):
                target.sendall(part)
            target.shutdown(socket.SHUT_WR)

    def cut(self):
        self.shutdown()
        self.server_close()
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_finished_flow_counts_when_its_server_is_gone(prefect_api, caplog):
    @flow
    def work(done: bool) -> int:
        wire.cut()
        if not done:
            httpx.get(wire.url)
        return 7

    for done in (True, False):
        wire = Wire(prefect_api)
        with temporary_settings({PREFECT_API_URL: wire.url, PREFECT_CLIENT_MAX_RETRIES: 0}):
            if done:
                assert server.run_as_child(work, {"done": True}) == 7
                assert "Prefect was not told that work is done: " in caplog.text
            else:
                with pytest.raises(httpx.ConnectError):
                    server.run_as_child(work, {"done": False})


def test_run_retries_until_its_restarted_server_answers(monkeypatch, port):
    monkeypatch.setenv(server.PARENT_TASK_RUN, "of a run")
    monkeypatch.setattr(server, "ASKS_EVERY", 0.05)
    answered = threading.Event()
    answers = iter([503, 502])  # while its database starts, and from a proxy

    def answer(request: Asked) -> Answer:
        return Answer(next(answers, 200))

    def start() -> None:
        with serving(answer, port):
            answered.wait()

    later = threading.Timer(0.3, start)
    later.start()
    connect(f"http://127.0.0.1:{port}/api")
    answered.set()
    later.join()


def test_leave_artifact_retries_and_then_logs_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(server, "ASKS_EVERY", 0)
    requests = []

    def create(**content):
        requests.append(content)
        if len(requests) < 3:
            raise httpx.ConnectError("All connection attempts failed")
        return "its id"

    assert server.leave_artifact(create, "evaluate-Spam", table=[]) == "its id"
    assert requests == [{"key": "evaluate-spam", "table": []}] * 3
    monkeypatch.setattr(server, "LONGEST_WAIT", 0)
    requests.clear()
    assert server.leave_artifact(create, "evaluate-Spam", table=[]) is None
    assert "Prefect did not take the artifact evaluate-spam: All connection attempts failed" in caplog.text


FLOW_RUN = "0b9f0d3e-2a63-4b5e-9a4e-0d1f1c6f7a11"


@pytest.mark.parametrize(
    ("api", "temporary", "page"),
    [
        ("https://prefect.example.org/api", "", "https://prefect.example.org"),
        ("http://127.0.0.1:41234/api", "http://127.0.0.1:41234/api", "http://127.0.0.1:4200"),
        (None, "", "http://127.0.0.1:4200"),
    ],
)
def test_prefect_page_is_never_on_a_temporary_server(monkeypatch, tmp_path, api, temporary, page):
    monkeypatch.chdir(tmp_path)  # where `make ui` opened no page
    monkeypatch.setenv(server.TEMPORARY, temporary)
    with temporary_settings({PREFECT_API_URL: api} if api else {}, restore_defaults=() if api else {PREFECT_API_URL}):
        assert server.prefect_page(FLOW_RUN) == f"{page}/runs/flow-run/{FLOW_RUN}"
