"""Prefect: the server that a flow reports to, its run with the tags of this folder and night, and its artifacts."""

import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import httpx
from prefect import Flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings
from prefect.states import Cancelled, Crashed

from llm.errors import UserError
from tasks.stages.lock import LONGEST_WAIT, workspace

NIGHT = "THREESTAGE_NIGHT"  # the tag that the stages of a night give their runs
STARTS_WITHIN = 300
"""Seconds; a first start makes the database: 7 to 11 s on two idle cores, over a minute on busy ones."""
ANSWERS_WITHIN = 20  # seconds for the first answer of a standing server, which may be busy
ASKS_EVERY = 1  # seconds, while a server is away
OPEN = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]

logger = logging.getLogger(__name__)


@contextmanager
def free_port() -> Generator[int]:
    """Yield a free port and, on Linux, reserve it.

    It is bound with SO_REUSEADDR: on Linux a server that sets this option can listen on it, and no other program gets
    it as a random port.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        if sys.platform != "linux":
            held.close()
        yield port


@contextmanager
def prefect_server(meanwhile: Callable[[], None] = lambda: None) -> Generator[str]:
    """Yield the address of the Prefect API: the configured one, or a temporary server's.

    `meanwhile` is called while that starts, which takes seconds.

    The temporary server runs in a process group of its own, so that Ctrl-C does not reach it and the flow can still
    report its end. It ends with this process. Raises UserError if the configured server doesn't answer: at once, or in
    a stage of a night, which it did answer, after LONGEST_WAIT seconds.
    """
    if url := PREFECT_API_URL.value():
        check_answers(url, LONGEST_WAIT if NIGHT in os.environ else 0)
        meanwhile()
        yield url
        return
    reach_directly()
    with free_port() as port:
        url = f"http://127.0.0.1:{port}/api"
        server = start_server(port)
        try:
            meanwhile()
            wait_until_healthy(server, url)
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


def start_server(port: int) -> subprocess.Popen[bytes]:
    """Start a Prefect server without pages, with this process's settings; it answers this machine's programs alone."""
    command = [sys.executable, "-m", "uvicorn", "--factory", "tasks.stages.prefect_app:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    own["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = f"http://127.0.0.1:{port}"
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.stages.parent_death", *command],
        env={**os.environ, **settings, **own},
        process_group=0,
        stdin=subprocess.DEVNULL,
    )


def wait_until_healthy(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the temporary server answers. Raises UserError if it ends, and after STARTS_WITHIN seconds."""
    deadline = time.monotonic() + STARTS_WITHIN
    with httpx.Client(verify=False) as client:  # verifying would read certificates for 10 ms each time
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if client.get(f"{url}/health").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    ended = server.poll()
    state = f"does not answer after {STARTS_WITHIN} s" if ended is None else f"ended with exit code {ended}"
    raise UserError(f"the temporary Prefect server {state}; set PREFECT_API_URL to a standing one")


def reach_directly() -> None:
    """Have this process and its children use no proxy for servers on this machine."""
    names = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    own = [name for name in ("127.0.0.1", "localhost") if name not in names.split(",")]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join([*filter(None, [names]), *own])


def check_answers(url: str, patience: float = 0) -> None:
    """Raise UserError if the configured server does not answer within `patience` seconds, or refuses.

    Prefect's own client asks, as it knows the server's password and its certificate.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            with (
                temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
                get_client(httpx_settings={"timeout": ANSWERS_WITHIN}, sync_client=True) as client,
            ):
                for path in ("/health", "/admin/version"):
                    client.request("GET", path)
            return
        except httpx.HTTPStatusError as error:
            is_starting = error.response.is_server_error and time.monotonic() < deadline  # it or its database
            if not is_starting:
                _raise_refusal(url, error)
                return
        except httpx.TransportError as error:
            if time.monotonic() >= deadline:
                reason, way_out = str(error) or type(error).__name__, "start it, or unset the variable"
                raise UserError(f"PREFECT_API_URL={url}: nobody answers ({reason}); {way_out}") from None
        time.sleep(ASKS_EVERY)


def _raise_refusal(url: str, error: httpx.HTTPStatusError) -> None:
    """Raise UserError, unless the server is well and only has no page of its version, as Prefect Cloud: it was asked
    for that to try the password."""
    if error.response.status_code == httpx.codes.UNAUTHORIZED:
        way_out = "PREFECT_API_AUTH_STRING must be its USER:PASSWORD"
        raise UserError(f"PREFECT_API_URL={url}: it refuses (401); {way_out}") from None
    if not error.request.url.path.endswith("/admin/version"):
        status = f"{error.response.status_code} {error.response.reason_phrase}"
        raise UserError(f"PREFECT_API_URL={url}: it answers {status}") from None


def _send_logs() -> None:
    """Send the logs that wait in Prefect's batch; call it before the server ends."""
    for handler in logging.getLogger("prefect.flow_runs").handlers:
        handler.flush()


def run_flow(flow: Flow[..., Any], parameters: dict[str, Any]) -> Any:
    """Run a flow with the tags of this folder and, in a stage of a night, of the night.

    A run that stops on request, with a checkpoint, ends as Cancelled.
    """
    night = os.environ.get(NIGHT)
    with tags(workspace(), *([night] if night else [])):
        return flow.with_options(on_failure=[*flow.on_failure_hooks, _cancel_if_stopped])(**parameters)


def _cancel_if_stopped(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Prefect's hook for a run that failed."""
    reason = state.result(raise_on_failure=False)
    if isinstance(reason, InterruptedError):
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message=str(reason)), force=True)


def end_left(tag: str) -> None:
    """Mark the flow runs with this tag that are still open, and the task runs in them, as crashed.

    Call it when no process of theirs can be alive: a killed process reports no end.
    """
    gone = Crashed(message="Its process is gone; the next run goes on from the last checkpoint.")
    is_open = FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN))
    with get_client(sync_client=True) as client:
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]), state=is_open)
        for flow_run in client.read_flow_runs(flow_run_filter=tagged):
            inside = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
            for task_run in client.read_task_runs(flow_run_filter=inside):
                if task_run.state is not None and not task_run.state.is_final():
                    client.set_task_run_state(task_run.id, gone.fresh_copy(), force=True)
            client.set_flow_run_state(flow_run.id, gone.fresh_copy(), force=True)


def leave_artifact(create: Callable[..., Any], name: str, **content: Any) -> Any:
    """Call one of Prefect's functions that create an artifact, with a key made from `name`, and return its result.

    If the server is away or refuses, a warning is logged and the result is None: what a run made counts without its
    artifact.
    """
    key = artifact_key(name)
    try:
        return create(key=key, **content)
    except httpx.HTTPError as error:
        logger.warning("Prefect did not take the artifact %s: %s", key, str(error) or type(error).__name__)
        return None


def artifact_key(name: str) -> str:
    """A name as the key of a Prefect artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
