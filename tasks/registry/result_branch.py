"""The results of a scheduled run, for others: a commit on a branch of its own, and the data in DVC's remote.

No branch is checked out and the index stays as it is. At its end the run puts its files back as HEAD has them, so that
`git pull` works; until the branch is merged, DVC's run cache restores the results the next night.
"""

import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from llm.errors import UserError
from tasks.registry.git import git
from tasks.stages import dvc_process, graph

BRANCHES = "retrain"
EMAIL = f"threestage@{platform.node() or 'localhost'}"
AUTHOR = {
    **{f"GIT_{role}_NAME": "Threestage" for role in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{role}_EMAIL": EMAIL for role in ("AUTHOR", "COMMITTER")},
}
"""The author of these commits is a machine, not the user in git's configuration."""


def _files(paths: Sequence[str]) -> list[str]:
    """The files at and below these paths, and paths that are gone."""
    files: list[Path] = []
    for path in map(Path, paths):
        files += sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [path.as_posix() for path in files]


def _tree(paths: Sequence[str]) -> str:
    """HEAD's tree, updated with these files."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree", "HEAD", **index)
        git("update-index", "--add", "--remove", "-z", "--stdin", text="\0".join(_files(paths)), **index)
        return git("write-tree", **index)


def commit_results(day: str, paths: Sequence[str], message: str) -> str:
    """Commit files as they are here, on top of HEAD, to a new branch `retrain/<day>`, or `retrain/<day>-2` and so on.

    Returns the branch: an earlier one with the same files on top of HEAD, or "" if HEAD itself has them. Raises
    UserError with git's reason if git fails.
    """
    head, tree = git("rev-parse", "--verify", "HEAD"), _tree(paths)
    if tree == git("rev-parse", "HEAD^{tree}"):
        return ""
    lines = git("for-each-ref", "--format=%(refname:short) %(tree) %(parent)", f"refs/heads/{BRANCHES}/").splitlines()
    branches = dict(line.split(" ", 1) for line in lines)
    if same := [branch for branch, contents in branches.items() if contents == f"{tree} {head}"]:
        return same[0]
    name = f"{BRANCHES}/{day}"
    if name in branches:
        name = next(each for number in count(2) if (each := f"{name}-{number}") not in branches)
    git("branch", "--no-track", name, git("commit-tree", tree, "-p", head, "-F", "-", text=message, **AUTHOR))
    return name


def put_back(paths: Sequence[str]) -> None:
    """Give files the content that they have in HEAD, and remove those that it lacks."""
    files = set(git("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *paths).split("\0")) - {""}
    for path in set(_files(paths)) - files:
        Path(path).unlink(missing_ok=True)
    if files:
        git("restore", "--source=HEAD", "--worktree", "--", *files)


def share(day: str, message: str, push_to: str, seconds: float) -> tuple[list[str], list[str]]:
    """Commit the results of a run to a branch, and push data and branch within `seconds`.

    Data is pushed to DVC's default remote, the branch to the git remote `push_to`, if they exist. Returns a line for
    each step that was done, and for each that failed.
    """
    done, failed, branch, deadline = [], [], "", time.monotonic() + seconds

    @contextmanager
    def failure(what: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            failed.append(f"{what}: {error}")

    results, parameters = graph.results()
    with failure("not committed"):
        branch = commit_results(day, [*results, *parameters], message)
        done.append(f"committed to the branch {branch}" if branch else "nothing to commit: HEAD has all results")
    with failure("data not pushed"):
        if remote := graph.remote():
            dvc_process.push(deadline - time.monotonic())
        done.append(f"data pushed to DVC's remote {remote}" if remote else "data not pushed: DVC has no default remote")
    with failure(f"{branch} not pushed"):
        if branch and push_to:
            git("push", "--quiet", push_to, f"refs/heads/{branch}", seconds=deadline - time.monotonic())
            done.append(f"{branch} pushed to {push_to}")
        elif branch:
            done.append(f"{branch} not pushed: `push_to` names no git remote")
    return done, failed
