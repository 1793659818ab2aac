"""What git does not hold of the code and parameters that a model is made with: in words, and as a diff."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tasks.registry.git import git_output
from tasks.registry.record import CODE, DATA, NONE, Record, uncommitted_parts
from tasks.stages.hashes import flatten
from tasks.stages.params import PARAMS_FILE

MOST_BYTES = 1_000_000  # of a diff
MOST_NAMED = 5  # values or files
LONGEST = 40  # characters of a value
LEFT_OUT = "left out of the diff"
DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
MISSING = "nothing"


@dataclass(frozen=True)
class Uncommitted:
    """What the last commit lacks of params.yaml, dvc.yaml and the code, new files too."""

    summary: str
    """Such as `not in git: params.yaml, foundation.train.steps 900 -> 20; llm/model/gpt.py`; empty where git holds all.
    """
    diff: bytes
    """`git apply` makes it from the commit; empty where git holds all. Large and binary files are left out, and
    `summary` names them."""


def uncommitted() -> Uncommitted:
    """What is not in git. Empty without git and without a commit: the commit is then `none`."""
    diffs, left_out, size = [], [], 0
    files = _changed()
    for path, diff in files.items():
        if size + len(diff) > MOST_BYTES or b"\nBinary files " in diff:
            left_out.append(path)
        else:
            diffs.append(diff)
            size += len(diff)
    parts = [_listed([LEFT_OUT, *left_out])] if left_out else []  # first, where a text that is cut has it
    if (params := PARAMS_FILE.as_posix()) in files:
        parts.append(_listed([params, *_values()]))
    if others := [path for path in files if path != params]:
        parts.append(_listed(others))
    return Uncommitted(f"not in git: {'; '.join(parts)}" if parts else "", b"".join(diffs))


def not_in_git(record: Record | None) -> str:
    """What a version was made with that no commit holds, in words; empty where a commit holds all."""
    facts = record.facts if record else {}
    if facts.get("git.commit", NONE) == NONE:
        return "no git commit is known"
    parts = uncommitted_parts(facts)
    return (facts.get("uncommitted") or f"not in git: {', '.join(parts)}") if parts else ""


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - MOST_NAMED - 1} more"] if len(names) > MOST_NAMED + 1 else []
    return ", ".join([*names[: MOST_NAMED + 1], *more])


def _changed() -> dict[str, bytes]:
    """The diff of each file that git does not hold as it is here, by its path from this folder."""
    paths = ("--", *DATA, *CODE)
    tracked = git_output("diff", "--name-only", "--relative", "--no-renames", "-z", "HEAD", *paths)
    if tracked is None:
        return {}
    new = git_output("ls-files", "--others", "--exclude-standard", "-z", *paths) or b""
    found = {path: git_output(*DIFF, "--relative", "HEAD", "--", path) for path in _split(tracked)}
    found |= {path: git_output(*DIFF, "--no-index", "--", "/dev/null", path) for path in _split(new)}
    return {path: diff for path, diff in found.items() if diff}


def _split(names: bytes) -> list[str]:
    return sorted(name.decode(errors="surrogateescape") for name in names.split(b"\0") if name)


def _values() -> list[str]:
    """The parameters that changed, such as `foundation.train.steps 900 -> 20`, in the order of the file."""
    before = _parameters(git_output("show", f"HEAD:./{PARAMS_FILE}"))
    after = _parameters(PARAMS_FILE.read_bytes() if PARAMS_FILE.exists() else None)
    both = ((key, before.get(key, MISSING), after.get(key, MISSING)) for key in before | after)
    return [f"{key} {then} -> {now}" for key, then, now in both if then != now]


def _parameters(content: bytes | None) -> dict[str, str]:
    """The values as YAML spells them, each on one line; none where it is not YAML."""
    try:
        values: Any = yaml.load(content or b"", Loader=yaml.CSafeLoader)
    except yaml.YAMLError:
        return {}
    texts = {
        key: " ".join(value.split()) if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in flatten(values if isinstance(values, dict) else {}).items()
    }
    return {key: text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()}…" for key, text in texts.items()}
