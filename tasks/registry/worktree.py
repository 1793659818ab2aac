"""A commit in a temporary folder, a clean git worktree, where stages run and leave no trace in this folder.

It has a tracking store and a DVC cache of its own. A version's commit comes with what was not in it.
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import psutil
from mlflow.entities import Run

from llm.errors import UserError
from tasks.registry.ancestry import recorded_stages
from tasks.registry.facts import not_in_git
from tasks.registry.find import find_version
from tasks.registry.git import fetch_more, git, git_output
from tasks.registry.record import find_run, holds
from tasks.registry.register import NO_RUN, TRAINING_RUN
from tasks.registry.tracking import configure_tracking, server_errors
from tasks.stages import lifeline
from tasks.stages.graph import stop
from tasks.stages.hashes import PREFIX, Hashes, as_hashes, md5_of

UNCOMMITTED = "lineage/uncommitted.diff"  # among the artifacts of a version's run: what its commit lacks
SCRATCH, TREE, HELD = f"{PREFIX}-", "worktree", "held"  # a temporary folder, and the worktree and the lock in it
CACHE = "cache-of-the-project"
STOPS_WITHIN = 8  # seconds that a stage has to say goodbye to its server; its checkpoint is of no use
OF_A_FOLDER = (  # how variables begin that lead a stage back into this folder, or into the run that this process is
    *("DVC_STAGE", "GIT_", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT", "PREFECT__", "PYTHONSAFEPATH"),
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """A version as the registry has it."""

    uri: str
    """`models:/threestage-classifier/3`."""
    model: str
    run_id: str
    """Of its own run, which holds its evidence."""
    commit: str
    uncommitted: str
    """What was not in that commit, such as `not in git: params.yaml, steps 900 -> 20`; empty where it held all."""
    hashes: Hashes
    """Of its training and its evaluation, without parameters and code."""
    stages: Mapping[str, Hashes]
    """Of all that it was made by, where that was written down with it."""
    training: Run | None
    """The MLflow run that trained it, where this store has it."""


@dataclass(frozen=True)
class Worktree:
    """The project as a commit has it."""

    project: Path
    scratch: Path
    """A folder beside it for whatever comes up."""

    @contextmanager
    def repo(self) -> Iterator[Any]:
        """The worktree as DVC sees it, with this folder's cache and remotes as places to read from."""
        from dvc.repo import Repo

        with Repo() as here:
            remotes = {name: dict(remote) for name, remote in here.config["remote"].items()}
            remotes[CACHE] = {"url": here.cache.local_cache_dir}
            core = {name: value for name, value in here.config["core"].items() if name == "remote"}
        config = {
            "core": {**core, "site_cache_dir": str(self.scratch / "dvc")},
            "cache": {"dir": str(self.scratch / "cache")},
            "remote": remotes,
        }
        with Repo(str(self.project), config=config) as repo:
            yield repo

    def restore(self, path: str, md5: str) -> bool:
        """Bring back an out by its hash, from the cache or the remote of this folder; whether one of them had it."""
        from dvc_data.hashfile.hash_info import HashInfo

        target = self.project / path
        with self.repo() as repo, repo.lock:
            places = [CACHE, *([name] if (name := repo.config["core"].get("remote")) else [])]
            for place in places:
                (out,) = repo.find_outs_by_path(str(target))
                out.hash_info, out.obj = HashInfo("md5", md5), None
                try:
                    for objects in out.get_used_objs(remote=place, force=True).values():
                        repo.cloud.pull(objects, remote=place)
                    out.checkout(force=True)
                except Exception as error:  # each kind of remote has its own: the next may have it, or it is made again
                    level = logging.DEBUG if place == CACHE else logging.WARNING
                    logger.log(level, "%s: %s", place, " ".join(str(error).split()))
                if target.exists() and md5_of(target) == md5:
                    logger.info("%s: from %s", path, "DVC's cache" if place == CACHE else f"the remote {place}")
                    return True
        logger.info("%s: its bytes of then (%s) are in no cache or remote here, so they are made again", path, md5)
        return False

    def run(self, stage: str, environment: Mapping[str, str], threads: int | str | None = None) -> None:
        """Run one stage here through `dvc repro`, which dies with this process; its outs go into no cache.

        `threads` are those that it computes with, where not this machine's number. Raises UserError when it fails.
        """
        command = [sys.executable, "-P", lifeline.__file__, sys.executable, "-m", "dvc", "repro", "--quiet"]
        command += ["--single-item", "--force", "--no-commit", stage]
        # In a group of its own, so that what stops a terminal's or a worker's whole group comes through here alone.
        variables = self._variables(threads) | environment
        dvc = psutil.Popen(command, cwd=self.project, env=variables, stdin=subprocess.DEVNULL, process_group=0)
        try:
            failed = dvc.wait()
        except BaseException:
            with undisturbed():
                stop(dvc, STOPS_WITHIN)
            raise
        if failed:
            reason = f"dvc was killed by signal {-failed}" if failed < 0 else "the reason stands above"
            raise UserError(f"stage {stage} failed; {reason}")

    def _variables(self, threads: int | str | None) -> dict[str, str]:
        """This process's variables, but for those that lead a stage back into this folder."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_A_FOLDER)}
        return {
            **kept,
            **({name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} if threads else {}),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "TMPDIR": str(self.scratch),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.scratch / "dvc"),
            "OPENLINEAGE_DISABLED": "true",  # what is made here, others have already
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.scratch / 'mlflow.db'}",
        }


def registered(named: str) -> Registered:
    """The version that `named` names, as for `tasks.registry.find.find_version`.

    Raises UserError for one that is not there, that this pipeline didn't make, that was made outside git, or whose
    commit this repository doesn't have.
    """
    configure_tracking()
    with server_errors():
        version = find_version(named)
        training, stages = find_run(version.tags.get(TRAINING_RUN)), recorded_stages(version)
    uri, hashes, tags = f"models:/{version.name}/{version.version}", Hashes.of_tags(version.tags), version.tags
    models = [path.removeprefix("models/") for path in hashes.outs if path.startswith("models/")]
    if len(models) != 1:
        raise UserError(f"{uri}: its tags name no model of this pipeline; `python -m flows.register` makes versions")
    commit = tags.get(f"{PREFIX}.git.commit", NO_RUN)
    if commit == NO_RUN:
        raise UserError(f"{uri}: it was registered outside git, so nobody knows its code and parameters")
    _check_commit(uri, commit)
    known = {name: as_hashes(stage) for name, stage in stages.items()}
    return Registered(uri, models[0], version.run_id, commit, not_in_git(tags), hashes, known, training)


def _check_commit(uri: str, commit: str) -> None:
    git("rev-parse", "--show-toplevel")  # says itself where there is no repository
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}")
    except UserError:
        way_out = f"`{fetch_more()}` where it was pushed, or run this in the clone that made it"
        raise UserError(f"{uri}: this repository has no commit {commit}; {way_out}") from None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Clean up to the end, also where the impatient press Ctrl-C again."""
    if threading.current_thread() is not threading.main_thread():  # which alone hears of signals
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def checkout(commit: str) -> Iterator[Worktree]:
    """Yield a commit in a temporary folder that is gone afterwards. Raises UserError where there is no such commit."""
    prefix = git("rev-parse", "--show-prefix")
    _remove_abandoned()
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH)).resolve()
    tree = scratch / TREE
    held = (scratch / HELD).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        yield Worktree(tree / prefix, scratch)
    finally:
        with undisturbed():
            _remove(scratch)
            held.close()


def _remove(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    git_output("worktree", "remove", "--force", "--force", str(scratch / TREE))


def _remove_abandoned() -> None:
    """Remove the folders of those that were killed, which are as large as a model and its data."""
    for line in git("worktree", "list", "--porcelain", "-z").split("\0"):
        tree = Path(line.removeprefix("worktree "))
        if not line.startswith("worktree ") or tree.name != TREE or not tree.parent.name.startswith(SCRATCH):
            continue
        with suppress(OSError), (tree.parent / HELD).open("r+") as held:  # not there: of another machine, or gone
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one that is in use is held
            logger.info("%s: whoever made it was killed; removed", tree.parent)
            _remove(tree.parent)


@contextmanager
def worktree(version: Registered) -> Iterator[Worktree]:
    """Yield the commit of a version, with what was not in it, as `checkout` does.

    Raises UserError where what was not in git is not known, or doesn't apply.
    """
    with checkout(version.commit) as tree:
        if version.uncommitted:
            _apply_uncommitted(version, tree)
        yield tree


def _apply_uncommitted(version: Registered, tree: Worktree) -> None:
    lacking = f"{version.uri}: its commit {version.commit} lacks what it was made with ({version.uncommitted})"
    with server_errors():
        if not holds(version.run_id, UNCOMMITTED):
            raise UserError(f"{lacking}, and its run holds no {UNCOMMITTED}, so it can't be made again")
        place = f"runs:/{version.run_id}/{UNCOMMITTED}"
        diff = mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=str(tree.scratch / "uncommitted"))
    root = Path(git("rev-parse", "--show-toplevel", folder=tree.project))
    inside = tree.project.relative_to(root).parts
    try:
        git("apply", "--whitespace=nowarn", *([f"--directory={Path(*inside)}"] if inside else []), diff, folder=root)
    except UserError as error:
        raise UserError(f"{lacking}, and {UNCOMMITTED} of its run doesn't apply to that: {error}") from None
    logger.warning("%s; applied to its commit from %s of its run", version.uncommitted, UNCOMMITTED)
