"""The DVC graph: its stages in order, which of them are stale, and how one is run."""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import psutil
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage import PipelineStage

from llm.errors import UserError
from llm.files import write_atomic
from tasks.stages import parent_death
from tasks.stages.dvc_lock import dvc_errors
from tasks.stages.lock import FINISHED, KEEP, STATE

LOCK_FILE = "dvc.lock"
RAN, RESTORED, UP_TO_DATE = "ran", "restored", "up to date"
LOAD_PUBLISHED, REPLAY = "load_published", "replay@"  # stages that run only if another needs their outs
PATIENCE = 15  # seconds for a stopped stage to finish its step and write a checkpoint
PATIENCE_OF_A_RUN = 4  # the same if a Prefect worker started the run: the worker kills a cancelled run after 10
KILLED_WITHIN = 5  # seconds
OF_A_RUN = "PREFECT__"  # prefix of variables that a Prefect worker sets for its runs alone

logger = logging.getLogger(__name__)


def _graph(repo: Repo) -> nx.DiGraph:
    """The names of the needed stages, with an edge from each to those that depend on it."""
    stages = [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]  # without pointers to data
    graph = nx.relabel_nodes(repo.index.graph.subgraph(stages), lambda stage: stage.name).reverse()
    for name in reversed([*nx.topological_sort(graph)]):
        if _is_optional(name) and not graph.out_degree(name):
            graph.remove_node(name)
    return graph


def _is_optional(stage: str) -> bool:
    return stage == LOAD_PUBLISHED or stage.startswith(REPLAY)


def stages(folder: Path = Path(), last: Collection[str] = ()) -> list[str]:
    """The names of a project's stages in topological order; with `last`, only these and their ancestors.

    `load_published` and replays are among them only if another stage needs what they make.
    """
    with Repo(str(folder)) as repo:
        graph = _graph(repo)
        names = set(last).union(*(nx.ancestors(graph, name) for name in last)) if last else set(graph)
        return [name for name in nx.lexicographical_topological_sort(graph) if name in names]


def is_stale() -> bool:
    """Whether params, deps, outs or command of any needed stage differ from dvc.lock.

    Raises UserError for a dvc.yaml or dvc.lock that DVC cannot read, and BusyError while another dvc works.
    """
    with dvc_errors(), Repo() as repo:
        stale = set(repo.status())
        optional = {stage for stage in stale if _is_optional(stage)}
        return bool(stale - optional or (optional and optional & set(_graph(repo))))


@dataclass(frozen=True)
class Plan:
    """All stages and the stale ones, each in topological order."""

    stages: list[str]
    """All of them."""
    why: dict[str, list[str]]
    """For each stale stage, what differs from dvc.lock, such as `models/foundation is missing`."""
    behind: dict[str, set[str]]
    """The stale stages and their descendants, which become stale only if outs change; each with its ancestors."""


def plan() -> Plan:
    """Which stages to run.

    Checks each stage as `is_stale` does. A stage that runs now makes those that share its files say so. Raises
    UserError as `is_stale` does.
    """
    with dvc_errors(), Repo() as repo, repo.lock:
        graph, known = _graph(repo), {stage.addressing: stage for stage in repo.index.stages}
        names = list(nx.lexicographical_topological_sort(graph))
        why = {name: reasons for name in names if (reasons := _reasons(known[name]))}
        after = set(why).union(*(nx.descendants(graph, name) for name in why))
        behind = {name: nx.ancestors(graph, name) for name in names if name in after}
    return Plan(names, why, behind)


def changes() -> dict[str, list[str]]:
    """Why each stale stage is stale, in topological order. Raises UserError as `is_stale` does."""
    return plan().why


def expected(stage: str) -> str:
    """What `reproduce` will do: nothing (UP_TO_DATE), restore the outs from DVC's cache (RESTORED), or run (RAN).

    It checks a stage's own params, deps and outs, not the stages that make them: ask in the order of `stages`. Raises
    UserError as `is_stale` does.
    """
    with dvc_errors(), Repo() as repo, repo.lock:
        (found,) = repo.stage.collect(stage)
        if not found.status():
            return UP_TO_DATE
        return RESTORED if _is_cached(repo, found) else RAN


def _is_cached(repo: Repo, stage: PipelineStage) -> bool:
    """Whether DVC's cache has the outs of the present parameters and deps: from an earlier run, or as dvc.lock says."""
    if not stage.changed_stage() and stage.deps_cached():
        return stage.outs_cached()
    if not (stage.deps and stage.outs):  # DVC's run cache has no such stage
        return False
    try:
        stage.save_deps()
    except DvcException:  # a dep is missing; DVC says so when the stage runs
        return False
    cache = repo.stage_cache._load(stage)
    return bool(cache) and repo.stage_cache._create_stage(cache, stage.wdir).outs_cached()


def _reasons(stage: PipelineStage) -> list[str]:
    if not any(each.hash_info for each in (*stage.deps, *stage.outs)):
        return ["it never ran"]
    try:
        (said,) = stage.status().values() or [[]]
    except LockError:
        return ["a stage that runs now holds its files"]
    found = []
    for each in said:
        if isinstance(each, str):  # "changed command"
            found.append(each)
            continue
        (changed,) = each.values()
        for path, what in changed.items():
            if isinstance(what, dict):  # a file of parameters
                found += [f"{name} {how}" for name, how in what.items()]
            elif what in ("deleted", "not in cache") and not Path(path).exists():
                found.append(f"{path} is missing")
            else:
                found.append(f"{path} {what}")
    return found


def track(folder: Path) -> list[str]:
    """Add the files and folders in each subfolder of `folder` to DVC. Returns their pointers (`*.dvc`), for git.

    Raises UserError if one that DVC knows is missing here, and BusyError while another dvc works.
    """
    pointers = set(folder.glob("*/*.dvc"))
    if gone := [each for each in sorted(pointers) if not each.with_suffix("").exists()]:
        raise UserError(f"{gone[0]}: its data is not here; `dvc pull` brings it, `dvc remove {gone[0]}` forgets it")
    paths = sorted(str(each) for each in set(folder.glob("*/[!.]*")) - pointers)
    if not paths:
        return []
    with dvc_errors(), Repo() as repo:
        repo.scm_context.quiet = True  # the caller adds the pointers to git
        repo.add(paths)
    return [f"{path}.dvc" for path in paths]


def results() -> tuple[list[str], list[str]]:
    """The files of a run that git keeps: first dvc.lock, outs that DVC does not cache, and pointers to data; second the
    parameters. Raises UserError as `is_stale` does."""
    with dvc_errors(), Repo() as repo:
        stages = repo.index.stages
        pointers = {stage.relpath for stage in stages if not isinstance(stage, PipelineStage)}
        parameters = {dep.def_path for stage in stages for dep in stage.params}
        kept = {out.def_path for stage in stages for out in stage.outs if not out.use_cache}
    return [LOCK_FILE, *sorted(path for path in kept | pointers if Path(path).exists())], sorted(parameters)


def remote() -> str | None:
    """The name of DVC's default remote, if there is one."""
    with Repo() as repo:
        return repo.config["core"].get("remote")


def push(seconds: float) -> None:
    """Push the files that dvc.lock names to DVC's default remote. Raises UserError if that fails or takes too long."""
    dvc = _start_dvc(["push"], {}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = dvc.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stop(dvc)
        raise UserError(f"dvc push took longer than {seconds:.0f} s") from None
    except BaseException:
        stop(dvc)
        raise
    if dvc.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or [f"exit code {dvc.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise UserError(f"dvc push: {reason.removeprefix('ERROR: ')}")


@contextmanager
def _outs_kept(stage: str) -> Iterator[None]:
    """If the block raises, restore the stage's outs, which DVC removes before a run: cached outs from the cache, as
    dvc.lock names them; the others, which are small, from a copy."""
    with Repo() as repo:
        outs = [out for each in repo.stage.collect(stage) for out in each.outs]
        cached = [out.def_path for out in outs if out.use_cache and out.exists and not out.changed_cache()]
        others = [Path(out.def_path) for out in outs if not out.use_cache and out.exists]
        contents = {path: path.read_bytes() for path in others}
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


def reproduce(stage: str, environment: dict[str, str], seconds: float | None = None) -> None:
    """Run one stage through `dvc repro`, which dies with this process.

    If it fails, the stage's earlier outs stay. The checkpoints of a finished training stay until dvc has stored its
    outs. `environment` is added to this process's. Raises UserError when it fails, and when it takes longer than
    `seconds`.
    """
    began = time.time()
    with _outs_kept(stage):
        dvc = _start_dvc(["repro", "--quiet", "--single-item", stage], {**environment, KEEP: "1"})
        try:
            failed = dvc.wait(seconds)
        except psutil.TimeoutExpired:
            stop(dvc)
            said = f"took longer than {seconds / 3600:.3g} h"
            raise UserError(f"stage {stage} {said}; the next run goes on from its last checkpoint") from None
        except BaseException:
            stop(dvc)
            raise
        if failed:
            reason = f"dvc was killed by signal {-failed}" if failed < 0 else _last_words(stage, began)
            raise UserError(f"stage {stage} failed: {reason}")
    for mark in (STATE / "stages" / stage).glob(f"*/{FINISHED}"):
        shutil.rmtree(mark.parent)


def _last_words(stage: str, began: float) -> str:
    """The last line of a stage's log, if it was written since `began`."""
    log = STATE / "stages" / stage / "log"
    if not log.exists() or log.stat().st_mtime < began:
        return "the reason stands above"
    *_, last = ["", *log.read_text(errors="replace").splitlines()]
    return f"{last.removeprefix('error: ')} ({log})"


def stop(dvc: psutil.Process, patience: float | None = None) -> None:
    """Stop the stage, which may first write a checkpoint, and dvc with it.

    They are killed after `patience` seconds, by default PATIENCE or PATIENCE_OF_A_RUN. The next run of a killed stage
    goes on from its last checkpoint.
    """
    if patience is None:
        of_a_run = any(name.startswith(OF_A_RUN) for name in os.environ)
        patience = PATIENCE_OF_A_RUN if of_a_run else PATIENCE
    with suppress(psutil.NoSuchProcess):
        running = [*dvc.children(recursive=True), dvc]
        # dvc ends with its stage; if it ended first, the stage would get a second signal
        for each in dvc.children() or [dvc]:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        _, running = psutil.wait_procs(running, patience)
        # dvc last, and only if it did not end with its stage: a kill while it writes dvc.lock leaves half a file
        for killed in ([each for each in running if each != dvc], [dvc]):
            for each in set(killed) & set(running):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            _, running = psutil.wait_procs(running, KILLED_WITHIN)
