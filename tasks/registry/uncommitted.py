"""The code and parameters of a model that no commit holds: in words, and as a diff."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from tasks.registry.code_files import CODE, DATA, file_names, new_code
from tasks.registry.git import git_output
from tasks.stages.hashes import flatten
from tasks.stages.names import PARAMS_FILE

MOST_BYTES = 1_000_000  # of the diff
MOST_NAMED = 6  # values or files
LONGEST = 40  # characters of a value
DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")


@dataclass(frozen=True)
class Uncommitted:
    """How params.yaml, dvc.yaml and the code differ from the last commit, with new files that make models."""

    summary: str
    """Such as `not in git: params.yaml, foundation.train.steps 900 -> 20; llm/model/gpt.py`; or empty."""
    diff: bytes
    """For `git apply`. `summary` names large and binary files, which it lacks."""


def uncommitted() -> Uncommitted:
    """The uncommitted changes. Empty without git and without a commit: the commit is then `none`."""
    diffs, left_out, size = [], [], 0
    files = _changed()
    for path, diff in files.items():
        if size + len(diff) > MOST_BYTES or b"\nBinary files " in diff:
            left_out.append(path)
        else:
            diffs.append(diff)
            size += len(diff)
    params = PARAMS_FILE.as_posix()
    parts = [["left out of the diff", *left_out]] if left_out else []  # first, as the end of a long summary is cut
    parts += [[params, *_values()]] if params in files else []
    parts += [others] if (others := [path for path in files if path != params]) else []
    return Uncommitted(f"not in git: {'; '.join(map(_listed, parts))}" if parts else "", b"".join(diffs))


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def _changed() -> dict[str, bytes]:
    """The diff of each file that differs from the commit, by its path relative to this folder."""
    paths = ("--", *DATA, *CODE)
    tracked = git_output("diff", "--name-only", "--relative", "--no-renames", "-z", "HEAD", *paths)
    if tracked is None:
        return {}
    diffs = {path: git_output(*DIFF, "--relative", "HEAD", "--", path) for path in file_names(tracked)}
    diffs |= {path: git_output(*DIFF, "--no-index", "--", "/dev/null", path) for path in new_code()}
    return {path: diff for path, diff in diffs.items() if diff}


def _values() -> list[str]:
    """The parameters that changed, such as `foundation.train.steps 900 -> 20`, in the order of the file."""
    before = _parameters(git_output("show", f"HEAD:./{PARAMS_FILE}") or b"")
    after = _parameters(PARAMS_FILE.read_bytes() if PARAMS_FILE.exists() else b"")
    both = ((name, before.get(name, "nothing"), after.get(name, "nothing")) for name in before | after)
    return [f"{name} {then} -> {now}" for name, then, now in both if then != now]


def _parameters(content: bytes) -> dict[str, str]:
    """The values, each on one line."""
    values = flatten(yaml.load(content, Loader=yaml.CSafeLoader) or {})
    texts = (
        (name, value if isinstance(value, str) else json.dumps(value, default=str)) for name, value in values.items()
    )
    lines = {name: " ".join(text.split()) for name, text in texts}
    return {name: line if len(line) <= LONGEST else f"{line[:LONGEST].rstrip()}…" for name, line in lines.items()}
