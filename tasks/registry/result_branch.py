"""The results of a scheduled run, for others: a commit on a branch of its own, and the data in DVC's remote.

No branch is checked out and the index stays as it is. At its end the run puts its files back as HEAD has them, so that
`git pull` works; until the branch is merged, DVC's run cache restores the results the next night.
"""

import platform
import tempfile
import time
from collections.abc import Container, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from llm.errors import UserError
from tasks.registry.git import git
from tasks.stages import dvc

BRANCHES = "retrain"
EMAIL = f"threestage@{platform.node() or 'localhost'}"
AUTHOR = {
    "GIT_AUTHOR_NAME": "Threestage",
    "GIT_AUTHOR_EMAIL": EMAIL,
    "GIT_COMMITTER_NAME": "Threestage",
    "GIT_COMMITTER_EMAIL": EMAIL,
}
"""The author of these commits is a machine, not the user in git's configuration."""


def _files(paths: Sequence[str]) -> list[str]:
    """The files at and below these paths, and paths that are gone."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.is_file())
        else:
            files.append(path)
    return [path.as_posix() for path in files]


def _tree(paths: Sequence[str]) -> str:
    """HEAD's tree, updated with these files."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("read-tree HEAD", variables=index)
        git("update-index --add --remove -z --stdin", text="\0".join(_files(paths)), variables=index)
        return git("write-tree", variables=index)


def commit_results(day: str, paths: Sequence[str], message: str) -> str:
    """Commit files as they are here, on top of HEAD, to a new branch `retrain/<day>`, or `retrain/<day>-2` and so on.

    Returns the branch: an earlier one with the same files on top of HEAD, or "" if HEAD itself has them. Raises
    UserError with git's reason if git fails.
    """
    head = git("rev-parse --verify HEAD")
    tree = _tree(paths)
    if tree == git("rev-parse HEAD^{tree}"):
        return ""
    lines = git(f"for-each-ref refs/heads/{BRANCHES}/", "--format=%(refname:short) %(tree) %(parent)").splitlines()
    branches = dict(line.split(" ", 1) for line in lines)
    for branch, contents in branches.items():
        if contents == f"{tree} {head}":
            return branch
    commit = git(f"commit-tree {tree} -p {head} -F -", text=message, variables=AUTHOR)
    branch = _free_name(f"{BRANCHES}/{day}", branches)
    git("branch --no-track", branch, commit)
    return branch


def _free_name(name: str, branches: Container[str]) -> str:
    """The name, or with the least number from 2 on that makes it new."""
    if name not in branches:
        return name
    number = 2
    while f"{name}-{number}" in branches:
        number += 1
    return f"{name}-{number}"


def put_back(paths: Sequence[str]) -> None:
    """Give files the content that they have in HEAD, and remove those that it lacks."""
    files = set(git("ls-tree -r -z --name-only HEAD --", *paths).split("\0")) - {""}
    for path in set(_files(paths)) - files:
        Path(path).unlink(missing_ok=True)
    if files:
        git("restore --source=HEAD --worktree --", *files)


@dataclass(frozen=True)
class Shared:
    """What became of a run's results, a line for each step."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, failure: str) -> Generator[None]:
        """Note a UserError as a failed step."""
        try:
            yield
        except UserError as error:
            self.failed.append(f"{failure}: {error}")


def share(day: str, message: str, *, push_to: str, seconds: float) -> Shared:
    """Commit the results of a run to a branch, and push data and branch within `seconds`.

    Data is pushed to DVC's default remote, the branch to the git remote `push_to`, if they exist.
    """
    shared = Shared()
    deadline = time.monotonic() + seconds
    results, parameters = dvc.results()
    branch = ""
    with shared.step("not committed"):
        existing = [path for path in [*results, *parameters] if Path(path).exists()]  # a failed stage has no outs
        branch = commit_results(day, existing, message)
        shared.done.append(f"committed to the branch {branch}" if branch else "nothing to commit: HEAD has all results")
    with shared.step("data not pushed"):
        remote = dvc.remote()
        if remote:
            dvc.push(deadline - time.monotonic())
            shared.done.append(f"data pushed to DVC's remote {remote}")
        else:
            shared.done.append("data not pushed: DVC has no default remote")
    with shared.step(f"{branch} not pushed"):
        if branch and push_to:
            git("push --quiet", push_to, f"refs/heads/{branch}", seconds=deadline - time.monotonic())
            shared.done.append(f"{branch} pushed to {push_to}")
        elif branch:
            shared.done.append(f"{branch} not pushed: `push_to` names no git remote")
    return shared
