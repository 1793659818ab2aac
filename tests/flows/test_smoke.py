"""A smoke run of a small project: what it leaves alone, and how it fails."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import Artifact, FlowRun
from projects import ROOT, change_params, commit_all

from llm.errors import UserError
from tasks.params.load import load_smoke, reduced
from tasks.smoke import Result
from tasks.stages.yaml_text import read_yaml

FEW = {"steps": 8, "evaluate_every": 8, "checkpoint_every": 8, "evaluation_batches": 1}
SMOKE = {
    "raw": ["corpus/corpus/chats/*", "corpus/corpus/speeches/1[78]*"],
    "params": {"foundation": {"train": FEW, "evaluate": {"sample_tokens": 4}}},
    "bounds": {"foundation": {"at_least": {"bits_per_byte": 20}, "at_most": {"ngram_bits_per_byte": 20}}},
}
MADE = ("models", "reports", "data", "mlartifacts", "mlflow.db")


def state(project: Path) -> dict[str, str]:
    """What git says of a project, and the size and time of each file that it made."""
    state: dict[str, str] = {}
    for command in ("status --porcelain", "worktree list"):
        state[command] = subprocess.check_output(["git", *command.split()], cwd=project, text=True)
    for name in MADE:
        for path in [project / name, *(project / name).rglob("*")]:
            stat = path.stat()
            state[str(path)] = f"{stat.st_size} {stat.st_mtime_ns}"
    return state


def smoke_run() -> tuple[FlowRun, list[Artifact]]:
    """The only smoke run, and its artifacts."""
    with get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["smoke"])))
        artifacts = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        return run, client.read_artifacts(artifact_filter=artifacts)


def test_result_outside_its_bound_fails_the_run_and_nothing_is_left_behind(
    project: Path, prefect_api: str, command_line: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    change_params(folder, lambda values: values.update(smoke=SMOKE))
    commit_all(folder, "What makes a smoke run small")
    shutil.rmtree(folder / "data/raw/corpus")
    before = state(folder)
    code, _, error = command_line(folder, "smoke")
    log = (folder / ".threestage/smoke/log").read_text()
    assert code == 1, log
    assert state(folder) == before
    assert "data/raw/corpus: from DVC" in log
    run, artifacts = smoke_run()
    assert "error: smoke: outside its bound: foundation bits_per_byte " in error
    assert run.state.name == "Failed"
    assert "(at least 20)" in run.state.message
    (table,) = [json.loads(artifact.data) for artifact in artifacts if artifact.key == "smoke"]
    assert [(row["result"], row[""]) for row in table] == [
        ("foundation bits_per_byte", "OUTSIDE"),
        ("foundation ngram_bits_per_byte", ""),
    ]


@pytest.mark.parametrize(
    ("value", "at_least", "passed"),
    [
        (0.8, True, True),
        (0.79, True, False),
        (0.8, False, True),
        (0.81, False, False),
        (float("nan"), True, False),
        (None, True, False),
    ],
)
def test_bound_itself_passes_and_nan_and_a_missing_result_do_not(
    value: float | None, at_least: bool, passed: bool
) -> None:
    assert Result(name="classifier f1", value=value, bound=0.8, at_least=at_least).passed == passed


def test_missing_result_is_named() -> None:
    result = Result(name="classifier f1", value=None, bound=0.8, at_least=True)
    assert str(result) == "classifier f1 is missing (at least 0.8)"


def write_params(path: Path, smoke: dict[str, Any]) -> Path:
    values = read_yaml(ROOT / "params.yaml") | {"smoke": smoke}
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("smoke", "reason"),
    [
        ({}, "smoke.bounds: missing"),
        (SMOKE | {"bound": {}}, "smoke.bound: unknown key; did you mean bounds?"),
        (SMOKE | {"bounds": {"foundation": {"at_lest": {}}}}, "smoke.bounds.foundation.at_lest: unknown key"),
        (SMOKE | {"params": {"fundation": {}}}, "smoke.params.fundation: unknown key"),
        (
            SMOKE | {"params": {"foundation": {"train": {"step": 1}}}},
            "smoke.params: foundation.train.step: unknown key; did you mean steps?",
        ),
    ],
)
def test_wrong_section_is_an_error_that_names_the_key(tmp_path: Path, smoke: dict[str, Any], reason: str) -> None:
    path = write_params(tmp_path / "params.yaml", smoke)
    with pytest.raises(UserError) as error:
        load_smoke(path)
    assert str(error.value).startswith(f"{path}: {reason}")


def test_params_of_a_missing_block_change_nothing(tmp_path: Path) -> None:
    values = read_yaml(ROOT / "params.yaml")
    smoke = SMOKE | {"params": {"applications": {"gone": {"train": {"steps": 1}}}}}
    path = write_params(tmp_path / "params.yaml", smoke)
    assert reduced(values, load_smoke(path)) == values


def test_smoke_run_is_due_each_week_with_the_code_that_daily_runs() -> None:
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    deployments = {entry["name"]: entry for entry in entries}
    smoke = deployments["smoke"]
    assert smoke["entrypoint"] == "flows/smoke.py:smoke"
    assert smoke["pull"] == deployments["daily"]["pull"]
    assert smoke["schedules"] == [{"cron": "0 1 * * 0", "timezone": "UTC"}]
