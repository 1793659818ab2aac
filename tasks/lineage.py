"""What a run was made from: code, data, parameters and machine. DVC's hashes say which bytes, git says which commit."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

CODE = ("flows", "tasks", "llm", "app", "pyproject.toml")
PREFIX = "threestage"
LOCK = "dvc.lock"


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

    def tags(self) -> dict[str, str]:
        """The data and code as flat tags, such as `threestage.dvc.out.models/classifier`."""
        kinds = {"dep": self.deps, "out": self.outs}
        return {f"{PREFIX}.dvc.{kind}.{path}": md5 for kind, paths in kinds.items() for path, md5 in paths.items()}

    def differences(self, other: "Hashes") -> list[str]:
        """Names of what differs between the two, sorted; of a parameter with its section, `pretrain.learning_rate`."""
        pairs = ((flatten(self.params), flatten(other.params)), (self.deps, other.deps), (self.outs, other.outs))
        return sorted({name for ours, theirs in pairs for name in ours | theirs if ours.get(name) != theirs.get(name)})


@contextmanager
def _repo() -> Iterator["Repo"]:
    """The DVC project around the working folder, unlocked: a stage runs while `dvc repro` holds the lock."""
    from dvc.repo import Repo

    with Repo() as repo:
        yield repo


def _name(output: "Output") -> str:
    return output.def_path.rstrip("/")


def _workspace_hash(output: "Output") -> str | None:
    return output.get_hash().value if output.exists else None


def _inputs(stage: "PipelineStage") -> Hashes:
    deps = {_name(dep): _workspace_hash(dep) for dep in stage.deps if dep not in stage.params}
    if missing := sorted(name for name, md5 in deps.items() if md5 is None):
        raise FileNotFoundError(f"{missing[0]}: missing, stage {stage.name} needs it; run `dvc repro` or `dvc pull`")
    return Hashes({name: value for dep in stage.params for name, value in dep.read_params().items()}, deps, {})


def _current(stage: "PipelineStage") -> Hashes:
    return replace(_inputs(stage), outs={_name(out): md5 for out in stage.outs if (md5 := _workspace_hash(out))})


def current(stage: str) -> Hashes:
    """Hashes of a stage's deps and outs as they are in the workspace; an out that is not there is left out.

    DVC keeps the hashes of unchanged files, so asking again is quick. Raises FileNotFoundError for a missing dep.
    """
    with _repo() as repo:
        return _current(*repo.stage.collect(stage))


def inputs(stage: str) -> Hashes:
    """As `current`, without the outs: what a stage is about to work from."""
    with _repo() as repo:
        return _inputs(*repo.stage.collect(stage))


def locked(stage: str) -> Hashes:
    """Hashes of a stage as dvc.lock has them. Raises ValueError when dvc.lock does not know the stage."""
    from dvc.utils.serialize import load_yaml

    stages = load_yaml(LOCK)["stages"] if Path(LOCK).exists() else {}
    if stage not in stages:
        raise ValueError(f"{LOCK}: stage {stage} never ran; run `dvc repro`")
    entry = stages[stage]
    params = {name: value for values in entry.get("params", {}).values() for name, value in values.items()}
    deps, outs = ({item["path"].rstrip("/"): item["md5"] for item in entry.get(key, [])} for key in ("deps", "outs"))
    return Hashes(params, deps, outs)


def stale(stage: str) -> dict[str, list[str]]:
    """What differs between the workspace and dvc.lock, for a stage and all that it is made from: stage to paths.

    Raises ValueError for a stage that never ran, FileNotFoundError for a dep that is missing.
    """
    with _repo() as repo:
        stages = sorted(repo.stage.collect(stage, with_deps=True), key=lambda each: each.name)
        return {each.name: names for each in stages if (names := _current(each).differences(locked(each.name)))}


def digest(values: Any) -> str:
    """SHA-256 over JSON-able values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fingerprint(inputs: Hashes) -> str:
    """SHA-256 over a stage's parameters and the hashes of its deps: equal inputs, equal fingerprint."""
    return digest([inputs.params, inputs.deps])


def _git(*arguments: str) -> str | None:
    """Output of a git command; None without git, without a repository, or without a commit to answer for."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _dirty(*paths: str) -> str:
    """`true` when git sees changes below `paths` that no commit holds, `unknown` where there is no git."""
    changes = _git("status", "--porcelain", "--", *paths)
    return "unknown" if changes is None else str(bool(changes)).lower()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _flow_run_id() -> str:
    from prefect.runtime import flow_run

    return str(flow_run.id or "none")


def _compute() -> dict[str, str]:
    import torch

    from llm.device import choose_compute

    compute = choose_compute()
    dtype = str(compute.dtype).removeprefix("torch.")
    return {"device": str(compute.device), "dtype": dtype, "threads": str(torch.get_num_threads())}


def lineage(stage: str | None) -> dict[str, str]:
    """Flat tags: git commit and dirtiness, DVC stage and the hashes of its deps, machine, Prefect flow run.

    Device, dtype and threads are among them when the stage has loaded torch. Works without git and without a commit.
    """
    facts = {
        "git.commit": _git("rev-parse", "HEAD") or "none",
        "git.dirty.code": _dirty(*CODE),
        "git.dirty.params.yaml": _dirty("params.yaml"),
        "git.dirty.dvc.yaml": _dirty("dvc.yaml"),
        "workspace": f"{platform.node()}:{Path.cwd()}",
        "machine.cpu": _cpu_model(),
        "machine.cores": str(os.cpu_count()),
        "machine.os": platform.platform(),
        "machine.python": platform.python_version(),
        "machine.torch": importlib.metadata.version("torch"),
        "prefect.flow_run": _flow_run_id(),
    }
    if stage is None:
        return {f"{PREFIX}.{name}": value for name, value in facts.items()}
    facts["dvc.stage"] = stage
    if "torch" in sys.modules:
        facts |= _compute()
    return {f"{PREFIX}.{name}": value for name, value in facts.items()} | inputs(stage).tags()
