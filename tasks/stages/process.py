"""A command or a stage as a process: its lock, log, errors, exit code and end."""

import errno
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType

from prefect.exceptions import TerminationSignal
from prefect.settings import get_current_settings

from llm.errors import UserError
from tasks.stages.lock import STATE
from tasks.stages.parent_death import die_with_parent

OF_A_WORKER = "PREFECT__FLOW_RUN_ID"  # a variable of a process that a Prefect worker started
WORKER_IS_GONE = signal.SIGUSR1
STAGE = "DVC_STAGE"  # the variable in which dvc names the stage that it runs
LOCK_PATIENCE = 20  # seconds; a stage whose dvc was killed still finishes its step
GOODBYE = 10  # seconds for a stopped training to tell its server; a standing one needs less than one
STOPPED = 75  # exit code of a training that stopped on request, with a checkpoint (EX_TEMPFAIL: try again)
MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE)
"""System errors that are no bug: no space, no permission, too many open files."""
LOG_BYTES = 5_000_000  # of a command's log file; the previous file is kept, too
END = "end.json"


@dataclass(frozen=True)
class End:
    """How a command ended, in the file END next to its log."""

    code: int
    seconds: float
    reason: str
    """Why it failed; empty if it did not."""


def current_stage() -> str:
    """The DVC stage that this process runs, such as `evaluate@classifier`."""
    return os.environ[STAGE]


def state_folder(stage: str) -> Path:
    """The folder of a stage's lock, log and checkpoints: never a dep, never an out."""
    return STATE / "stages" / stage


def forget_ends() -> None:
    """Remove the ends of all stages, before they run."""
    for file in STATE.glob(f"stages/*/{END}"):
        file.unlink()


def read_end(stage: str) -> End | None:
    """How a stage ended since `forget_ends`; None if it did not run, or was killed."""
    path = state_folder(stage) / END
    return End(**json.loads(path.read_text())) if path.exists() else None


class _Console(logging.Filter):
    """Keeps Prefect's noise off the console.

    That is its report of an exception, over 100 lines, which the command line says in one; links to a temporary server,
    which has no pages; and reports of its own threads.
    """

    noise = ("View at http", "Still processing items")

    def filter(self, record: logging.LogRecord) -> bool:
        prefect_error = record.levelno >= logging.ERROR and record.name.startswith("prefect.")
        return not (prefect_error or str(record.msg).startswith(self.noise))


def _configure_logging(log: Path) -> None:
    """Log to the console and, with tracebacks, to the file `log`."""
    settings = get_current_settings().logging
    log.parent.mkdir(parents=True, exist_ok=True)
    file = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Console())
    logging.getLogger().addHandler(file)
    for name in settings.extra_loggers or []:
        logging.getLogger(name).setLevel(settings.level)
        if not logging.getLogger(name).propagate:
            logging.getLogger(name).addHandler(file)


def on_interrupt(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; during an import a moment later, as the import system would keep its lock for ever."""
    if frame is not None and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return
    raise KeyboardInterrupt


def _on_terminate(number: int, _: FrameType | None) -> None:
    raise TerminationSignal(number)


def leave_soon() -> None:
    """End this process within GOODBYE seconds, with the exception that is handled now as its last line.

    Prefect would try for minutes to reach a server that is gone.
    """
    timer = threading.Timer(GOODBYE, _leave, (str(sys.exception() or ""),))
    timer.daemon = True
    timer.start()


def _leave(reason: str) -> None:
    print(reason, file=sys.stderr, flush=True)  # noqa: T201 - this process ends without its log
    os._exit(STOPPED)


def lasted(began: float) -> str:
    """The time since `began`, a value of `time.monotonic`, such as `3 min 2 s`."""
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def end_with_worker(name: str) -> None:
    """If a Prefect worker started this process, end properly when the worker ends.

    The worker's console is then gone, so nothing is written to it. The log is in `.threestage/<name>/log`.
    """
    if OF_A_WORKER not in os.environ:
        return
    log = STATE / name / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    signal.signal(WORKER_IS_GONE, partial(_terminate_once, iter([signal.SIGTERM])))
    die_with_parent(WORKER_IS_GONE)


def _terminate_once(signals: Iterator[int], number: int, _: FrameType | None) -> None:
    """Raise SIGTERM once: a second one would interrupt the work of the first. The kernel sends one a thread, and this
    handler may run within itself, so the iterator counts."""
    signal.signal(number, signal.SIG_IGN)
    for terminate in signals:
        signal.raise_signal(terminate)


def run_command(work: Callable[[], str | None], log: Path, *, verbose: bool = False) -> int:
    """Do the work of a command line. Returns the exit code.

    Errors you can fix (UserError, and errors of MACHINE) print on one line; their traceback is in the file `log`, and
    with `verbose` also on the console. Anything else is a bug and always prints its traceback. The exit code is 130 for
    Ctrl-C and 143 for SIGTERM, or STOPPED if a training had time for a checkpoint.

    The last line of the log says how the command ended, and what to do next, which `work` returns.
    """
    gc.freeze()  # modules are never garbage
    gc.enable()
    began = time.monotonic()
    _configure_logging(log)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # unless the shell ignores it
        signal.signal(signal.SIGINT, on_interrupt)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # Prefect calls this handler after its own
        signal.signal(signal.SIGTERM, _on_terminate)
    resumes = "the same command goes on from there"
    next_step: str | None = None
    end = ""
    try:
        next_step = work()
        code = 0
    except KeyboardInterrupt:
        code, end, next_step = 130, "interrupted", resumes
    except TerminationSignal:
        code, end, next_step = 143, "terminated", resumes
    except InterruptedError as error:
        code, end = STOPPED, f"{error}; {resumes}"
    except Exception as error:
        code = 1
        reason = _mendable(error)
        if verbose or reason is None:
            traceback.print_exc()
        end = f"this is a bug; {log} holds its log" if reason is None else f"error: {reason}"
        _append(log, traceback.format_exc())
    if code:
        sys.stderr.write(f"{end}\n")
    last = f"{end}; ended after {lasted(began)}" if code else f"finished in {lasted(began)}"
    _append(log, f"{last}; {next_step}\n" if next_step else f"{last}\n")
    row = End(code=code, seconds=round(time.monotonic() - began, 1), reason=end.removeprefix("error: "))
    log.with_name(END).unlink(missing_ok=True)
    _append(log.with_name(END), json.dumps(asdict(row)))
    return code


def _mendable(error: Exception) -> str | None:
    """The line for an error that you can fix; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in MACHINE:
        return f"{error.filename2 or error.filename or Path.cwd()}: {error.strerror}"  # the second of a copy
    return None


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:  # the disk may be full
        sys.stderr.write(f"{path} can't be written: {error.strerror}\n")
