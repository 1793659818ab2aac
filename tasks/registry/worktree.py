"""The commit of a registered version, with what was not in it, in a temporary folder: a clean git worktree."""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run

from llm.errors import UserError
from tasks.registry.ancestry import recorded_stages
from tasks.registry.find import find_run, find_version, holds
from tasks.registry.lineage import not_in_git
from tasks.registry.register import NO_RUN, TRAINING_RUN
from tasks.registry.tracking import configure_tracking, server_errors
from tasks.stages.hashes import PREFIX, Hashes, as_hashes

UNCOMMITTED = "lineage/uncommitted.diff"  # among the artifacts of a version's run: what its commit lacks
SCRATCH, TREE, HELD = f"{PREFIX}-", "worktree", "held"  # a temporary folder, and the worktree and the lock in it

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
    """Where a version may be made again."""

    version: Registered
    project: Path
    """The project as the version's commit has it, with what was not in that."""
    scratch: Path
    """A folder beside it for whatever comes up."""


def _git(*arguments: str, folder: Path = Path()) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise UserError("git is not on PATH; a version is made again from its commit") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise UserError(f"git {arguments[0]}: {said}") from None
    return done.stdout


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
    _git("rev-parse", "--show-toplevel")  # says itself where there is no repository
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except UserError:
        way_out = "`git fetch --all` where it was pushed, or run this in the clone that made it"
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
def worktree(version: Registered) -> Iterator[Worktree]:
    """Yield the commit of a version, with what was not in it, in a temporary folder that is gone afterwards.

    Raises UserError where what was not in git is not known, or doesn't apply.
    """
    prefix = _git("rev-parse", "--show-prefix").strip("\n")
    _remove_abandoned()
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH)).resolve()
    tree = scratch / TREE
    held = (scratch / HELD).open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        hooks = f"core.hooksPath={os.devnull}"  # DVC's own would check out the data of this folder's dvc.lock
        _git("-c", hooks, "worktree", "add", "--quiet", "--detach", str(tree), version.commit)
        if version.uncommitted:
            _apply_uncommitted(version, tree, prefix, scratch)
        yield Worktree(version, tree / prefix, scratch)
    finally:
        with undisturbed():
            _remove(scratch)
            held.close()


def _remove(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    subprocess.run(["git", "worktree", "remove", "--force", "--force", str(scratch / TREE)], capture_output=True)


def _remove_abandoned() -> None:
    """Remove the folders of those that were killed, which are as large as a model and its data."""
    for line in _git("worktree", "list", "--porcelain", "-z").split("\0"):
        tree = Path(line.removeprefix("worktree "))
        if not line.startswith("worktree ") or tree.name != TREE or not tree.parent.name.startswith(SCRATCH):
            continue
        with suppress(OSError), (tree.parent / HELD).open("r+") as held:  # not there: of another machine, or gone
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one that is in use is held
            logger.info("%s: whoever made it was killed; removed", tree.parent)
            _remove(tree.parent)


def _apply_uncommitted(version: Registered, tree: Path, prefix: str, scratch: Path) -> None:
    lacking = f"{version.uri}: its commit {version.commit} lacks what it was made with ({version.uncommitted})"
    with server_errors():
        if not holds(version.run_id, UNCOMMITTED):
            raise UserError(f"{lacking}, and its run holds no {UNCOMMITTED}, so it can't be made again")
        place = f"runs:/{version.run_id}/{UNCOMMITTED}"
        diff = mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=str(scratch / "uncommitted"))
    try:
        _git("apply", "--whitespace=nowarn", *([f"--directory={prefix}"] if prefix else []), diff, folder=tree)
    except UserError as error:
        raise UserError(f"{lacking}, and {UNCOMMITTED} of its run doesn't apply to that: {error}") from None
    logger.warning("%s; applied to its commit from %s of its run", version.uncommitted, UNCOMMITTED)
