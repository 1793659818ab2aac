"""The code and parameters of a model that no commit holds: in words, and as a diff."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tasks.registry.code_files import CODE, DATA, file_names, new_code
from tasks.registry.git import git_output
from tasks.stages.hashes import flatten
from tasks.stages.names import PARAMS_FILE

MOST_BYTES = 1_000_000  # of the diff
MOST_NAMED = 6  # values or files
LONGEST = 40  # characters of a value
DIFF = "diff --no-color --no-ext-diff --no-textconv --no-renames --src-prefix=a/ --dst-prefix=b/"


@dataclass(frozen=True)
class Uncommitted:
    """How params.yaml, dvc.yaml and the code differ from the last commit, with new files that make models."""

    summary: str
    """Such as `not in git: params.yaml, foundation.train.steps 900 -> 20; llm/model/gpt.py`; or empty."""
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
    return Uncommitted(summary=_summary(list(files), left_out), diff=b"".join(diffs))


def _summary(paths: Sequence[str], left_out: Sequence[str]) -> str:
    """The changed files and parameters in words. Files left out come first, as the end of a long summary is cut."""
    params = PARAMS_FILE.as_posix()
    parts = []
    if left_out:
        parts.append(_listed(["left out of the diff", *left_out]))
    if params in paths:
        parts.append(_listed([params, *_values()]))
    code = [path for path in paths if path != params]
    if code:
        parts.append(_listed(code))
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


def _values() -> list[str]:
    """The parameters that changed, such as `foundation.train.steps 900 -> 20`, in the order of the file."""
    before = _parameters(git_output(f"show HEAD:./{PARAMS_FILE}") or b"")
    after = _parameters(PARAMS_FILE.read_bytes() if PARAMS_FILE.exists() else b"")
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    return [f"{name} {before.get(name, 'nothing')} -> {after.get(name, 'nothing')}" for name in changed]


def _parameters(content: bytes) -> dict[str, str]:
    """The values, each on one line."""
    values = flatten(yaml.load(content, Loader=yaml.CSafeLoader) or {})
    return {name: _spelled(value) for name, value in values.items()}


def _spelled(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rstrip()}…"
