"""Prefect: the temporary server and the configured one, how runs end, artifacts, and a run whose worker is killed."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import psutil
import pytest
from loopback import Answer, serving
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Running, State
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
with prefect_server() as url:
    print(url, run_flow(work, {"number": 6}), os.environ["NO_PROXY"], flush=True)
    time.sleep(600)
"""


def test_temporary_server_refuses_other_sites_and_ends_with_its_process(tmp_path):
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
        os.killpg(running.pid, signal.SIGKILL)
    for server in servers:
        wait_for(partial(has_ended, server))


@pytest.mark.parametrize(("code", "seconds"), [("raise SystemExit(3)", 600), ("import time; time.sleep(600)", 0.3)])
def test_temporary_server_that_does_not_start_is_an_error(monkeypatch, code, seconds):
    monkeypatch.setattr(stages_prefect, "STARTS_WITHIN", seconds)
    with subprocess.Popen([sys.executable, "-c", code]) as server:
        with pytest.raises(UserError):
            wait_until_healthy(server, NOBODY)
        server.kill()


def connect(url):
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

    def answer(request):
        statuses = answers[request.path]
        return Answer(statuses.pop(0) if len(statuses) > 1 else statuses[0])

    with serving(answer) as url, pytest.raises(UserError, match=reason) if reason else nullcontext():
        connect(f"{url}/api")


def test_configured_server_that_is_away_is_an_error(monkeypatch, port):
    monkeypatch.setattr(stages_prefect, "ANSWERS_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for number in (silent.getsockname()[1], port):
            with pytest.raises(UserError, match=f":{number}/api"):
                connect(f"http://127.0.0.1:{number}/api")


@pytest.fixture
def client(prefect_api):
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
    def work(number):
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
    def stage():
        """Never called."""

    @task
    def step():
        """Nor this."""

    tag = f"retrain:{tmp_path}"
    states = {"Running": "Crashed", "Pending": "Crashed", "Cancelling": "Crashed", "Completed": "Completed"}
    ids = {}
    for name in states:
        run = client.create_flow_run(stage, state=State(type=name.upper(), name=name), tags=[tag])
        task_run = client.create_task_run(step, run.id, name, state=Running())
        ids[name] = run.id, task_run.id
    other = client.create_flow_run(stage, state=Running(), tags=[f"{tag}/other"])
    end_left(tag)
    for name, (run_id, task_run_id) in ids.items():
        assert client.read_flow_run(run_id).state.name == states[name]
        is_ended = states[name] == "Crashed"
        assert client.read_task_run(task_run_id).state.name == ("Crashed" if is_ended else "Running")
    assert client.read_flow_run(other.id).state.name == "Running"


def test_artifact_that_the_server_does_not_take_is_a_warning(client, caplog):
    assert leave_artifact(create_table_artifact, "evaluate-Spam", table=[{"f1": 0.5}]) is not None
    assert caplog.messages == []
    with temporary_settings({PREFECT_API_URL: NOBODY, PREFECT_CLIENT_MAX_RETRIES: 0}):
        assert leave_artifact(create_table_artifact, "evaluate-Spam", table=[]) is None
    assert "evaluate-spam" in caplog.text


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

    def has_line(words):
        return log.exists() and words in log.read_text()

    def wait_for_line(words):
        wait_for(partial(has_line, words), every=0.01)

    variables = environment(PYTHONPATH=str(ROOT), **{OF_A_WORKER: "x"})
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, RUN.format(before=before)], cwd=tmp_path, env=variables
    ) as worker:
        wait_for_line("ready")
        worker.kill()
    wait_for_line("signals: 1\n")
