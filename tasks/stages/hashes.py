"""Which bytes a stage is tied to: DVC's hashes of its deps and outs, in the workspace and in dvc.lock."""

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
        """Names of what differs between the two, sorted; of a parameter with its section, `foundation.train.steps`."""
        pairs = ((flatten(self.params), flatten(other.params)), (self.deps, other.deps), (self.outs, other.outs))
        return sorted({name for ours, theirs in pairs for name in ours | theirs if ours.get(name) != theirs.get(name)})


@contextmanager
def _repo() -> Iterator["Repo"]:
    """The DVC project around the working folder, unlocked: a stage runs while `dvc repro` holds the lock.

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
    """Hashes of a stage's deps and outs as they are in the workspace; an out that is not there is left out.

    DVC keeps the hashes of unchanged files, so asking again is quick. Raises UserFileError for a missing dep.
    """
    with _repo() as repo:
        return _current(*repo.stage.collect(stage))


def inputs(stage: str) -> Hashes:
    """As `current`, without the outs: what a stage is about to work from."""
    with _repo() as repo:
        return _inputs(*repo.stage.collect(stage))


def locked_stages(lock: Path = LOCK) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.lock in its own form; none where it is not there. Raises UserError for another file."""
    return parse_stages(lock.read_text(), str(lock)) if lock.exists() else {}


@lru_cache(maxsize=8)  # to read one takes a tenth of a second, and a registration asks for dozens of its stages
def parse_stages(text: str, name: str) -> dict[str, dict[str, Any]]:
    """The stages in the text of a dvc.lock that is called `name`, to be looked at only. Raises UserError for another
    text."""
    from dvc.utils.serialize import YAMLFileCorruptedError, parse_yaml  # YAML 1.2, in which 1e-05 is a number

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
    """Some stages and all that they are made from, as dvc.lock has them. Raises KeyError for one that never ran."""
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
    """Hashes of a stage as dvc.lock has them. Raises UserError when dvc.lock does not know the stage."""
    stages = locked_stages()
    if stage not in stages:
        raise UserError(f"{LOCK}: stage {stage} never ran; run `dvc repro`")
    return as_hashes(stages[stage])


def stale(stage: str) -> dict[str, list[str]]:
    """What differs between the workspace and dvc.lock, for a stage and all that it is made from: stage to paths.

    Raises UserError for a stage that never ran and for a dep that is missing.
    """
    with _repo() as repo:
        found = [each for each in repo.stage.collect(stage, with_deps=True) if not each.is_data_source]
        stages = sorted(found, key=lambda each: each.name)
        return {each.name: names for each in stages if (names := _current(each).differences(locked(each.name)))}


def digest(values: Any) -> str:
    """SHA-256 over JSON-able values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fingerprint(inputs: Hashes) -> str:
    """SHA-256 over a stage's parameters and the hashes of its deps: equal inputs, equal fingerprint."""
    return digest([inputs.params, inputs.deps])


def md5_of(path: Path) -> str:
    """The MD5 by which DVC knows a file or a folder, read from the bytes themselves and from no record of them."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = sorted((file.relative_to(path).as_posix(), md5_of(file)) for file in files)
    content = json.dumps([{"md5": md5, "relpath": name} for name, md5 in listed], sort_keys=True)
    return f"{hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()}.dir"
