"""The record of a run: the hashes, parameters, code and machine behind it, in one JSON artifact, `record.json`.

A run's tags hold the few facts that people read. Programs read the record, which holds all of them.
"""

import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from pydantic import TypeAdapter

from tasks.registry.git import git_text
from tasks.registry.server import if_there
from tasks.stages.hashes import Hashes
from tasks.stages.lock import workspace

RECORD = "record.json"
NONE = "none"
CODE = ("app", "cli", "flows", "llm", "tasks", "pyproject.toml", "data/behavioural", "data/*.jsonl", "data/*.yaml")
"""What makes models, as git's patterns."""
NO_CODE = ":(exclude)*.md"


@dataclass(frozen=True)
class Record:
    """The origins of a run."""

    stage: str
    """The DVC stage that it ran, such as `finetune@classifier`; `register` for the run of a version."""
    hashes: Hashes
    """The hashes of that stage; for the run of a version, of its training and its evaluation together."""
    facts: dict[str, str]
    """Such as `git.commit`, `git.dirty.code`, `machine.cpu`, `device`, `dtype`, `threads`, `seed`; or `none`."""


FILE = TypeAdapter(Record)


def write_record(run_id: str, record: Record) -> None:
    """Log a record to a run; a later one replaces it."""
    MlflowClient().log_text(run_id, FILE.dump_json(record, indent=1).decode() + "\n", RECORD)


def read_record(run_id: str | None) -> Record | None:
    """The record of a run; None if this store has no such run, or the run has no record."""
    if not holds(run_id, RECORD):
        return None
    return FILE.validate_json(mlflow.artifacts.load_text(f"runs:/{run_id}/{RECORD}"))


def find_run(run_id: str | None) -> Run | None:
    """A run; None if this store has none of that id."""
    if not run_id or run_id == NONE:
        return None
    return if_there(MlflowClient().get_run, run_id)


def holds(run_id: str | None, path: str) -> TypeGuard[str]:
    """Whether a run exists and has this artifact."""
    folder = path.rpartition("/")[0] or None
    run = find_run(run_id)
    files = MlflowClient().list_artifacts(run.info.run_id, folder) if run else []
    return path in [file.path for file in files]


def current_facts() -> dict[str, str]:
    """The facts of this process: git commit and uncommitted changes, folder, machine, Prefect flow run.

    Device, dtype and threads are among them when torch is loaded. Works without git and without a commit.
    """
    from prefect.runtime import flow_run

    facts = {
        "git.commit": git_text("rev-parse HEAD") or NONE,
        "git.dirty.code": _dirty(*CODE, NO_CODE),
        "git.dirty.params.yaml": _dirty("params.yaml"),
        "git.dirty.dvc.yaml": _dirty("dvc.yaml"),
        "workspace": workspace(),
        "machine.cpu": _cpu_model(),
        "machine.cores": str(os.cpu_count()),
        "machine.os": platform.platform(),
        "machine.python": platform.python_version(),
        "machine.torch": importlib.metadata.version("torch"),
        "prefect.flow_run": str(flow_run.id or NONE),
    }
    return facts | _compute() if "torch" in sys.modules else facts


def uncommitted_parts(facts: dict[str, str]) -> list[str]:
    """Which of code, params.yaml and dvc.yaml had, or may have had, uncommitted changes."""
    return [part for part in ("code", "params.yaml", "dvc.yaml") if facts.get(f"git.dirty.{part}") != "false"]


def not_in_git(record: Record | None) -> str:
    """The code and parameters of a version that no commit holds, in words; empty if a commit holds all."""
    facts = record.facts if record else {}
    if facts.get("git.commit", NONE) == NONE:
        return "no git commit is known"
    parts = uncommitted_parts(facts)
    return f"not in git: {', '.join(parts)}" if parts else ""


def readable(record: Record) -> dict[str, str]:
    """The facts that people look for, by short names; they are a run's tags."""
    facts = record.facts
    device = [facts[name] for name in ("device", "dtype") if name in facts]
    if "threads" in facts:
        device.append(f"{facts['threads']} threads")
    tags = {
        "stage": record.stage,
        "commit": facts["git.commit"],
        "uncommitted": ", ".join(uncommitted_parts(facts)) or NONE,
        "machine": f"{facts['machine.cpu']}, {facts['machine.cores']} cores",
        "device": ", ".join(device),
        "seed": facts.get("seed", ""),
        "prefect": facts["prefect.flow_run"],
    }
    return {name: value for name, value in tags.items() if value}


def _dirty(*paths: str) -> str:
    """`true` when git sees changes or new files below `paths`, `unknown` without git."""
    changes = git_text("status --porcelain --untracked-files=all --", *paths)
    return "unknown" if changes is None else str(bool(changes)).lower()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _compute() -> dict[str, str]:
    import torch

    from llm.device import choose_compute

    compute = choose_compute()
    dtype = str(compute.dtype).removeprefix("torch.")
    return {"device": str(compute.device), "dtype": dtype, "threads": str(torch.get_num_threads())}
