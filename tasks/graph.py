"""The DVC graph: its stages in order, which of them are stale, and how one is run."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import networkx as nx
import psutil
from dvc.exceptions import DvcException
from dvc.repo import Repo

PATIENCE = 20  # seconds that an interrupted stage has for its last step and its checkpoint


def stages() -> list[str]:
    """The names of all stages, each behind what it depends on."""
    with Repo() as repo:
        graph = nx.relabel_nodes(repo.index.graph, lambda stage: stage.addressing)
        return list(nx.lexicographical_topological_sort(graph.reverse()))


def is_stale(stage: str | None = None) -> bool:
    """Whether a stage's params, deps, outs or command differ from dvc.lock; without a name, whether any stage's do.

    Only what a stage names itself is looked at, not what stands behind it: ask in the order of `stages`.
    Raises ValueError for a dvc.yaml that DVC cannot read.
    """
    try:
        with Repo() as repo:
            return bool(repo.status(targets=[stage] if stage else None))
    except DvcException as error:
        raise ValueError(str(error)) from None


def reproduce(stage: str, environment: dict[str, str]) -> None:
    """Run one stage through `dvc repro`, which dies with this process. Raises RuntimeError when it fails.

    `environment` is added to this process's; its `python` is this interpreter.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", "tasks.lifeline", sys.executable, "-m", "dvc", "repro", "--quiet"]
    command += ["--single-item", stage]
    dvc = psutil.Popen(command, env={**os.environ, "PATH": path, **environment})
    try:
        failed = dvc.wait()
    except BaseException as error:
        with suppress(psutil.NoSuchProcess):
            running = [dvc, *dvc.children(recursive=True)]
            if not isinstance(error, KeyboardInterrupt):  # Ctrl-C has reached the stage, too; else it ends with dvc
                dvc.terminate()
            psutil.wait_procs(running, PATIENCE)  # the stage may be writing a checkpoint
            dvc.terminate()
        raise
    if failed:
        raise RuntimeError(f"stage {stage} failed; the reason stands above")
