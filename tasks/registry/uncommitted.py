"""The code and parameters of a model that no commit holds: in words, and as a diff."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.registry.code_files import CODE, DATA, file_names, new_code
from tasks.registry.git import git_output

MOST_BYTES = 1_000_000  # of the diff
MOST_NAMED = 6  # files
DIFF = "diff --no-color --no-ext-diff --no-textconv --no-renames --src-prefix=a/ --dst-prefix=b/"


@dataclass(frozen=True)
class Uncommitted:
    """How params.yaml, dvc.yaml and the code differ from the last commit, with new files that make models."""

    summary: str
    """Such as `not in git: llm/model/gpt.py, params.yaml`; or empty."""
    diff: bytes
    """For `git apply`. `summary` names large and binary files, which it lacks."""


def uncommitted() -> Uncommitted:
    """The uncommitted changes. Empty without git and without a commit: the commit is then `none`."""
    files = _changed()
    diffs: list[bytes] = []
    left_out: list[str] = []
    size = 0
    for path, diff in files.items():
        if size + len(diff) > MOST_BYTES or b"\nBinary files " in diff:
            left_out.append(path)
        else:
            diffs.append(diff)
            size += len(diff)
    return Uncommitted(summary=_summary([*files], left_out), diff=b"".join(diffs))


def _summary(paths: Sequence[str], left_out: Sequence[str]) -> str:
    """The changed files in words. Files left out come first, as the end of a long summary is cut."""
    parts = []
    if left_out:
        parts.append(_listed(["left out of the diff", *left_out]))
    if paths:
        parts.append(_listed(paths))
    return f"not in git: {'; '.join(parts)}" if parts else ""


def _listed(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMED:
        return ", ".join(names)
    return ", ".join([*names[:MOST_NAMED], f"and {len(names) - MOST_NAMED} more"])


def _changed() -> dict[str, bytes]:
    """The diff of each file that differs from the commit, by its path relative to this folder."""
    tracked = git_output("diff --name-only --relative --no-renames -z HEAD --", *DATA, *CODE)
    if tracked is None:
        return {}
    diffs = {path: git_output(f"{DIFF} --relative HEAD --", path) for path in file_names(tracked)}
    diffs |= {path: git_output(f"{DIFF} --no-index -- /dev/null", path) for path in new_code()}
    return {path: diff for path, diff in diffs.items() if diff}
