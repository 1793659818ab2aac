"""A DVC stage as a process: its lock, its Prefect run, its errors, its command line."""

import argparse
import fcntl
import inspect
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.exceptions import TerminationSignal
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import Pending

from llm.config import Config
from tasks.lifeline import die_with_parent
from tasks.params import load_params

STATE = Path(".threestage")
PARENT_TASK_RUN = "THREESTAGE_PARENT_TASK_RUN"
LOCK_PATIENCE = 20  # seconds; a stage whose dvc was killed ends after its step
GOODBYE = 10  # seconds that a stopped training has to tell its server; a standing one is told in less than one
STOPPED = 75  # exit code of a training that was asked to stop, and did so with a checkpoint (EX_TEMPFAIL: try again)
SERVER_PATIENCE = 60  # seconds; the first start also makes the database: 7 to 11 s on two cores

logger = logging.getLogger(__name__)


def current_stage() -> str:
    """The DVC stage that this process runs, such as `evaluate@classifier`."""
    return os.environ["DVC_STAGE"]


def state_folder(stage: str) -> Path:
    """Where a stage keeps its lock and its checkpoints: never a dep, never an out."""
    return STATE / "stages" / stage


@contextmanager
def _only_writer(stage: str) -> Iterator[None]:
    """Hold the stage's lock. Raises RuntimeError when another process keeps it."""
    path = state_folder(stage) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _wait_for_lock(file, stage)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _wait_for_lock(file: IO[str], stage: str) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.seek(0)
                raise RuntimeError(f"stage {stage} is already running, as process {file.read()}") from None
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def prefect_server() -> Iterator[str]:
    """Yield the address of the Prefect API: the configured one, or a temporary server's.

    The temporary server runs in a process group of its own, so that Ctrl-C reaches the flow first and the flow can
    still say goodbye to it; it ends with this process.
    """
    if url := PREFECT_API_URL.value():
        yield url
        return
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    environment = {**os.environ, **settings, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "tasks.lifeline", *command], env=environment, process_group=0, stdin=subprocess.DEVNULL
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


def _wait_until_healthy(server: subprocess.Popen, url: str) -> None:
    deadline = time.monotonic() + SERVER_PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the temporary Prefect server did not start (exit code {server.poll()})")


class _Console(logging.Filter):
    """Keeps off the console what the command line says better.

    That is Prefect's own report of an exception, over 100 lines, links to a temporary server, which has no pages, and
    what Prefect's own threads still do at the end.
    """

    noise = ("View at http", "Still processing items")

    def filter(self, record: logging.LogRecord) -> bool:
        prefect_error = record.levelno >= logging.ERROR and record.name.startswith("prefect.")
        return not (prefect_error or str(record.msg).startswith(self.noise))


def _configure_console() -> None:
    settings = get_current_settings().logging
    for name in settings.extra_loggers or []:
        logging.getLogger(name).setLevel(settings.level)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Console())


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


def _interrupt_again() -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()


def _on_interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but a moment later where the import system would never give its lock back."""
    if frame is not None and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
        return _interrupt_again()
    raise KeyboardInterrupt


def _on_dropped(dropped: "sys.UnraisableHookArgs") -> None:
    """Interrupt again after a Ctrl-C in a finaliser, where Python drops exceptions; report others as Python does."""
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        return _interrupt_again()
    sys.__unraisablehook__(dropped)


def leave_soon() -> None:
    """End this process in GOODBYE seconds at the latest: Prefect tries for minutes to reach a server that is gone."""
    timer = threading.Timer(GOODBYE, os._exit, (STOPPED,))
    timer.daemon = True
    timer.start()


def run_command(work: Callable[[], Any], again: str = "the same command") -> int:
    """Do a command line's work and give its exit code; an expected error is one line on stderr.

    A mistake of the user's or of the machine's (ValueError, OSError, RuntimeError of our own) is said in a line;
    anything else is a bug and keeps its traceback. Ctrl-C gives 130 and SIGTERM 143, but STOPPED where a training had
    time for a checkpoint.
    """
    _configure_console()
    sys.unraisablehook = _on_dropped
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where the shell has it ignored
        signal.signal(signal.SIGINT, _on_interrupt)
    try:
        work()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except InterruptedError as error:
        sys.stderr.write(f"{error}; {again} goes on from it\n")
        return STOPPED
    except (ValueError, OSError, RuntimeError) as error:
        logger.debug("traceback", exc_info=True)
        sys.stderr.write(f"error: {error}\n")
        return 1
    except TerminationSignal:
        sys.stderr.write("terminated\n")
        return 143
    return 0


def stage_command(flow: Flow, section: str, choices: tuple[str, ...] = ()) -> int:
    """The command line of a stage: `python -m flows.<section> [<choice>]`.

    Reads params.yaml, takes the stage's lock, and runs the flow with the choice and its section of the parameters.
    """
    parser = argparse.ArgumentParser(prog=f"python -m flows.{section}", description=inspect.getdoc(flow.fn))
    names = list(inspect.signature(flow.fn).parameters)
    if choices:
        parser.add_argument(names[0], choices=choices)
    if "resume" in names:
        parser.add_argument(
            "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on from the last checkpoint"
        )
    parameters = vars(parser.parse_args())
    choice = parameters[names[0]] if choices else None

    if "DVC_STAGE" in os.environ:
        die_with_parent()
    os.environ.setdefault("DVC_STAGE", f"{section}@{choice}" if choice else section)

    def work() -> None:
        values: Config = getattr(load_params(), section)
        parameters[names[1 if choices else 0]] = getattr(values, choice) if choice else values
        with ExitStack() as stack:
            stack.enter_context(_only_writer(current_stage()))
            stack.enter_context(prefect_server())
            run_as_child(flow, parameters)

    return run_command(work, "the same command" + ("" if parameters.get("resume", True) else " without --no-resume"))
