"""Prefect: the temporary server and the configured one, how runs end, artifacts, and a run whose worker is killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

import psutil
import pytest
from loopback import Answer, Asked, serving
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelling, Completed, Pending, Running
from projects import ROOT, environment
from real_servers import has_ended, wait_for
from web_page import check_prefect_refuses_pages

from llm.errors import UserError
from tasks.stages import prefect as stages_prefect
from tasks.stages.lock import workspace
from tasks.stages.prefect import (
    NIGHT,
    end_left,
    leave_artifact,
    prefect_server,
    run_flow,
    wait_until_healthy,
)
from tasks.stages.process import OF_A_WORKER

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9/api"
COMMAND = """
import os, time
from prefect import flow
from tasks.stages.prefect import prefect_server, run_flow
@flow
def work(number: int) -> int:
    return number + 1
try:
    with prefect_server() as url:
        print(url, run_flow(work, {"number": 6}), os.environ["NO_PROXY"], flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    print([name for name in ("PREFECT_API_URL",) if name in os.environ])
"""


@pytest.mark.parametrize(("number", "last"), [(signal.SIGINT, "[]\n"), (signal.SIGKILL, "")])
def test_temporary_server_refuses_other_sites_and_ends_with_its_process(tmp_path, number, last):
    proxies = {"HTTP_PROXY": NOBODY, "NO_PROXY": "own.example", "no_proxy": ""}
    variables = environment(PYTHONPATH=str(ROOT), PREFECT_HOME=str(tmp_path), **proxies)
    variables.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", COMMAND]
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True, process_group=0) as running:
        url, result, no_proxy = running.stdout.readline().split()
        assert result == "7"
        assert no_proxy == "own.example,127.0.0.1,localhost"
        check_prefect_refuses_pages(url.removesuffix("/api"))
        servers = psutil.Process(running.pid).children(recursive=True)
        assert servers
        os.killpg(running.pid, number)
        assert running.stdout.read() == last
    for server in servers:
        wait_for(partial(has_ended, server))


@pytest.mark.parametrize(("code", "seconds"), [("raise SystemExit(3)", 600), ("import time; time.sleep(600)", 0.3)])
def test_temporary_server_that_does_not_start_is_an_error(monkeypatch, code, seconds):
    monkeypatch.setattr(stages_prefect, "STARTS_WITHIN", seconds)
    with subprocess.Popen([sys.executable, "-c", code]) as server:
        with pytest.raises(UserError):
            wait_until_healthy(server, NOBODY)
        server.kill()


def connect(url: str) -> None:
    """Use the Prefect server of this address for a moment."""
    before = psutil.Process().children()
    with temporary_settings({PREFECT_API_URL: url}), prefect_server() as used:
        assert used == url
        assert psutil.Process().children() == before


@pytest.mark.parametrize(
    ("health", "version", "night", "reason"),
    [
        ([200], [200], False, None),
        ([200], [404], False, None),  # Prefect Cloud has no such page
        ([200], [401], True, "401"),
        ([401], [200], True, "401"),
        ([404], [200], True, "404"),
        ([503, 200], [200], False, "503"),
        ([503, 502, 200], [500, 200], True, None),  # while its database starts, and from a proxy
    ],
)
def test_configured_server_is_asked_until_it_answers_or_refuses(monkeypatch, health, version, night, reason):
    monkeypatch.setattr(stages_prefect, "ASKS_EVERY", 0)
    if night:
        monkeypatch.setenv(NIGHT, "of a night")
    answers = {"/api/health": health, "/api/admin/version": version}

    def answer(request: Asked) -> Answer:
        statuses = answers[request.path]
        return Answer(statuses.pop(0) if len(statuses) > 1 else statuses[0])

    with serving(answer) as url, pytest.raises(UserError, match=reason) if reason else nullcontext():
        connect(f"{url}/api")


def test_configured_server_that_is_away_is_an_error_and_a_night_waits_for_it(monkeypatch, port):
    monkeypatch.setattr(stages_prefect, "ANSWERS_WITHIN", 0.3)
    monkeypatch.setattr(stages_prefect, "ASKS_EVERY", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for number in (silent.getsockname()[1], port):
            with pytest.raises(UserError, match=f":{number}/api"):
                connect(f"http://127.0.0.1:{number}/api")
    monkeypatch.setenv(NIGHT, "of a night")
    with monkeypatch.context() as patch:
        patch.setattr(stages_prefect, "LONGEST_WAIT", 0.05)
        with pytest.raises(UserError):
            connect(NOBODY)
    monkeypatch.setattr(stages_prefect, "ANSWERS_WITHIN", 600)
    is_done = threading.Event()

    def start() -> None:
        with serving(lambda _: Answer(), port):
            is_done.wait()

    later = threading.Timer(0.3, start)
    later.start()
    try:
        connect(f"http://127.0.0.1:{port}/api")
    finally:
        is_done.set()
        later.join()


@pytest.fixture
def client(prefect_api) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@pytest.mark.parametrize(
    ("error", "state", "night"),
    [
        (None, "Completed", None),
        (ValueError("wrong"), "Failed", "retrain:a"),
        (InterruptedError("after step 3"), "Cancelled", "retrain:a"),
    ],
)
def test_run_flow_reports_its_end_and_the_tags_of_folder_and_night(client, monkeypatch, error, state, night):
    if night:
        monkeypatch.setenv(NIGHT, night)
    ids = []

    @flow
    def work(number: int) -> int:
        ids.append(FlowRunContext.get().flow_run.id)
        if error is not None:
            raise error
        return number + 1

    with pytest.raises(type(error)) if error else nullcontext() as raised:
        assert run_flow(work, {"number": 1}) == 2
    flow_run = client.read_flow_run(ids[0])
    assert flow_run.state.name == state
    assert set(flow_run.tags) == {workspace(), night} - {None}
    if error:
        assert raised.value is error
        assert str(error) in flow_run.state.message


def test_end_left_marks_the_open_runs_of_a_tag_and_their_tasks(client, tmp_path):
    @flow
    def stage() -> None:
        """Never called."""

    @task
    def step() -> None:
        """Nor this."""

    tag = f"retrain:{tmp_path}"
    states = {
        "running": Running(),
        "pending": Pending(),
        "cancelling": Cancelling(),
        "done": Completed(),
        "elsewhere": Running(),
    }
    ids, task_ids = {}, {}
    for name, state in states.items():
        tags = [f"{tag}/other" if name == "elsewhere" else tag]
        ids[name] = client.create_flow_run(stage, name=name, state=state, tags=tags).id
        for task_name, task_state in {"running": Running(), "done": Completed()}.items():
            task_run = client.create_task_run(step, ids[name], task_name, name=task_name, state=task_state)
            task_ids[f"{task_name} in {name}"] = task_run.id
    end_left(tag)
    names = {name: client.read_flow_run(id_).state.name for name, id_ in ids.items()}
    crashed = dict.fromkeys(("running", "pending", "cancelling"), "Crashed")
    assert names == crashed | {"done": "Completed", "elsewhere": "Running"}
    for name, id_ in task_ids.items():
        is_left = name in ("running in running", "running in pending", "running in cancelling")
        expected = "Crashed" if is_left else "Running" if name.startswith("running") else "Completed"
        assert client.read_task_run(id_).state.name == expected


def test_artifact_that_the_server_does_not_take_is_a_warning(client, caplog):
    artifact = leave_artifact(create_table_artifact, "evaluate-Spam", table=[{"f1": 0.5}])
    assert artifact is not None
    assert caplog.messages == []
    with serving(lambda _: Answer(503)) as busy:
        for number, url in enumerate((NOBODY, f"{busy}/api"), 1):
            with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
                assert leave_artifact(create_table_artifact, "evaluate-Spam", table=[]) is None
            assert sum("evaluate-spam" in message for message in caplog.messages) == number


RUN = """
import os, signal, time
from tasks.stages.process import end_with_worker
signals, worker = [], os.getppid()
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
end_with_worker("run")
handler = signal.getsignal(signal.SIGUSR1)
for _ in range({before}):
    handler(signal.SIGUSR1, None)
print("ready", flush=True)
while os.getppid() == worker:
    time.sleep(0.001)
print("signals:", len(signals), flush=True)
"""
WORKER = """
import subprocess, sys, threading, time
for _ in range(30):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("before", [0, 2])  # signals that come at once, one handler within the other
def test_run_gets_one_sigterm_when_its_worker_is_killed(tmp_path, before):
    log = tmp_path / ".threestage/run/log"

    def has_line(words: str) -> bool:
        return log.exists() and words in log.read_text()

    def wait_for_line(words: str) -> None:
        wait_for(partial(has_line, words), every=0.01)

    variables = environment(PYTHONPATH=str(ROOT), **{OF_A_WORKER: "x"})
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, RUN.format(before=before)], cwd=tmp_path, env=variables
    ) as worker:
        wait_for_line("ready")
        worker.kill()
    wait_for_line("signals: 1\n")
