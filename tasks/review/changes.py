"""The origins of a version (commit, parameters, data and models), and how they changed since the champion."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from tasks.registry.git import fetch_more, git_text
from tasks.registry.record import NONE, Record, not_in_git, read_record
from tasks.stages.hashes import Hashes

CODE = ("*.py", "dvc.yaml", "pyproject.toml", "requirements.lock", ":(exclude)tests", ":(exclude)benchmarks")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Origin:
    """The origins of a version, from its run and its record."""

    run: Run | None
    record: Record

    @property
    def commit(self) -> str:
        """The git commit that it was registered at; `none` without one."""
        return self.record.facts.get("git.commit", NONE)

    @property
    def uncommitted(self) -> str:
        """The uncommitted code and parameters, in words; empty if a commit holds all."""
        return not_in_git(self.record)

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters of its run."""
        return self.run.data.params if self.run else {}

    @property
    def test_rows(self) -> object:
        """The identity of the rows that it was evaluated on; None if it is not known.

        It is the digest of the test split, or the hash of the dataset if the run names no split, and other data such as
        hand-written mails.
        """
        data = {path: md5 for path, md5 in self.record.hashes.deps.items() if path.startswith("data/")}
        questions = {path: md5 for path, md5 in data.items() if not path.startswith("data/processed/")}
        inputs = self.run.inputs.dataset_inputs if self.run and self.run.inputs else []
        for dataset_input in inputs:
            contexts = [tag.value for tag in dataset_input.tags if tag.key == MLFLOW_DATASET_CONTEXT]
            if "test" in contexts:
                return dataset_input.dataset.digest, questions
        return data or None

    @property
    def data(self) -> dict[str, str]:
        """Data and models by name, with their hashes."""
        kinds = {"from": self.record.hashes.deps, "made": self.record.hashes.outs}
        return {f"{kind} {path}": md5 for kind, paths in kinds.items() for path, md5 in sorted(paths.items())}


def origin(version: ModelVersion) -> Origin:
    """The origins of a version; empty if it has no record."""
    run = MlflowClient().get_run(version.run_id) if version.run_id else None
    return Origin(run, read_record(version.run_id) or Record("register", Hashes({}, {}, {}), {}))


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """The names whose values differ, with the values before and after."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return [(name, before.get(name, "-"), after.get(name, "-")) for name in names]


def changed_code(before: str, after: str) -> tuple[list[str], str]:
    """The commits between two commits, newest first, and a sentence of Markdown on the changed code."""
    if not (HASH.fullmatch(before) and HASH.fullmatch(after)):  # git would read it as an option or a name
        return [], f"Not both commits are known: {before[:40]} and {after[:40]}."
    if before == after:
        return [], "The same commit."
    commits = f"{before}..{after}"
    log = git_text("log --format=%h%x20%s", commits, "--")
    files = git_text(f"diff --name-only {commits} --", *CODE)
    if log is None or files is None:
        return [], f"This repository lacks {before[:10]} or {after[:10]}: run `{fetch_more()}`."
    count = len(files.splitlines())
    return log.splitlines(), f"`git diff {before[:10]} {after[:10]}` shows {count} changed files of code."
