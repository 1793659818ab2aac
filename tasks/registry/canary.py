"""A canary: this project's last commit made small, from its real data to its evaluations, in a folder of its own.

What makes it small is `canary/small.yaml`: a part of the raw files, and what is different in params.yaml.
"""

import json
import logging
import platform
import shutil
from collections.abc import Collection, Mapping
from copy import copy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import ValidationError

from llm.config import Config
from llm.errors import UserError
from tasks.data.published import STATE as PUBLISHED
from tasks.registry.facts import lineage, not_in_git
from tasks.registry.known import Measured
from tasks.registry.worktree import Worktree
from tasks.stages.graph import stages
from tasks.stages.hashes import LOCK, PREFIX, as_hashes, locked_stages, md5_of, sha256_of
from tasks.stages.libraries import installed, write_libraries
from tasks.stages.params import (
    PARAMS_FILE,
    evaluation_stage,
    merged,
    model_names,
    read_yaml,
    training_report,
    training_stage,
)

SMALL = Path("canary/small.yaml")
RAW = Path("data/raw")
FETCH, PREPROCESS = "fetch@", "preprocess@"
THREADS = 2  # however many cores there are: another number sums otherwise
OTHERWISE = (  # threads, and variables, with which the same is summed in another order, as other processors do
    (1, {}),
    (THREADS, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx2"}),
)

logger = logging.getLogger(__name__)


class Small(Config):
    """What makes a canary small."""

    raw: list[str]
    """Which files below `data/raw/` are read, as globs; of a dataset that none begins with, all."""
    params: dict[str, Any]
    """What is different in params.yaml."""


def read_small(path: Path = SMALL) -> Small:
    """What makes a canary small. Raises UserError naming file, key and reason."""
    try:
        return Small.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError("; ".join(f"{path}: {each['loc'][0]}: {each['msg']}" for each in error.errors())) from None


def processor() -> str:
    """The kind of processor here, as far as it decides which bits come out."""
    from llm.device import choose_compute

    compute = choose_compute()
    dtype = str(compute.dtype).removeprefix("torch.")
    return f"{platform.machine()}, {compute.device.type}, {dtype}: {compute.reason}"


class Canary:
    """A canary about to run."""

    def __init__(self, tree: Worktree, small: Small, models: Collection[str] = ()) -> None:
        """Make the project in a worktree small. Raises UserError for a model that it doesn't have."""
        self._tree, self._small, self._facts = tree, small, lineage(None)
        self._threads, self._variables = THREADS, {}
        path = tree.project / PARAMS_FILE
        params = merged(read_yaml(path), small.params)
        path.write_text(yaml.safe_dump(params, sort_keys=False))
        self._sources = {name: block["sources"] for name, block in params["datasets"].items()}
        known = model_names(path)
        if unknown := [model for model in models if model not in known]:
            raise UserError(f"there is no model {unknown[0]!r}; those are: {', '.join(known)}")
        self.models = [model for model in known if model in (models or known)]
        write_libraries(tree.project)
        self._keep_published()
        last = [evaluation_stage(model) for model in self.models]
        ordered = stages(tree.project, last)
        self.datasets = [stage.removeprefix(FETCH) for stage in ordered if stage.startswith(FETCH)]
        self.stages = [stage for stage in ordered if not stage.startswith(FETCH)]
        """In their order, without those that fetch."""
        self.computing = [stage for stage in ordered if stage in {*last, *map(training_stage, self.models)}]
        """Those that train and evaluate."""

    def uncommitted(self) -> str:
        """What is here but in no commit, and so not in the canary; empty where that is nothing."""
        return not_in_git(self._facts)

    def _keep_published(self) -> None:
        """Fetch published weights once, for here and for all canaries: they are checked each time."""
        here, there = PUBLISHED.absolute(), self._tree.project / PUBLISHED
        here.mkdir(parents=True, exist_ok=True)
        there.parent.mkdir(exist_ok=True)
        there.symlink_to(here)

    def bring(self, dataset: str) -> bool:
        """Take a dataset's raw files from here or from DVC's cache, if they are those of the pinned sources."""
        path, stage = RAW / dataset, f"{FETCH}{dataset}"
        there = locked_stages(self._tree.project / LOCK).get(stage)
        if there is None:
            return False
        then = as_hashes(there)
        if then.params.get(f"datasets.{dataset}.sources") != self._sources[dataset]:
            return False
        md5 = then.outs[path.as_posix()]
        if path.exists() and md5_of(path) == md5:
            shutil.copytree(path, self._tree.project / path)
            logger.info("%s: from here", path)
            return True
        return self._tree.restore(path.as_posix(), md5)

    def thin(self, dataset: str) -> None:
        """Leave of a dataset's raw files those that a canary reads. Raises UserError where that is none."""
        patterns = [pattern for pattern in self._small.raw if pattern.startswith(f"{dataset}/")]
        if not patterns:
            return
        raw = self._tree.project / RAW
        files = [path for path in (raw / dataset).rglob("*") if path.is_file()]
        kept = {path for path in files if any(fnmatchcase(path.relative_to(raw).as_posix(), each) for each in patterns)}
        if not kept:
            raise UserError(f"{SMALL}: raw: no file of {RAW / dataset} is one of {', '.join(patterns)}")
        for path in set(files) - kept:
            path.unlink()

    def run(self, stage: str, environment: Mapping[str, str]) -> None:
        """Run one stage. Raises UserError when it fails."""
        self._tree.run(stage, {**environment, **self._variables}, self._threads)

    def otherwise(self) -> list[Self]:
        """This canary as it would sum in another order; what it makes takes the place of what is there."""
        others = [copy(self) for _ in OTHERWISE]
        for other, (threads, variables) in zip(others, OTHERWISE, strict=True):
            other._threads, other._variables = threads, variables
        return others

    def measured(self) -> Measured:
        """What came out."""
        numbers, project = {}, self._tree.project
        for model in self.models:
            reports = {"training": training_report(model), "evaluation": Path("reports/evaluation", model)}
            for kind, report in reports.items():
                metrics = json.loads((project / report / "metrics.json").read_text())
                numbers |= {f"{model}/{kind}/{name}": value for name, value in metrics.items()}
        made = [f"data/processed/{stage.removeprefix(PREPROCESS)}" for stage in self.stages if PREPROCESS in stage]
        made += [f"models/{model}" for model in self.models]
        files = {path: digest for name in made for path, digest in sha256_of(project / name, name).items()}
        facts = {name: self._facts[f"{PREFIX}.{name}"] for name in ("git.commit", "machine.cpu", "machine.python")}
        said = {name.rpartition(".")[2]: fact for name, fact in facts.items()}
        return Measured(said | installed(), numbers, files)
