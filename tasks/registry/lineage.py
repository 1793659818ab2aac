"""What a run was made from: code, data, parameters and machine. DVC's hashes say which bytes, git says which commit."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from tasks.registry.git import git_text
from tasks.stages.hashes import PREFIX, inputs
from tasks.stages.lock import workspace

DATA = ("params.yaml", "dvc.yaml")
CODE = (
    "*.py",
    "*.[ch]",
    "pyproject.toml",
    "libraries.json",
    "data/behavioural",
    "data/*.jsonl",
    "data/*.yaml",
    ":(exclude)tests",
    ":(exclude)benchmarks",
)
UNCOMMITTED = f"{PREFIX}.git.dirty.params"  # the tag that says in words what no commit holds
PAGES = "http://127.0.0.1:4200"  # where `make ui` shows Prefect's runs


def _dirty(*paths: str) -> str:
    """`true` when git sees changes below `paths` that no commit holds, `unknown` where there is no git."""
    changes = git_text("status", "--porcelain", "--untracked-files=normal", "--", *paths)
    return "unknown" if changes is None else str(bool(changes)).lower()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _flow_run_id() -> str:
    from prefect.runtime import flow_run

    return str(flow_run.id or "none")


def prefect_page(flow_run: str) -> str:
    """The address of a flow run's page: of the configured server, or of the one that `make ui` starts."""
    from prefect.settings import PREFECT_API_URL
    from prefect.utilities.urls import url_for

    from tasks.stages.server import TEMPORARY

    api = PREFECT_API_URL.value()
    if api and api != os.environ.get(TEMPORARY) and (url := url_for("flow-run", flow_run)):
        return url
    return f"{PAGES}/runs/flow-run/{flow_run}"


def _compute() -> dict[str, str]:
    import torch

    from llm.device import choose_compute

    compute = choose_compute()
    dtype = str(compute.dtype).removeprefix("torch.")
    return {"device": str(compute.device), "dtype": dtype, "threads": str(torch.get_num_threads())}


def not_in_git(tags: Mapping[str, str]) -> str:
    """What a version was made from that no commit holds, in words; empty where a commit holds it all."""
    if tags.get(f"{PREFIX}.git.commit", "none") == "none":
        return "no git commit is known"
    dirty = [part for part in ("code", *DATA) if tags.get(f"{PREFIX}.git.dirty.{part}") != "false"]
    return (tags.get(UNCOMMITTED) or f"not in git: {', '.join(dirty)}") if dirty else ""


def lineage(stage: str | None) -> dict[str, str]:
    """Flat tags: git commit and dirtiness, DVC stage and the hashes of its deps, machine, Prefect flow run.

    Device, dtype and threads are among them when the stage has loaded torch. Works without git and without a commit.
    """
    facts = {
        "git.commit": git_text("rev-parse", "HEAD") or "none",
        "git.dirty.code": _dirty(*CODE),
        **{f"git.dirty.{path}": _dirty(path) for path in DATA},
        "workspace": workspace(),
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
