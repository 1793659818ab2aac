"""DVC: which stages are stale and why, `dvc repro --keep-going` as a process, and what a run leaves for git."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import networkx as nx
import psutil
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage

from llm.errors import UserError
from tasks.stages import parent_death
from tasks.stages.hashes import LOCK, locked_stages
from tasks.stages.lock import FINISHED, KEEP, STATE

OPTIONAL = ("load_published", "replay@")
"""How the names of stages begin that run only if another stage needs their outs."""
PATIENCE = 8
"""Seconds for a stopped stage to finish its step and write a checkpoint. A Prefect worker kills a cancelled run after
10."""
LATER = "the next run goes on from the last checkpoint"
OF_A_RUN = "PREFECT__"
"""How the names of variables begin that a Prefect worker sets for its run alone."""
ASKS_EVERY = 1  # seconds, while another dvc works in the project
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class BusyError(UserError):
    """Another dvc works in the project."""


@contextmanager
def open_project(*, wait: bool = False) -> Generator[Repo]:
    """DVC's project around this folder; with `wait`, DVC waits as long as another dvc has its lock.

    Raises UserError, on one line, for DVC's errors, such as a dvc.yaml that it cannot read; BusyError if another dvc
    has the lock, or runs a stage whose files are asked for.
    """
    try:
        with Repo(_wait_for_lock=wait) as repo:
            yield repo
    except DvcException as error:
        kind = BusyError if isinstance(error, LockError) else UserError
        raise kind(" ".join(str(error).split())) from None


def _when_free(work: Callable[[], Result]) -> Result:
    """The result of `work`, once no other dvc is in its way: DVC waits for the lock by itself, but for no stage."""
    is_told = False
    while True:
        try:
            return work()
        except BusyError as error:
            if not is_told:
                logger.info("waiting for another dvc: %s", error)
            is_told = True
            time.sleep(ASKS_EVERY)


def stages(last: Collection[str] = ()) -> dict[str, set[str]]:
    """These stages and those that they need, in an order of a run, each with all that it needs; all stages for none.

    `load_published` and replays are among them only if another stage needs what they make. Raises UserError for a name
    that is no stage.
    """
    with open_project() as repo:
        return _needed(repo, last)


def _needed(repo: Repo, last: Collection[str]) -> dict[str, set[str]]:
    pipeline = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]  # without pointers to data
    names = {str(stage.name) for stage in pipeline}
    if unknown := sorted(set(last) - names):
        raise UserError(f"dvc.yaml has no stage {', '.join(unknown)}; it has {', '.join(sorted(names))}")
    graph = repo.index.graph.subgraph(pipeline)  # an edge leads from a stage to one that it needs
    needed: dict[str, set[str]] = {}
    for stage in pipeline:
        is_wanted = stage.name in last if last else not str(stage.name).startswith(OPTIONAL)
        if is_wanted:
            for node in nx.dfs_postorder_nodes(graph, stage):
                needed[node.addressing] = {before.addressing for before in nx.descendants(graph, node)}
    return needed


def stale(last: Collection[str] = (), *, wait: bool = False) -> dict[str, list[str]]:
    """Which of `stages(last)` are stale, each with its reasons, such as `models/foundation is missing`.

    A stage whose deps will only change once another stage has run is not among them. With `wait`, it waits as long as
    another dvc works in the project.
    """

    def status_and_names() -> tuple[dict[str, Any], dict[str, set[str]]]:
        with open_project(wait=wait) as repo:
            return repo.status(), _needed(repo, last)

    status, names = _when_free(status_and_names) if wait else status_and_names()
    recorded = locked_stages()
    reasons: dict[str, list[str]] = {}
    for name in names:
        if name in status:
            reasons[name] = _reasons(status[name]) if name in recorded else ["it never ran"]
    return reasons


def _reasons(entries: list[Any]) -> list[str]:
    """A stage's entries in DVC's status as lines."""
    lines: list[str] = []
    for entry in entries:
        if isinstance(entry, str):  # "changed command"
            lines.append(entry)
            continue
        for changes in entry.values():  # of "changed deps" or "changed outs"
            for path, change in changes.items():
                if isinstance(change, dict):  # a file of parameters
                    lines += [f"{name} {how}" for name, how in change.items()]
                else:
                    lines.append(f"{path} {change}" if Path(path).exists() else f"{path} is missing")
    return lines


def reproduce(
    last: Collection[str], environment: Mapping[str, str], seconds: float | None = None
) -> dict[str, list[str]]:
    """`dvc repro --keep-going` of these stages and what they need, all for none. Returns those that are stale then.

    A failed stage stops only what depends on it. dvc ends with this process, and a training first writes a checkpoint.
    The checkpoints of a finished training stay until dvc has stored its outs. `environment` is added to this process's.
    Raises UserError if it takes longer than `seconds`.
    """
    words = ["repro", "--keep-going", *stages(last)]  # with --quiet, dvc would not say why it can't run a stage
    dvc = _start_dvc(*words, environment={**environment, KEEP: "1"})
    with _stopped_on_error(dvc):
        try:
            code = dvc.wait(seconds)
        except psutil.TimeoutExpired:
            hours = f"{(seconds or 0) / 3600:.3g} h"
            raise UserError(f"the stages took longer than {hours}; {LATER}") from None
    if code < 0:
        raise UserError(f"dvc was killed by signal {-code}; {LATER}")
    behind = stale(last, wait=True)
    for mark in STATE.glob(f"stages/*/*/{FINISHED}"):
        if mark.parent.parent.name not in behind:
            shutil.rmtree(mark.parent)
    return behind


def push(seconds: float) -> None:
    """Push the files that dvc.lock names to DVC's default remote. Raises UserError if that fails or takes too long."""
    dvc = _start_dvc("push", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with _stopped_on_error(dvc):
        try:
            _, errors = dvc.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise UserError(f"dvc push took longer than {seconds:.0f} s") from None
    if dvc.returncode:
        lines = errors.decode(errors="replace").strip().splitlines() or [f"exit code {dvc.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise UserError(f"dvc push: {reason.removeprefix('ERROR: ')}")


def _start_dvc(*arguments: str, environment: Mapping[str, str] | None = None, **options: Any) -> psutil.Popen:
    """Start a dvc that dies with this process and waits for another dvc; its `python` is this interpreter.

    It has a process group of its own: Ctrl-C reaches it only through this process.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_RUN)}
    command = [sys.executable, "-P", parent_death.__file__, sys.executable, "-m", "dvc", "--wait-for-lock"]
    variables = {**inherited, "PATH": path, **(environment or {})}
    return psutil.Popen([*command, *arguments], env=variables, process_group=0, **options)


@contextmanager
def _stopped_on_error(dvc: psutil.Popen) -> Generator[None]:
    """If the block raises, stop dvc."""
    try:
        yield
    except BaseException:
        _stop(dvc)
        raise


def _stop(dvc: psutil.Popen) -> None:
    """Stop dvc and the stage that runs, which may first write a checkpoint.

    A dvc that waits for a stage is killed first: with --keep-going it would begin the next one. One that does not may
    be writing dvc.lock, and ends by itself.
    """
    with suppress(psutil.NoSuchProcess):
        stages = dvc.children()
        running = [*dvc.children(recursive=True), dvc]
        dvc.kill() if stages else dvc.terminate()
        for stage in stages:
            stage.terminate()
        deadline = time.monotonic() + PATIENCE
        while any(map(_is_alive, running)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    dvc.wait()


def _is_alive(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def track(folder: Path, *, wait: bool = False) -> list[str]:
    """Add the files and folders in each subfolder of `folder` to DVC. Returns their pointers (`*.dvc`), for git.

    Raises UserError if one that DVC knows is missing here.
    """
    pointers = set(folder.glob("*/*.dvc"))
    for pointer in sorted(pointers):
        if not pointer.with_suffix("").exists():
            raise UserError(f"{pointer}: its data is not here; `dvc pull` brings it, `dvc remove {pointer}` forgets it")
    paths = sorted(str(path) for path in set(folder.glob("*/[!.]*")) - pointers)

    def add() -> None:
        with open_project(wait=wait) as repo:
            repo.scm_context.quiet = True  # the caller adds the pointers to git
            repo.add(paths)

    if paths:
        _when_free(add) if wait else add()
    return [f"{path}.dvc" for path in paths]


def results() -> tuple[list[str], list[str]]:
    """The files of a run that git keeps: first dvc.lock, outs that DVC does not cache, and pointers to data; second the
    parameters. An out may be missing: a stage that fails leaves none."""
    with open_project() as repo:
        stages = repo.index.stages
        pointers = {stage.relpath for stage in stages if not isinstance(stage, PipelineStage)}
        parameters = {dep.def_path for stage in stages for dep in stage.params}
        outs = {out.def_path for stage in stages for out in stage.outs if not out.use_cache}
    return [str(LOCK), *sorted(outs | pointers)], sorted(parameters)


def remote() -> str | None:
    """The name of DVC's default remote, or None."""
    with open_project() as repo:
        name: str | None = repo.config["core"].get("remote")
    return name
