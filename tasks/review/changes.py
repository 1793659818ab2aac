"""What changed between two versions: commits and files, parameters, and the bytes of data and models."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from tasks.registry.git import fetch_more, git_text
from tasks.registry.record import NONE as NO_RUN
from tasks.stages.hashes import PREFIX

CODE = ("*.py", "dvc.yaml", "pyproject.toml", "requirements.lock", ":(exclude)tests", ":(exclude)benchmarks")
COMMIT = f"{PREFIX}.git.commit"
DVC = f"{PREFIX}.dvc."
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

Change = tuple[str, str, str]
"""A name, what it was of the champion, what it is of the challenger."""


@dataclass(frozen=True)
class Changes:
    """What is different of the challenger; a reason instead where it is not known."""

    commits: Sequence[str] = ()
    """Between the two, the newest first: hash and subject."""
    files: Sequence[str] = ()
    """Code that differs: `M  llm/model/gpt.py`."""
    code_unknown: str = ""
    diff: str = ""
    """The command that shows the lines."""
    parameters: Sequence[Change] = ()
    parameters_unknown: str = ""
    data: Sequence[Change] = ()
    """Splits with their rows and digests, then the hashes that DVC has of data, models and evidence: changed or not."""


def _parameters(version: ModelVersion) -> tuple[str, Mapping[str, str]]:
    """Which run says its parameters, its own or the one that trained it, and these."""
    runs = {"its own": version.run_id, "the training": version.tags.get(f"{PREFIX}.training_run", NO_RUN)}
    for whose, run in runs.items():
        if not run or run == NO_RUN:
            continue
        try:
            found = MlflowClient().get_run(run).data.params
        except MlflowException:  # deleted, or in another store
            continue
        if found:
            return whose, found
    return "none", {}


def _code(challenger: ModelVersion, champion: ModelVersion) -> dict[str, object]:
    before, after = (each.tags.get(COMMIT, "none") for each in (champion, challenger))
    if "none" in (before, after):
        return {"code_unknown": "of one of the two no git commit is known"}
    if before == after:
        return {}
    if not (HASH.fullmatch(before) and HASH.fullmatch(after)):  # git would take it for an option, or a name
        return {"code_unknown": f"{before[:40]} or {after[:40]} is no hash of a commit"}
    log = git_text("log", "--format=%h %s", f"{before}..{after}", "--")
    files = git_text("diff", "--name-status", before, after, "--", *CODE)
    if log is None or files is None:
        both = f"{before[:10]} and {after[:10]}"
        return {"code_unknown": f"this repository does not hold both {both}: run `{fetch_more()}`"}
    diff = f"git diff {before[:10]} {after[:10]}"
    return {"commits": log.splitlines(), "files": files.replace("\t", " ").splitlines(), "diff": diff}


def splits(version: ModelVersion) -> dict[str, tuple[str, str]]:
    """How many rows each split has that the version's run names as its input, where that is known, and its digest."""
    run = MlflowClient().get_run(version.run_id) if version.run_id else None
    found = {}
    for each in run.inputs.dataset_inputs if run and run.inputs else ():
        context = next((tag.value for tag in each.tags if tag.key == MLFLOW_DATASET_CONTEXT), each.dataset.name)
        rows = json.loads(each.dataset.profile or "{}").get("num_rows")
        found[context] = "" if rows is None else f"{rows} rows,", each.dataset.digest
    return dict(sorted(found.items()))


def hashes(version: ModelVersion) -> dict[str, str]:
    """What DVC knows the bytes by that a version was made of and that it is: `dep: data/processed/emails`."""
    tags = sorted((tag.removeprefix(DVC), md5) for tag, md5 in version.tags.items() if tag.startswith(DVC))
    return {name.replace(".", ": ", 1): md5 for name, md5 in tags}


def changes(challenger: ModelVersion, champion: ModelVersion) -> Changes:
    """What is different of the challenger, by the tags of both and the parameters of their runs."""
    (whose, mine), (other, its) = _parameters(challenger), _parameters(champion)
    unknown = "" if whose == other != "none" else "the runs of the two do not both say them"
    names = [] if unknown else sorted(name for name in mine.keys() | its if mine.get(name) != its.get(name))
    now, before = (
        {f"split: {name}": " ".join(each) for name, each in splits(version).items()} | hashes(version)
        for version in (challenger, champion)
    )
    return Changes(
        **_code(challenger, champion),
        parameters=[(name, its.get(name, "-"), mine.get(name, "-")) for name in names],
        parameters_unknown=unknown,
        data=[(name, before.get(name, "-"), now.get(name, "-")) for name in now | before],
    )
