"""Make a registered version again, and compare its bytes with the recorded ones.

It happens in a git worktree of the version's commit, with its uncommitted diff applied and the version's record as
dvc.lock. The training's inputs come from DVC's cache or remote by their hashes; stages make missing inputs again, from
the pinned sources. The training itself always runs.
"""

import logging
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import mlflow

from llm.errors import UserError
from tasks.registry.git import fetch_more, git, git_output
from tasks.registry.lineage import Stages, recorded_stages
from tasks.registry.record import NONE, current_facts, holds, not_in_git, read_record
from tasks.registry.server import server_errors
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import made_by
from tasks.registry.versions import find_version, run_id_of
from tasks.registry.worktree import Worktree, checkout, holds_bytes
from tasks.stages.hashes import LOCK, Hashes, as_hashes, locked_stages, write_lock
from tasks.stages.names import training_stage

UNCOMMITTED = "lineage/uncommitted.diff"
"""An artifact of a version's run: the diff of its code from its commit."""
CLASS = ("machine.cpu", "machine.os", "machine.python", "device", "dtype", "blocks")
"""Facts about a machine that may change bytes."""
MISSING = "missing"
UNKNOWN = "of an unknown reason: inputs and machine are as they were, as far as recorded"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """A version as the registry has it."""

    uri: str
    """`models:/threestage-classifier/3`."""
    run_id: str
    stage: str
    """The stage that trained it."""
    commit: str
    uncommitted: str
    """Such as `not in git: params.yaml`; empty if the commit holds all."""
    stages: Stages
    """Its stage's ancestors, as dvc.lock had them."""
    facts: Mapping[str, str]
    """The facts of the run that trained it; empty if this store lacks it."""

    @cached_property
    def hashes(self) -> dict[str, Hashes]:
        """The same by stage."""
        return {name: as_hashes(stage) for name, stage in self.stages.items()}


@dataclass(frozen=True)
class Comparison:
    """The outs of a stage that ran again, next to the version's record."""

    uri: str
    ran: tuple[str, ...]
    """The stages that ran, in order; the last one is compared."""
    outs: Mapping[str, str]
    """The MD5 of each of its outs, by path."""
    differs: Mapping[str, str] = field(default_factory=dict)
    """The recorded MD5 of each out that has other bytes here."""
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.differs:
            lines = [f"identical: {', '.join(self.ran)} made the bytes of {self.uri} again"]
            lines += [f"  {path}: md5 {md5}" for path, md5 in self.outs.items()]
            return "\n".join(lines)
        lines = [f"differs: {self.ran[-1]} is the first stage that made other bytes than those of {self.uri}"]
        for path, md5 in self.differs.items():
            here = self.outs.get(path, MISSING)
            lines.append(f"  {path}: {md5} then, {here} here")
        lines += [f"  because {reason}" for reason in self.reasons]
        return "\n".join(lines)


def registered(name: str) -> Registered:
    """The version that `find_version` finds by this name.

    Raises UserError if it is missing, has no record, was made outside git, or if its commit is not in this repository.
    """
    configure_tracking()
    with server_errors():
        version = find_version(name)
        stages = recorded_stages(version)
        stage = training_stage(version.name.partition("-")[2])
        run = made_by(stage, as_hashes(stages[stage]).outs)
        own = read_record(version.run_id)
        trained = read_record(run.info.run_id) if run else None
    uri = f"models:/{version.name}/{version.version}"
    commit = own.facts["git.commit"] if own else NONE
    if commit == NONE:
        raise UserError(f"{uri}: it was registered outside git, so its code and parameters are not known")
    git("rev-parse --show-toplevel")  # raises git's own error without a repository
    if git_output("cat-file -e", f"{commit}^{{commit}}") is None:
        way_out = f"`{fetch_more()}` where it was pushed, or run this in the clone that made it"
        raise UserError(f"{uri}: this repository has no commit {commit}; {way_out}")
    return Registered(
        uri=uri,
        run_id=run_id_of(version),
        stage=stage,
        commit=commit,
        uncommitted=not_in_git(own),
        stages=stages,
        facts=trained.facts if trained else {},
    )


@contextmanager
def worktree(version: Registered) -> Generator[Worktree]:
    """Yield a worktree of a version: its commit, its uncommitted diff, and its record as dvc.lock.

    Raises UserError if that diff was not kept, or does not apply.
    """
    with checkout(version.commit) as tree:
        if version.uncommitted:
            _apply_uncommitted(version, tree)
        write_lock(tree.project / LOCK, version.stages)
        yield tree


def _apply_uncommitted(version: Registered, tree: Worktree) -> None:
    lacks = f"{version.uri}: its commit {version.commit} lacks what it was made with ({version.uncommitted})"
    with server_errors():
        if not holds(version.run_id, UNCOMMITTED):
            raise UserError(f"{lacks}, and its run has no {UNCOMMITTED}, so it can't be made again")
        diff = mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/{UNCOMMITTED}", dst_path=str(tree.scratch))
    root = Path(git("rev-parse --show-toplevel", folder=tree.project))
    folder = tree.project.relative_to(root).as_posix()  # the project may be a folder of a larger repository
    directory = [] if folder == "." else [f"--directory={folder}"]
    try:
        git("apply --whitespace=nowarn", *directory, diff, folder=root)
    except UserError as error:
        raise UserError(f"{lacks}, and {UNCOMMITTED} of its run does not apply: {error}") from None
    logger.warning("%s; applied to its commit from %s of its run", version.uncommitted, UNCOMMITTED)


def make_again(version: Registered, environment: Mapping[str, str]) -> Comparison:
    """Run the stages of a version again, with these variables, and compare the bytes. Stops at the first difference."""
    with worktree(version) as tree:
        stages = gather(version, tree)
        logger.info("to run: %s", ", ".join(stages))
        comparison = Comparison(uri=version.uri, ran=(), outs={})
        for number, stage in enumerate(stages, 1):
            tree.run(stage, environment, threads=version.facts.get("threads"))
            comparison = compare(version, tree, stages[:number])
            if comparison.differs:
                break
        return comparison


def gather(version: Registered, tree: Worktree) -> list[str]:
    """Bring the inputs of the training by their hashes.

    Returns the stages that must run, in order; the training is last.
    """
    makers = {path: name for name, hashes in version.hashes.items() for path in hashes.outs}
    needed: list[str] = []

    def need(stage: str) -> None:
        deps = version.hashes[stage].deps
        _copy_inputs(tree, {path: md5 for path, md5 in deps.items() if path not in makers})
        for path in tree.bring({path: md5 for path, md5 in deps.items() if path in makers}):
            if makers[path] not in needed:
                need(makers[path])
        needed.append(stage)

    need(version.stage)
    return needed


def _copy_inputs(tree: Worktree, deps: Mapping[str, str]) -> None:
    """Copy inputs from this folder that neither a stage nor the commit provides, such as an inbox."""
    for path, md5 in deps.items():
        here = Path(path)
        there = tree.project / path
        if holds_bytes(there, md5) or not holds_bytes(here, md5):
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_dir():
            shutil.copytree(here, there, dirs_exist_ok=True)
        else:
            shutil.copyfile(here, there)
        logger.info("%s: not in the commit, copied from here", path)


def compare(version: Registered, tree: Worktree, ran: list[str]) -> Comparison:
    """Compare the outs of the last stage with the version's record."""
    then = version.hashes[ran[-1]]
    now = as_hashes(locked_stages(tree.project / LOCK)[ran[-1]])
    differs = {path: md5 for path, md5 in then.outs.items() if now.outs.get(path) != md5}
    reasons: list[str] = []
    if differs:
        changed = replace(now, outs={}).differences(replace(then, outs={}))
        reasons = [f"{name} differs" for name in changed] or other_machine(version.facts) or [UNKNOWN]
    return Comparison(uri=version.uri, ran=tuple(ran), outs=now.outs, differs=differs, reasons=tuple(reasons))


def other_machine(facts: Mapping[str, str]) -> list[str]:
    """In words, which facts of a machine are others here."""
    import torch  # noqa: F401, without it the facts lack the device

    here = current_facts()
    names = [name for name in CLASS if name in facts and facts[name] != here.get(name, facts[name])]
    return [f"{name} was {facts[name]}, here it is {here[name]}" for name in names]
