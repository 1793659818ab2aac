"""The Prefect server that a stage reports to, and its place in the tree of runs."""

import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import Pending

from llm.errors import UserError

PARENT_TASK_RUN = "THREESTAGE_PARENT_TASK_RUN"
STARTS_WITHIN = (
    300  # seconds; a first start makes the database: 7 to 11 s on two idle cores, over a minute on busy ones
)
ANSWERS_WITHIN = 5  # seconds that a standing server has for its first answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def prefect_server() -> Iterator[str]:
    """Yield the address of the Prefect API: the configured one, or a temporary server's.

    The temporary server runs in a process group of its own, so that Ctrl-C reaches the flow first and the flow can
    still say goodbye to it; it ends with this process. Raises UserError where the configured one doesn't answer.
    """
    if url := PREFECT_API_URL.value():
        _check_answers(url)
        yield url
        return
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    environment = {**os.environ, **settings, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tasks.stages.lifeline", *command],
        env=environment,
        process_group=0,
        stdin=subprocess.DEVNULL,
    )
    try:
        _wait_until_healthy(server, url)
        os.environ["PREFECT_API_URL"] = url
        with temporary_settings({PREFECT_API_URL: url}):
            try:
                yield url
            finally:
                _send_logs()
    finally:
        os.environ.pop("PREFECT_API_URL", None)
        server.terminate()
        try:
            server.wait(timeout=3)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _check_answers(url: str) -> None:
    try:
        answer = httpx.get(url.rstrip("/") + "/health", timeout=ANSWERS_WITHIN)
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"PREFECT_API_URL={url}: nobody answers ({reason}); start it, or unset the variable") from None
    if not answer.is_success:
        raise UserError(f"PREFECT_API_URL={url}: it answers {answer.status_code} {answer.reason_phrase}")


def _wait_until_healthy(server: subprocess.Popen, url: str) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    ended = server.poll()
    state = f"does not answer after {STARTS_WITHIN} s" if ended is None else f"ended with exit code {ended}"
    raise UserError(f"the temporary Prefect server {state}; set PREFECT_API_URL to a standing one")


def _send_logs() -> None:
    """Hand the logs that Prefect batches to its server while there still is one."""
    for handler in logging.getLogger("prefect.flow_runs").handlers:
        handler.flush()


def run_as_child(flow: Flow, parameters: dict[str, Any]) -> Any:
    """Run a flow, under the task run that started this process where there is one."""
    flow_run = None
    if parent := os.environ.get(PARENT_TASK_RUN):
        with get_client(sync_client=True) as client:
            flow_run = client.create_flow_run(
                flow, parameters=parameters, parent_task_run_id=UUID(parent), state=Pending()
            )
    return run_flow(flow, flow_run=flow_run, parameters=parameters)


def artifact_key(name: str) -> str:
    """A name as Prefect takes it for an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
