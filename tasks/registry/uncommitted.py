"""What git doesn't hold of what a model was made with: in words, with the values that changed, and as a diff."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.registry.git import git_output
from tasks.registry.record import CODE, DATA
from tasks.stages.hashes import flatten
from tasks.stages.params import FOUNDATION, PARAMS_FILE

MOST_BYTES = 1_000_000  # of a diff
MOST_NAMED = 5  # values, stages or files
LONGEST = 40  # characters of a value
LEFT_OUT = "left out of the diff"
DIFF = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
MISSING = object()


@dataclass(frozen=True)
class Uncommitted:
    """What the last commit doesn't hold of params.yaml, dvc.yaml and the code, new files too."""

    said: str
    """Such as `not in git: params.yaml, steps 900 -> 20; code, llm/model/gpt.py`; empty where git holds all of it."""
    diff: bytes
    """With which `git apply` makes it from the commit; empty where git holds all. Of what is too much or binary, which
    `said` names as left out, it has nothing."""


def uncommitted(model: str) -> Uncommitted:
    """What is not in git, for a reviewer of this model: its own values are named first, and without their section.

    Empty without git and without a commit: the commit is then `none`.
    """
    diffs, left_out, size = [], [], 0
    files = _changed()
    for path, diff in files.items():
        if size + len(diff) > MOST_BYTES or b"\nBinary files " in diff:
            left_out.append(path)
        else:
            diffs.append(diff)
            size += len(diff)
    parts = {PARAMS_FILE.as_posix(): lambda: _values(model), "dvc.yaml": _stages}
    said = [_named(path, names()) for path, names in parts.items() if path in files]
    if code := [path for path in files if path not in DATA]:
        said.append(_named("code", code))
    if left_out:
        said.insert(0, _named(LEFT_OUT, left_out))  # where a tag that is cut has it, too
    return Uncommitted(f"not in git: {'; '.join(said)}" if said else "", b"".join(diffs))


def _named(what: str, names: Iterable[str]) -> str:
    """`what`, and the first of the names of what changed in it."""
    known = list(names)
    more = [f"and {len(known) - MOST_NAMED} more"] if len(known) > MOST_NAMED else []
    return ", ".join([what, *known[:MOST_NAMED], *more])


def _changed() -> dict[str, bytes]:
    """The diff of each file that git doesn't hold as it is here, by its path from this folder."""
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


def _before_and_after(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The YAML that the commit holds and the one that is here; what is none, or no mapping, is empty."""

    def read(content: bytes | None) -> dict[str, Any]:
        try:
            values = yaml.load(content or b"", Loader=yaml.CSafeLoader)
        except yaml.YAMLError:
            return {}
        return values if isinstance(values, dict) else {}

    here = Path(path)
    return read(git_output("show", f"HEAD:./{path}")), read(here.read_bytes() if here.exists() else None)


def _values(model: str) -> list[str]:
    """The parameters that changed, such as `steps 900 -> 20`, this model's own first."""
    before, after = map(flatten, _before_and_after(PARAMS_FILE.as_posix()))
    own = f"{model}." if model == FOUNDATION else f"applications.{model}."
    changed = [
        key for key in (before | after) if before.get(key, MISSING) != after.get(key, MISSING)
    ]  # in the order of the file
    named = [
        (
            not key.startswith(own),
            f"{_short(key, own)} {_said(before.get(key, MISSING))} -> {_said(after.get(key, MISSING))}",
        )
        for key in changed
    ]
    return [text for _, text in sorted(named, key=lambda pair: pair[0])] or ["no value of it"]


def _short(key: str, own: str) -> str:
    return key.removeprefix(f"{own}train.").removeprefix(own)


def _said(value: Any) -> str:
    """A value as YAML spells it, on one line."""
    if value is MISSING:
        return "nothing"
    text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST else text[:LONGEST].rstrip() + "…"


def _stages() -> list[str]:
    """The stages of dvc.yaml that changed, such as `stage pretrain`."""
    before, after = (values.get("stages") or {} for values in _before_and_after("dvc.yaml"))
    return [f"stage {name}" for name in (before | after) if before.get(name) != after.get(name)] or ["no stage of it"]
