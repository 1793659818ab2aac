"""DVC's hashes of a stage's deps and outs, in the workspace and in dvc.lock."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import UserError, UserFileError
from llm.files import write_atomic

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

PREFIX = "threestage"
LOCK = Path("dvc.lock")


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one level: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    match values:
        case dict():
            pairs = values.items()
        case list():
            pairs = enumerate(values)
        case _:
            return {prefix.removesuffix("."): values}
    return {name: value for key, inner in pairs for name, value in flatten(inner, f"{prefix}{key}.").items()}


@dataclass(frozen=True)
class Hashes:
    """The MD5s and parameter values that tie one DVC stage to bytes, by path or name as dvc.yaml spells them."""

    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]

    def differences(self, other: "Hashes") -> list[str]:
        """The paths and parameters that differ between the two, sorted; a parameter has its full name,
        `foundation.train.steps`."""
        pairs = ((flatten(self.params), flatten(other.params)), (self.deps, other.deps), (self.outs, other.outs))
        return sorted({name for ours, theirs in pairs for name in ours | theirs if ours.get(name) != theirs.get(name)})


@contextmanager
def _repo() -> Iterator["Repo"]:
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
    deps = {_name(dep): _workspace_hash(dep) for dep in stage.deps if dep not in stage.params}
    if missing := sorted(name for name, md5 in deps.items() if md5 is None):
        raise UserFileError(f"{missing[0]}: missing, stage {stage.name} needs it; run `dvc repro` or `dvc pull`")
    return Hashes({name: value for dep in stage.params for name, value in dep.read_params().items()}, deps, {})


def _current(stage: "PipelineStage") -> Hashes:
    return replace(_inputs(stage), outs={_name(out): md5 for out in stage.outs if (md5 := _workspace_hash(out))})


def current(stage: str) -> Hashes:
    """Hashes of a stage's deps and outs as they are in the workspace, without missing outs.

    DVC keeps the hashes of unchanged files, so asking again is quick. Raises UserFileError for a missing dep.
    """
    with _repo() as repo:
        return _current(*repo.stage.collect(stage))


def inputs(stage: str) -> Hashes:
    """Like `current`, without the outs: what a stage is about to read."""
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
        return parse_yaml(text, name)["stages"]
    except (YAMLFileCorruptedError, KeyError, TypeError) as error:
        raise UserError(f"{name}: not what DVC writes ({' '.join(str(error).split())})") from None


def as_hashes(entry: Mapping[str, Any]) -> Hashes:
    """A stage of dvc.lock."""
    params = {name: value for values in entry.get("params", {}).values() for name, value in values.items()}
    deps, outs = ({item["path"].rstrip("/"): item["md5"] for item in entry.get(key, [])} for key in ("deps", "outs"))
    return Hashes(params, deps, outs)


def write_lock(lock: Path, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Write stages, in dvc.lock's own form, as a dvc.lock."""
    write_atomic(lock, json.dumps({"schema": "2.0", "stages": stages}) + "\n")  # JSON is YAML, too


def stages_behind(*last: str) -> dict[str, dict[str, Any]]:
    """Some stages and their ancestors, as dvc.lock has them. Raises KeyError for a stage that never ran."""
    known = locked_stages()
    makers = {path: name for name, stage in known.items() for path in as_hashes(stage).outs}
    found, queue = {}, [*last]
    while queue:
        name = queue.pop(0)
        if name not in found:
            found[name] = known[name]
            queue += [makers[path] for path in as_hashes(known[name]).deps if path in makers]
    return found


def locked(stage: str) -> Hashes:
    """Hashes of a stage as dvc.lock has them. Raises UserError if dvc.lock lacks the stage."""
    stages = locked_stages()
    if stage not in stages:
        raise UserError(f"{LOCK}: stage {stage} never ran; run `dvc repro`")
    return as_hashes(stages[stage])


def stale(stage: str) -> dict[str, list[str]]:
    """The paths that differ between the workspace and dvc.lock, by stage, for a stage and its ancestors.

    Raises UserError for a stage that never ran and for a missing dep.
    """
    with _repo() as repo:
        found = [each for each in repo.stage.collect(stage, with_deps=True) if not each.is_data_source]
        stages = sorted(found, key=lambda each: each.name)
        return {each.name: names for each in stages if (names := _current(each).differences(locked(each.name)))}


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
