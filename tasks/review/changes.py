"""What a version was made from, and what of that changed since the champion: commits, parameters, data and models."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from tasks.registry.git import fetch_more, git_text
from tasks.registry.record import NONE, Record, read_record, uncommitted_parts
from tasks.stages.hashes import Hashes

CODE = ("*.py", "dvc.yaml", "pyproject.toml", "requirements.lock", ":(exclude)tests", ":(exclude)benchmarks")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

Change = tuple[str, str, str]
"""A name, the champion's value, the challenger's value."""


@dataclass(frozen=True)
class Changes:
    """What differs between a challenger and its champion."""

    commits: Sequence[str]
    """Between the two, the newest first: hash and subject."""
    code: str
    """What can be said of the code in a sentence."""
    parameters: Sequence[Change]
    data: Sequence[Change]
    """Rows and digests of splits, and DVC's hashes of data, models and reports."""


def record_of(version: ModelVersion) -> Record:
    """The record of a version; an empty one where it has none."""
    return read_record(version.run_id) or Record("register", Hashes({}, {}, {}), {})


def commit(version: ModelVersion) -> str:
    """The git commit that a version was registered at; `none` without one."""
    return record_of(version).facts.get("git.commit", NONE)


def uncommitted(version: ModelVersion) -> str:
    """What a version was made from that no commit holds, in words; empty where a commit holds all of it."""
    facts = record_of(version).facts
    if facts.get("git.commit", NONE) == NONE:
        return "no git commit is known"
    parts = uncommitted_parts(facts)
    return facts.get("uncommitted") or (f"not in git: {', '.join(parts)}" if parts else "")


def parameters(version: ModelVersion) -> Mapping[str, str]:
    """The parameters of a version's run."""
    return MlflowClient().get_run(version.run_id).data.params if version.run_id else {}


def splits(version: ModelVersion) -> dict[str, str]:
    """Rows and digest of each split that the version's run names as its input."""
    run = MlflowClient().get_run(version.run_id) if version.run_id else None
    found = {}
    for each in run.inputs.dataset_inputs if run and run.inputs else ():
        context = next((tag.value for tag in each.tags if tag.key == MLFLOW_DATASET_CONTEXT), each.dataset.name)
        rows = json.loads(each.dataset.profile or "{}").get("num_rows")
        found[context] = f"{rows} rows, {each.dataset.digest}" if rows else each.dataset.digest
    return dict(sorted(found.items()))


def evaluated_rows(version: ModelVersion) -> object:
    """What identifies the rows that a version was evaluated on; None where that is not known.

    That is the test split, or the whole dataset where no split is known, and other data such as hand-written mails.
    """
    deps, split = record_of(version).hashes.deps, splits(version).get("test")
    data = {path: md5 for path, md5 in deps.items() if path.startswith("data/")}
    other = {path: md5 for path, md5 in data.items() if not path.startswith("data/processed/")}
    return (split, other) if split else data or None


def made_from(version: ModelVersion) -> dict[str, str]:
    """Splits and hashes by name, as people read them."""
    found = record_of(version).hashes
    kinds = {"from": found.deps, "made": found.outs}
    named = {f"{kind} {path}": md5 for kind, paths in kinds.items() for path, md5 in sorted(paths.items())}
    return {f"split {name}": text for name, text in splits(version).items()} | named


def _code(before: str, after: str) -> tuple[list[str], str]:
    if before == after:
        return [], "The same commit." if after != NONE else "Of neither a git commit is known."
    if not (HASH.fullmatch(before) and HASH.fullmatch(after)):  # git would read it as an option, or a name
        return [], f"{before[:40]} or {after[:40]} is not the hash of a commit."
    log = git_text("log", "--format=%h %s", f"{before}..{after}", "--")
    files = git_text("diff", "--name-only", before, after, "--", *CODE)
    if log is None or files is None:
        return [], f"This repository lacks {before[:10]} or {after[:10]}: run `{fetch_more()}`."
    count = len(files.splitlines())
    return log.splitlines(), f"`git diff {before[:10]} {after[:10]}` shows {count} changed files of code."


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[Change]:
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return [(name, before.get(name, "-"), after.get(name, "-")) for name in names]


def changes(challenger: ModelVersion, champion: ModelVersion) -> Changes:
    """What differs of the challenger."""
    commits, code = _code(commit(champion), commit(challenger))
    return Changes(
        commits,
        code,
        sorted(_changed(parameters(champion), parameters(challenger))),
        _changed(made_from(champion), made_from(challenger)),
    )
