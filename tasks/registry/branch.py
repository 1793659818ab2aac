"""What a scheduled run made, for others: a commit on a branch of its own, and the data in DVC's remote.

No branch is checked out and the index stays as it is. At its end the run puts its files back as HEAD has them, so that
`git pull` finds nothing in its way; while nobody merged them, DVC's run cache brings the results back the next night.
"""

import platform
import tempfile
import time
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from llm.errors import UserError
from tasks.registry.git import git
from tasks.stages import graph

BRANCHES = "retrain"
NAME, EMAIL = "Threestage", f"threestage@{platform.node() or 'localhost'}"
AUTHOR = {
    f"GIT_{who}_{what}": said for who in ("AUTHOR", "COMMITTER") for what, said in (("NAME", NAME), ("EMAIL", EMAIL))
}
"""A machine commits here, whoever git's configuration names."""


def _files(paths: Sequence[str]) -> list[str]:
    """The files that are these paths or lie below them, and paths that are gone."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [path.as_posix() for path in found]


def _tree(paths: Sequence[str]) -> str:
    """The tree of HEAD with these files as they are here."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", "HEAD", **index)
        git("update-index", "--add", "--remove", "-z", "--stdin", given="\0".join(_files(paths)), **index)
        return git("write-tree", **index)


def commit_results(day: str, paths: Sequence[str], message: str) -> str:
    """Commit files as they are here, on top of HEAD, to a new branch `retrain/<day>`, or `retrain/<day>-2` and so on.

    Returns the branch: an earlier one where that has the same files on top of HEAD, none where HEAD itself has them.
    Raises UserError for all that git refuses.
    """
    head, tree = git("rev-parse", "--verify", "HEAD"), _tree(paths)
    if tree == git("rev-parse", "HEAD^{tree}"):
        return ""
    lines = git("for-each-ref", "--format=%(refname:short) %(tree) %(parent)", f"refs/heads/{BRANCHES}/").splitlines()
    branches = dict(line.split(" ", 1) for line in lines)
    for branch, made in branches.items():
        if made == f"{tree} {head}":
            return branch
    name = f"{BRANCHES}/{day}"
    branch = next(each for each in chain([name], (f"{name}-{number}" for number in count(2))) if each not in branches)
    commit = git("commit-tree", tree, "-p", head, "-F", "-", given=message, **AUTHOR)
    git("branch", "--no-track", branch, commit)
    return branch


def put_back(paths: Sequence[str]) -> None:
    """Give files the content that they have in HEAD, and remove those that it lacks."""
    files = set(git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *paths).split("\0")) - {""}
    for path in set(_files(paths)) - files:
        Path(path).unlink(missing_ok=True)
    if files:
        git("restore", "--source=HEAD", "--worktree", "--", *files)


def share(day: str, message: str, push_to: str, seconds: float) -> tuple[list[str], list[str]]:
    """Commit what a run made to a branch, and push data and branch within `seconds`.

    Data is pushed where DVC has a default remote, the branch to the git remote `push_to`, unless that is empty. Returns
    a line each on what was done, and on what failed.
    """
    done, failed, deadline = [], [], time.monotonic() + seconds
    made, parameters = graph.results()
    try:
        branch = commit_results(day, [*made, *parameters], message)
        done.append(f"committed to the branch {branch}" if branch else "nothing to commit: HEAD has all results")
    except UserError as error:
        branch = ""
        failed.append(f"not committed: {error}")
    try:
        if remote := graph.remote():
            graph.push(deadline - time.monotonic())
        done.append(f"data pushed to DVC's remote {remote}" if remote else "data not pushed: DVC has no default remote")
    except UserError as error:
        failed.append(f"data not pushed: {error}")
    try:
        if branch and push_to:
            git("push", "--quiet", push_to, f"refs/heads/{branch}", seconds=deadline - time.monotonic())
            done.append(f"{branch} pushed to {push_to}")
        elif branch:
            done.append(f"{branch} not pushed: `push_to` names no git remote")
    except UserError as error:
        failed.append(f"{branch} not pushed: {error}")
    return done, failed
