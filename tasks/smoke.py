"""A smoke run: the last commit at reduced scale, from the real data to its evaluations, in a worktree.

The section `smoke` of params.yaml lists the files that it reads, its smaller parameters, and its bounds.
"""

import json
import logging
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
from tasks.stages.graph import stages
from tasks.stages.hashes import LOCK, as_hashes, locked_stages
from tasks.stages.names import PARAMS_FILE, evaluation_stage, model_names
from tasks.stages.yaml_text import read_yaml

RAW = Path("data/raw")
FETCH = "fetch@"

logger = logging.getLogger(__name__)


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


def prepare(tree: Worktree) -> tuple[Smoke, list[str]]:
    """Write the smaller parameters into a worktree.

    Returns its smoke section, and the stages of the models that have bounds.
    """
    path = tree.project / PARAMS_FILE
    smoke = load_smoke(path)
    path.write_text(yaml.safe_dump(reduced(read_yaml(path), smoke), sort_keys=False))
    here = PUBLISHED.absolute()
    there = tree.project / PUBLISHED
    here.mkdir(parents=True, exist_ok=True)  # published weights are fetched once and checked each time
    there.parent.mkdir(exist_ok=True)
    there.symlink_to(here)
    evaluations = [evaluation_stage(model) for model in model_names(path) if model in smoke.bounds]
    return smoke, stages(tree.project, evaluations)


def bring_raw(tree: Worktree, stage: str) -> bool:
    """Bring the raw files of a `fetch` stage from DVC. Returns whether it had those of the pinned sources."""
    entry = locked_stages(tree.project / LOCK).get(stage)
    if entry is None:
        return False
    dataset = stage.removeprefix(FETCH)
    pinned = read_yaml(tree.project / PARAMS_FILE)["datasets"][dataset]["sources"]
    locked = as_hashes(entry)
    return locked.params.get(f"datasets.{dataset}.sources") == pinned and not tree.bring(locked.outs)


def thin(tree: Worktree, smoke: Smoke, stage: str) -> None:
    """Delete a dataset's raw files that the smoke run does not read. Raises UserError if none is left."""
    dataset = stage.removeprefix(FETCH)
    patterns = [pattern for pattern in smoke.raw if pattern.startswith(f"{dataset}/")]
    if not patterns:
        return
    raw = tree.project / RAW
    files = [path for path in (raw / dataset).rglob("*") if path.is_file()]
    unread = [path for path in files if not _fits(path.relative_to(raw).as_posix(), patterns)]
    if len(unread) == len(files):
        raise UserError(f"{PARAMS_FILE}: smoke.raw: no file of {RAW / dataset} fits {', '.join(patterns)}")
    for path in unread:
        path.unlink()


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def measured(tree: Worktree, smoke: Smoke) -> list[Result]:
    """The metrics that have bounds."""
    results: list[Result] = []
    for model in model_names(tree.project / PARAMS_FILE):
        if model not in smoke.bounds:
            continue
        metrics = json.loads((tree.project / "reports/evaluation" / model / "metrics.json").read_text())
        for at_least, bounds in ((True, smoke.bounds[model].at_least), (False, smoke.bounds[model].at_most)):
            for name, bound in bounds.items():
                value = metrics.get(name)
                results.append(Result(name=f"{model} {name}", value=value, bound=bound, at_least=at_least))
    return results
