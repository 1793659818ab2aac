"""A smoke run: the last commit at reduced scale, from the real data to its evaluations, in a worktree.

The section `smoke` of params.yaml lists the files that it reads, its smaller parameters, and its bounds.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from llm.errors import UserError
from tasks.data.published import STATE as PUBLISHED
from tasks.params.blocks import Smoke
from tasks.params.load import load_smoke, reduced
from tasks.registry.worktree import Worktree
from tasks.stages.hashes import LOCK, as_hashes, locked_stages
from tasks.stages.names import PARAMS_FILE, model_names
from tasks.stages.yaml_text import read_yaml

RAW = Path("data/raw")


@dataclass(frozen=True)
class Result:
    """A measured number and its bound."""

    name: str
    """Such as `classifier f1`."""
    value: float | None
    """None if the evaluation has no such metric."""
    bound: float
    at_least: bool
    """Whether the bound is a least value; otherwise it is a greatest value."""

    @property
    def passed(self) -> bool:
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        value = "is missing" if self.value is None else f"{self.value:.4g}"
        return f"{self.name} {value} (at {'least' if self.at_least else 'most'} {self.bound:g})"


def reduce_params(tree: Worktree) -> Smoke:
    """Write the smaller parameters into a worktree. Returns its section `smoke`."""
    path = tree.project / PARAMS_FILE
    smoke = load_smoke(path)
    values = reduced(read_yaml(path), smoke)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return smoke


def models_with_bounds(tree: Worktree, smoke: Smoke) -> list[str]:
    """The models that a smoke run trains and measures."""
    return [model for model in model_names(tree.project / PARAMS_FILE) if model in smoke.bounds]


def share_published(tree: Worktree) -> None:
    """Let a worktree use this folder's published weights, which are fetched once and checked each time."""
    PUBLISHED.mkdir(parents=True, exist_ok=True)
    link = tree.project / PUBLISHED
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(PUBLISHED.absolute())


def bring_raw(tree: Worktree, dataset: str) -> bool:
    """Bring a dataset's raw files from DVC. Returns whether it had those of the pinned sources."""
    stage = locked_stages(tree.project / LOCK).get(f"fetch@{dataset}")
    if stage is None:
        return False
    hashes = as_hashes(stage)
    sources = read_yaml(tree.project / PARAMS_FILE)["datasets"][dataset]["sources"]
    if hashes.params.get(f"datasets.{dataset}.sources") != sources:
        return False
    missing = tree.bring(hashes.outs)
    return not missing


def thin(tree: Worktree, dataset: str, globs: Sequence[str]) -> None:
    """Delete a dataset's raw files that no glob fits, if there are globs for it.

    Raises UserError if no file is left.
    """
    globs = [glob for glob in globs if glob.startswith(f"{dataset}/")]
    if not globs:
        return
    raw = tree.project / RAW
    files = [path for path in (raw / dataset).rglob("*") if path.is_file()]
    unread = []
    for path in files:
        name = path.relative_to(raw).as_posix()
        if not any(fnmatchcase(name, glob) for glob in globs):
            unread.append(path)
    if len(unread) == len(files):
        raise UserError(f"{PARAMS_FILE}: smoke.raw: no file of {RAW / dataset} fits {', '.join(globs)}")
    for path in unread:
        path.unlink()


def measured(tree: Worktree, smoke: Smoke) -> list[Result]:
    """The metrics that have bounds."""
    results: list[Result] = []
    for model in models_with_bounds(tree, smoke):
        metrics = json.loads((tree.project / "reports/evaluation" / model / "metrics.json").read_text())
        bounds = smoke.bounds[model]
        for name, bound in bounds.at_least.items():
            results.append(Result(name=f"{model} {name}", value=metrics.get(name), bound=bound, at_least=True))
        for name, bound in bounds.at_most.items():
            results.append(Result(name=f"{model} {name}", value=metrics.get(name), bound=bound, at_least=False))
    return results
