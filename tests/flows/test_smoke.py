"""A smoke run of a small project: what it leaves alone, and how it fails."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterName
from projects import ROOT, change_params, git

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


def state(folder: Path) -> dict[str, str]:
    """What git says of a project, and the size and time of what it made and of its registry."""
    made = [
        path for name in ("models", "reports", "data", "mlartifacts") for path in sorted(folder.glob(f"{name}/**/*"))
    ]
    files = {str(path): f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in [*made, folder / "mlflow.db"]}
    asked = (["status", "--porcelain"], ["worktree", "list"])
    return files | {each[0]: subprocess.check_output(["git", *each], cwd=folder, text=True) for each in asked}


async def failed_runs() -> tuple[list, list]:
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["smoke"])))
        ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id for run in runs]))
        return runs, await client.read_artifacts(artifact_filter=ours)


def test_a_result_outside_its_bound_fails_the_run_and_nothing_is_left_behind(
    project, prefect_api, command_line, tmp_path
):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    change_params(folder, lambda values: values.update(smoke=SMOKE))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "What makes a smoke run small")
    shutil.rmtree(folder / "data/raw/corpus")
    before = state(folder)
    code, _, error = command_line(folder, "smoke")
    log = (folder / ".threestage/smoke/log").read_text()
    assert code == 1, log
    assert state(folder) == before
    assert "data/raw/corpus: from DVC" in log
    ((run,), artifacts) = asyncio.run(failed_runs())
    assert "error: smoke: outside its bound: foundation bits_per_byte " in error
    assert run.state.name == "Failed"
    assert "(at least 20)" in run.state.message
    (table,) = (json.loads(each.data) for each in artifacts if each.key == "smoke")
    assert [(row["result"], row[""]) for row in table] == [
        ("foundation bits_per_byte", "OUTSIDE"),
        ("foundation ngram_bits_per_byte", ""),
    ]


@pytest.mark.parametrize(
    ("value", "at_least", "passed"),
    [(0.8, True, True), (0.79, True, False), (0.8, False, True), (0.81, False, False), (float("nan"), True, False)],
)
def test_a_bound_itself_passes_and_nan_does_not(value, at_least, passed):
    assert Result("classifier f1", value, 0.8, at_least).passed == passed


def test_a_result_that_is_missing_does_not_pass():
    result = Result("classifier f1", None, 0.8, True)
    assert not result.passed
    assert str(result) == "classifier f1 is missing (at least 0.8)"


def write(path: Path, smoke: dict) -> Path:
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
def test_a_wrong_section_is_an_error_that_names_the_key(tmp_path, smoke, reason):
    path = write(tmp_path / "params.yaml", smoke)
    with pytest.raises(UserError) as error:
        load_smoke(path)
    assert str(error.value).startswith(f"{path}: {reason}")


def test_params_of_a_block_that_is_not_there_change_nothing(tmp_path):
    values = read_yaml(ROOT / "params.yaml")
    path = write(tmp_path / "params.yaml", SMOKE | {"params": {"applications": {"gone": {"train": {"steps": 1}}}}})
    assert reduced(values, load_smoke(path)) == values


def test_it_is_due_each_week():
    deployments = {each["name"]: each for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    smoke = deployments["smoke"]
    assert smoke["entrypoint"] == "flows/smoke.py:smoke"
    assert smoke["pull"] == deployments["daily"]["pull"], "it tests the code that is merged, as daily runs it"
    assert smoke["schedules"] == [{"cron": "0 1 * * 0", "timezone": "UTC"}]
