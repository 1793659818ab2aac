"""What a run made, for others: a commit on a branch of its own, and the data in DVC's remote.

HEAD, the index and all files stay as somebody has them here: the commit is made with an index of its own.
"""

import logging
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from llm.errors import UserError
from tasks.registry.git import git
from tasks.registry.tracking import configure_tracking, server_errors
from tasks.stages import graph
from tasks.stages.hashes import PREFIX

BRANCH, RESULTS = f"{PREFIX}.git.branch", f"{PREFIX}.git.results"
"""A version's tags: the branch, and the commit on it that holds dvc.lock, parameters and metrics as they were made."""
NOBODY = "Threestage"  # who commits where git's configuration names nobody

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """The commit that holds what a run made."""

    branch: str
    """Its name; empty where the commit that is checked out holds it all already."""
    commit: str
    new: bool
    by_nobody: bool
    """Whether git's configuration names no author."""


def _known(revision: str) -> str | None:
    """The commit of a name; None where there is none."""
    try:
        return git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except UserError:
        return None


def _files(paths: Sequence[str]) -> list[str]:
    """The files that are these paths or lie below them, and paths that are gone."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [path.as_posix() for path in found]


def _tree(head: str, paths: Sequence[str]) -> str:
    """The tree of a commit with these files as they are here."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", head, **index)
        git("update-index", "--add", "--remove", "-z", "--stdin", given="\0".join(_files(paths)), **index)
        return git("write-tree", **index)


def _holds_more(branch: str, head: str, paths: Sequence[str]) -> bool:
    """Whether somebody changed anything but these paths on a branch, since it left what is checked out."""
    try:
        changed = git("diff", "--name-only", "-z", f"{head}...refs/heads/{branch}").split("\0")
    except UserError:  # it has no commit in common with that
        return True
    here = git("rev-parse", "--show-prefix")  # which a project has that is not all of its repository
    return any(name and not any(Path(name).is_relative_to(Path(here, path)) for path in paths) for name in changed)


def _free_name(name: str, head: str, paths: Sequence[str]) -> str:
    """The name, or with a number behind it where somebody has that branch checked out, which would move under them, or
    committed more to it, which would be undone."""
    lines = git("for-each-ref", "--format=%(refname:short) %(worktreepath)", f"refs/heads/{name}*").splitlines()
    branches = [line.partition(" ") for line in lines]
    taken = {branch for branch, _, place in branches if place or _holds_more(branch, head, paths)}
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return next(each for each in (name, *numbered) if each not in taken)


def _author() -> dict[str, str]:
    """Variables that name who commits where git's configuration doesn't."""
    try:
        for who in ("AUTHOR", "COMMITTER"):
            git("var", f"GIT_{who}_IDENT")
    except UserError:
        address = f"{NOBODY.lower()}@{platform.node() or 'localhost'}"
        given = {"NAME": NOBODY, "EMAIL": address}
        return {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in given.items()}
    return {}


def commit_results(name: str, paths: Sequence[str], message: str) -> Results:
    """Commit files as they are here on top of HEAD to the branch `name`, or to `name-2` where `name` is checked out or
    has commits of somebody else's.

    A branch of that name that is there goes on; where HEAD moved meanwhile, the commit joins the two. No commit is made
    where one holds the same tree. Raises UserError outside of a git repository, without a commit, and for all that git
    refuses.
    """
    git("rev-parse", "--show-toplevel")  # says itself where there is no repository
    if (head := _known("HEAD")) is None:
        raise UserError("git has no commit here yet")
    name, author = _free_name(name, head, paths), _author()
    tree, tip = _tree(head, paths), _known(f"refs/heads/{name}")

    def ahead(one: str, other: str) -> int:
        return int(git("rev-list", "--count", f"{other}..{one}"))

    parents = [head] if tip is None or not ahead(tip, head) else [tip, head] if ahead(head, tip) else [tip]
    if tree == git("rev-parse", f"{parents[0]}^{{tree}}"):
        return Results("" if parents[0] == head else name, parents[0], new=False, by_nobody=False)
    above = [option for parent in parents for option in ("-p", parent)]
    commit = git("commit-tree", tree, *above, "-F", "-", given=message, **author)
    none_yet = "0" * len(commit)
    git("update-ref", "-m", message.partition("\n")[0], f"refs/heads/{name}", commit, tip or none_yet)
    return Results(name, commit, new=True, by_nobody=bool(author))


def push_branch(name: str, remote: str, seconds: float) -> None:
    """Push a branch. Raises UserError where the remote is none, refuses, or takes longer than `seconds`."""
    if remote not in git("remote").splitlines():
        raise UserError(f"git has no remote {remote!r}: `git remote add {remote} URL`")
    git("push", "--quiet", remote, f"refs/heads/{name}", seconds=seconds)


def name_results(versions: Mapping[str, str], results: Results) -> None:
    """Say on each version, by its model's registered name, which commit holds its results; what is said first counts.

    Its own commit stays the one that was checked out when it was made, from which it can be made again: where this
    branch is pushed, that one is, too.
    """
    configure_tracking()
    client = MlflowClient()
    with server_errors():
        for name, number in versions.items():
            if RESULTS not in client.get_model_version(name, number).tags:
                for tag, value in ((BRANCH, results.branch), (RESULTS, results.commit)):
                    client.set_model_version_tag(name, number, tag, value)


def _commit(branch: str, message: str, versions: Mapping[str, str]) -> tuple[str, str]:
    """The branch, if there is one, and what is said of it."""
    results = commit_results(branch, graph.results(), message)
    if not results.branch:
        return "", f"nothing to commit: commit {results.commit[:10]}, which is checked out, holds it all"
    try:
        name_results(versions, results)
    except UserError as error:
        logger.warning("its versions don't name the branch: %s", error)
    if not results.new:
        return results.branch, f"nothing to commit: {results.branch} holds it all, {results.commit[:10]}"
    who = f", by {NOBODY}, as git's configuration names nobody" if results.by_nobody else ""
    return results.branch, f"committed to the branch {results.branch}, {results.commit[:10]}{who}"


def share(
    branch: str, message: str, versions: Mapping[str, str], push_to: str, seconds: float
) -> tuple[list[str], bool]:
    """Commit what a run made to a branch, and push data and branch within `seconds`.

    Gives a line each on what came of it, and whether nothing failed. `versions` are numbers by registered name,
    `push_to` is a git remote or empty. Data is pushed where DVC has a default remote. What fails is a warning and one
    of the lines.
    """
    said, well, deadline = [], True, time.monotonic() + seconds

    def failed(what: str, error: UserError) -> None:
        nonlocal well
        well = False
        logger.warning("%s: %s", what, error)
        said.append(f"{what}: {error}")

    try:
        branch, line = _commit(branch, message, versions)
        said.append(line)
    except UserError as error:
        branch = ""
        failed("not committed", error)
    if remote := graph.remote():
        try:
            graph.push(deadline - time.monotonic())
            said.append(f"data pushed to DVC's remote {remote}")
        except UserError as error:
            failed("data not pushed", error)
    else:
        said.append("data not pushed: DVC has no default remote")
    if branch and push_to:
        try:
            push_branch(branch, push_to, deadline - time.monotonic())
            said.append(f"{branch} pushed to {push_to}")
        except UserError as error:
            failed(f"{branch} not pushed", error)
    elif branch:
        said.append(f"{branch} not pushed: `push_to` names no git remote")
    return said, well
