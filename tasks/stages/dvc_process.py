"""dvc as a process: it runs a stage or pushes data, and it ends with this process."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo

from llm.errors import UserError
from llm.files import write_atomic
from tasks.stages import parent_death
from tasks.stages.lock import FINISHED, KEEP, STATE

PATIENCE = 15  # seconds for a stopped stage to finish its step and write a checkpoint
PATIENCE_OF_A_RUN = 4  # the same if a Prefect worker started the run: the worker kills a cancelled run after 10
KILLED_WITHIN = 5  # seconds
OF_A_RUN = "PREFECT__"  # prefix of variables that a Prefect worker sets for its runs alone

logger = logging.getLogger(__name__)


def reproduce(stage: str, environment: dict[str, str], seconds: float | None = None) -> None:
    """Run one stage through `dvc repro`, which dies with this process.

    If it fails, the stage's earlier outs stay. The checkpoints of a finished training stay until dvc has stored its
    outs. `environment` is added to this process's. Raises UserError when it fails, and when it takes longer than
    `seconds`.
    """
    began = time.time()
    with _outs_kept(stage):
        dvc = _start_dvc(["repro", "--quiet", "--single-item", stage], {**environment, KEEP: "1"})
        with _stopped_on_error(dvc):
            try:
                exit_code = dvc.wait(seconds)
            except psutil.TimeoutExpired:
                hours = f"{(seconds or 0) / 3600:.3g} h"
                way_on = "the next run goes on from its last checkpoint"
                raise UserError(f"stage {stage} took longer than {hours}; {way_on}") from None
        if exit_code < 0:
            raise UserError(f"stage {stage} failed: dvc was killed by signal {-exit_code}")
        if exit_code:
            raise UserError(f"stage {stage} failed: {_last_words(stage, began)}")
    for mark in (STATE / "stages" / stage).glob(f"*/{FINISHED}"):
        shutil.rmtree(mark.parent)


def push(seconds: float) -> None:
    """Push the files that dvc.lock names to DVC's default remote. Raises UserError if that fails or takes too long."""
    dvc = _start_dvc(["push"], {}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with _stopped_on_error(dvc):
        try:
            _, errors = dvc.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise UserError(f"dvc push took longer than {seconds:.0f} s") from None
    if dvc.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or [f"exit code {dvc.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise UserError(f"dvc push: {reason.removeprefix('ERROR: ')}")


def stop(dvc: psutil.Process, patience: float | None = None) -> None:
    """Stop the stage, which may first write a checkpoint, and dvc with it.

    They are killed after `patience` seconds, by default PATIENCE or PATIENCE_OF_A_RUN. The next run of a killed stage
    goes on from its last checkpoint.
    """
    if patience is None:
        is_of_a_run = any(name.startswith(OF_A_RUN) for name in os.environ)
        patience = PATIENCE_OF_A_RUN if is_of_a_run else PATIENCE
    with suppress(psutil.NoSuchProcess):
        stages = dvc.children()
        running = [*dvc.children(recursive=True), dvc]
        # dvc ends with its stage; if it ended first, the stage would get a second signal
        _signal_all(stages or [dvc], signal.SIGTERM)
        _, running = psutil.wait_procs(running, patience)
        # dvc last, and only if it did not end with its stage: a kill while it writes dvc.lock leaves half a file
        _signal_all([process for process in running if process != dvc], signal.SIGKILL)
        _, running = psutil.wait_procs(running, KILLED_WITHIN)
        _signal_all(running, signal.SIGKILL)
        psutil.wait_procs(running, KILLED_WITHIN)


def _signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextmanager
def _stopped_on_error(dvc: psutil.Process) -> Generator[None]:
    """If the block raises, stop dvc."""
    try:
        yield
    except BaseException:
        stop(dvc)
        raise


@contextmanager
def _outs_kept(stage: str) -> Generator[None]:
    """If the block raises, restore the stage's outs, which DVC removes before a run: cached outs from the cache, as
    dvc.lock names them; the others, which are small, from a copy."""
    with Repo() as repo:
        outs = [out for dvc_stage in repo.stage.collect(stage) for out in dvc_stage.outs if out.exists]
        cached = [out.def_path for out in outs if out.use_cache and not out.changed_cache()]
        uncached = [Path(out.def_path) for out in outs if not out.use_cache]
        contents = {path: path.read_bytes() for path in uncached}
    try:
        yield
    except BaseException:
        for path, content in contents.items():
            write_atomic(path, content)
        if cached:
            try:
                with Repo() as repo:
                    repo.checkout(cached, force=True)
            except DvcException as error:  # dvc.lock may name others, which no cache holds
                logger.warning("%s: what it made before can't be put back: %s", stage, error)
        raise


def _start_dvc(arguments: list[str], environment: dict[str, str], **options: Any) -> psutil.Popen:
    """Start a dvc that dies with this process and waits for another dvc; its `python` is this interpreter.

    It has a process group of its own: a signal to the terminal's or the worker's whole group reaches it only through
    this process.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_RUN)}
    command = [sys.executable, "-P", parent_death.__file__, sys.executable, "-m", "dvc"]
    command += ["--wait-for-lock", *arguments]
    return psutil.Popen(command, env={**inherited, "PATH": path, **environment}, process_group=0, **options)


def _last_words(stage: str, began: float) -> str:
    """The last line of a stage's log, if it was written since `began`."""
    log = STATE / "stages" / stage / "log"
    if not log.exists() or log.stat().st_mtime < began:
        return "the reason stands above"
    lines = log.read_text(errors="replace").splitlines() or [""]
    return f"{lines[-1].removeprefix('error: ')} ({log})"
