"""Whole projects for tests: this code, sources that are slices of the real ones, and small sizes."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("flows", "tasks", "llm")
FILES = ("dvc.yaml", "pyproject.toml", "params.yaml", "prefect.yaml", "README.md", ".dvcignore", ".gitignore")
SMALL = {
    "preprocess": {
        "corpus": {"validation": 0.1, "test": 0.1, "vocabulary_size": 1024},
        "instructions": {"validation": 0.1, "test": 0.1, "definitions": 150, "synonyms": 60, "antonyms": 60},
    },
    "pretrain": {"n_layer": 2, "n_embd": 64, "n_head": 2, "context_length": 128, "steps": 60, "batch_size": 8}
    | {"evaluate_every": 20, "checkpoint_every": 10, "evaluation_batches": 4},
    "finetune_classifier": {
        "steps": 30,
        "batch_size": 8,
        "max_tokens": 128,
        "evaluate_every": 15,
        "checkpoint_every": 15,
    },
    "finetune_assistant": {"steps": 20, "batch_size": 4, "evaluate_every": 10, "checkpoint_every": 10},
}


def _merge(values: dict, changes: dict) -> dict:
    return values | {k: _merge(values[k], v) if isinstance(v, dict) else v for k, v in changes.items()}


def make_project(folder: Path) -> Path:
    """A project with this code, sources that are slices, and small sizes."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    params = _merge(yaml.safe_load((ROOT / "params.yaml").read_text()), SMALL)
    for dataset in params["fetch"]:
        archive = ROOT / f"tests/data/{dataset}.tgz"
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        params["fetch"][dataset] = [{"source": f"file:{archive}", "sha256": digest, "files": "*"}]
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    git(folder, "init", "--quiet")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A project")
    return folder


def git(folder: Path, *arguments: str) -> None:
    """Run a git command as nobody in particular."""
    someone = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *someone, *arguments], cwd=folder, check=True)


def environment(**more: str) -> dict[str, str]:
    """This process's variables as a user's shell would have them in an activated environment."""
    dropped = ("MLFLOW_TRACKING_URI", "DVC_STAGE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"PATH": path, "OMP_NUM_THREADS": "1"} | more  # a second thread only costs at these sizes


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a module of this Python in a project."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
    )
