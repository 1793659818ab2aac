"""DVC's hashes of a stage's deps and outs, in the workspace and in dvc.lock."""

import hashlib
import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import UserError, UserFileError

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

PREFIX = "threestage"
LOCK = Path("dvc.lock")


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    if not isinstance(values, (dict, list)):
        return {prefix.removesuffix("."): values}
    flat: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        flat |= flatten(value, f"{prefix}{key}.")
    return flat


@dataclass(frozen=True)
class Hashes:
    """The MD5s and parameter values that tie one DVC stage to bytes, by path or name as dvc.yaml spells them."""

    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]

    def differences(self, recorded: "Hashes") -> list[str]:
        """The paths and parameters that differ between the two, sorted; a parameter has its full name,
        `foundation.train.steps`."""
        names = _changed(flatten(self.params), flatten(recorded.params))
        names |= _changed(self.deps, recorded.deps)
        names |= _changed(self.outs, recorded.outs)
        return sorted(names)


def _changed(values: Mapping[str, Any], recorded: Mapping[str, Any]) -> set[str]:
    """The names whose values differ or are in one of the two alone."""
    return {name for name in values.keys() | recorded.keys() if values.get(name) != recorded.get(name)}


@contextmanager
def _repo() -> Generator["Repo"]:
    """The DVC project around the working folder, without its lock: while a stage runs `dvc repro` holds it.

    Raises UserError for a dvc.yaml or dvc.lock that DVC can't read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            yield repo
    except DvcException as error:
        raise UserError(" ".join(str(error).split())) from error


def _name(output: "Output") -> str:
    return output.def_path.rstrip("/")


def _workspace_hash(output: "Output") -> str | None:
    return output.get_hash().value if output.exists else None


def _inputs(stage: "PipelineStage") -> Hashes:
    params: dict[str, Any] = {}
    for dep in stage.params:
        params |= dep.read_params()
    deps: dict[str, str] = {}
    for dep in sorted((dep for dep in stage.deps if dep not in stage.params), key=_name):
        md5 = _workspace_hash(dep)
        if md5 is None:
            raise UserFileError(f"{_name(dep)}: missing, stage {stage.name} needs it; run `dvc repro` or `dvc pull`")
        deps[_name(dep)] = md5
    return Hashes(params=params, deps=deps, outs={})


def inputs(stage: str) -> Hashes:
    """The hashes of a stage's deps and its parameters as they are in the workspace: what it is about to read.

    DVC keeps the hashes of unchanged files, so asking again is quick. Raises UserFileError for a missing dep.
    """
    with _repo() as repo:
        return _inputs(*repo.stage.collect(stage))


def locked_stages(lock: Path = LOCK) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.lock in its own form; empty if there is no such file.

    Raises UserError for a file of another form.
    """
    return parse_stages(lock.read_text(), str(lock)) if lock.exists() else {}


@lru_cache(maxsize=8)  # reading takes 0.1 s, and a registration asks for dozens of stages
def parse_stages(text: str, name: str) -> dict[str, dict[str, Any]]:
    """The stages in the text of a dvc.lock, read-only.

    Raises UserError, naming the file `name`, for a text of another form.
    """
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml  # YAML 1.2: in YAML 1.1 1e-05 is a text

    try:
        stages: dict[str, dict[str, Any]] = parse_yaml(text, name)["stages"]
    except (YAMLFileCorruptedError, KeyError, TypeError) as error:
        raise UserError(f"{name}: not what DVC writes ({' '.join(str(error).split())})") from None
    return stages


def as_hashes(entry: Mapping[str, Any]) -> Hashes:
    """A stage of dvc.lock."""
    params: dict[str, Any] = {}
    for values in entry.get("params", {}).values():
        params |= values
    return Hashes(params=params, deps=_md5_by_path(entry.get("deps", [])), outs=_md5_by_path(entry.get("outs", [])))


def _md5_by_path(items: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {item["path"].rstrip("/"): item["md5"] for item in items}


def stages_behind(*last: str, stages: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Some stages of a dvc.lock and their ancestors. Raises KeyError for a stage that never ran."""
    makers = {path: name for name, entry in stages.items() for path in as_hashes(entry).outs}
    behind: dict[str, dict[str, Any]] = {}
    queue = list(last)
    while queue:
        name = queue.pop(0)
        if name not in behind:
            behind[name] = stages[name]
            queue += [makers[path] for path in as_hashes(stages[name]).deps if path in makers]
    return behind


def locked(stage: str) -> Hashes:
    """Hashes of a stage as dvc.lock has them. Raises UserError if dvc.lock lacks the stage."""
    stages = locked_stages()
    if stage not in stages:
        raise UserError(f"{LOCK}: stage {stage} never ran; run `dvc repro`")
    return as_hashes(stages[stage])


def digest(values: Any) -> str:
    """SHA-256 over JSON-able values; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fingerprint(inputs: Hashes) -> str:
    """SHA-256 over a stage's parameters and the hashes of its deps: equal inputs, equal fingerprint."""
    return digest([inputs.params, inputs.deps])


def md5_of(path: Path) -> str:
    """DVC's MD5 of a file or a folder, computed from its bytes and not looked up."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = sorted((file.relative_to(path).as_posix(), md5_of(file)) for file in files)
    content = json.dumps([{"md5": md5, "relpath": name} for name, md5 in listed], sort_keys=True)
    return f"{hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()}.dir"
