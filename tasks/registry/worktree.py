"""A commit in a temporary folder: a git worktree in which stages run and leave no trace in this folder.

It has a tracking store of its own. It reads from this folder's DVC cache and remotes, and writes to neither.
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from llm.errors import UserError
from tasks.registry.git import git, git_output
from tasks.stages import parent_death
from tasks.stages.dvc_process import stop
from tasks.stages.graph import remote
from tasks.stages.hashes import PREFIX, md5_of
from tasks.stages.libraries import FILE, write_libraries

STOPS_WITHIN = 8  # seconds for a stage to end its run on the Prefect server; its checkpoint is not needed
OF_THIS_FOLDER = ("DVC_STAGE", "GIT_", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT", "PREFECT__", "PYTHONSAFEPATH")
"""Prefixes of variables that would lead a stage back into this folder or into this process's run."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worktree:
    """The project at a commit."""

    project: Path
    scratch: Path
    """A temporary folder next to it."""

    def bring(self, hashes: Mapping[str, str]) -> list[str]:
        """Bring files and folders by DVC's MD5 from the cache, else from the default remote.

        Returns the paths that neither has. The worktree's dvc.lock must name these hashes.
        """

        paths = self._missing(hashes)
        for command in ("checkout", "pull") if remote() else ("checkout",):
            if paths:
                self._dvc(f"{command} --force --allow-missing", *paths)
                paths = self._missing(hashes)
        for path in hashes:
            logger.info("%s: %s", path, "in neither cache nor remote" if path in paths else "from DVC")
        return paths

    def _missing(self, hashes: Mapping[str, str]) -> list[str]:
        """The paths that do not hold these bytes."""
        return [path for path, md5 in hashes.items() if not holds_bytes(self.project / path, md5)]

    def run(self, stage: str, environment: Mapping[str, str], threads: int | str | None = None) -> None:
        """Run one stage through `dvc repro`, without writing to the cache. Raises UserError when it fails.

        It uses `threads` threads, by default this machine's number.
        """
        counts = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {}
        command = "repro --single-item --force --no-commit --no-run-cache"
        exit_code = self._dvc(command, stage, environment={**counts, **environment})
        if exit_code:
            reason = f"dvc was killed by signal {-exit_code}" if exit_code < 0 else "the reason stands above"
            raise UserError(f"stage {stage} failed; {reason}")

    def _dvc(self, command: str, *arguments: str, environment: Mapping[str, str] | None = None) -> int:
        """Run a dvc command that dies with this process, in a process group of its own. Returns its exit code."""
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(OF_THIS_FOLDER)},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "TMPDIR": str(self.scratch),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.scratch / "dvc"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.scratch / 'mlflow.db'}",
            **(environment or {}),
        }
        guard = [sys.executable, "-P", parent_death.__file__]
        words = [*guard, sys.executable, "-m", "dvc", *command.split(), *arguments, "--quiet"]
        dvc = psutil.Popen(words, cwd=self.project, env=variables, stdin=subprocess.DEVNULL, process_group=0)
        try:
            return dvc.wait()
        except BaseException:
            stop(dvc, STOPS_WITHIN)
            raise


def holds_bytes(path: Path, md5: str) -> bool:
    """Whether a file or folder has the bytes of DVC's MD5."""
    return path.exists() and md5_of(path) == md5


@contextmanager
def checkout(commit: str) -> Generator[Worktree]:
    """Yield a commit in a temporary folder, which is removed afterwards.

    Raises UserError if there is no such commit.
    """
    prefix = git("rev-parse --show-prefix")
    scratch = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-")).resolve()
    tree = scratch / "worktree"
    try:
        git("worktree add --quiet --detach", str(tree), commit)
        _share_cache(tree / prefix)
        if (tree / prefix / FILE).exists():
            write_libraries(tree / prefix)  # a stage refuses to run if other libraries are recorded
        yield Worktree(tree / prefix, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        git_output("worktree remove --force --force", str(tree))


def _share_cache(project: Path) -> None:
    """Let DVC in a worktree read from this folder's cache and remotes, whose settings may be in no commit."""
    from dvc.repo import Repo

    with Repo() as here, Repo(str(project)) as there, there.config.edit("local") as local:
        local["cache"]["dir"] = here.cache.local_cache_dir
        local["remote"] = {name: dict(settings) for name, settings in here.config["remote"].items()}
        if name := here.config["core"].get("remote"):
            local["core"]["remote"] = name
