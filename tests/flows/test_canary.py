"""The canary of a small project: what it leaves alone, and how it fails."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterName
from projects import ROOT, git, run

FEW = {"steps": 8, "evaluate_every": 8, "checkpoint_every": 8, "evaluation_batches": 1, "sample_prompts": []}
SMALL = {
    "raw": ["corpus/corpus/chats/*", "corpus/corpus/speeches/1[78]*"],
    "params": {"foundation": {"train": FEW, "evaluate": {"sample_tokens": 4}}},
}
BITS = "foundation/evaluation/bits_per_byte"


def state(folder: Path) -> dict[str, str]:
    """What git says of a project, and the size and time of what it made and of its registry."""
    made = [
        path for name in ("models", "reports", "data", "mlartifacts") for path in sorted(folder.glob(f"{name}/**/*"))
    ]
    files = {str(path): f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in [*made, folder / "mlflow.db"]}
    asked = (["status", "--porcelain"], ["worktree", "list"])
    return files | {each[0]: subprocess.check_output(["git", *each], cwd=folder, text=True) for each in asked}


def table(flow_run) -> list[dict]:
    async def read():
        async with get_client() as client:
            ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
            return await client.read_artifacts(artifact_filter=ours)

    (found,) = (each for each in asyncio.run(read()) if each.key == "canary")
    return json.loads(found.data)


def runs(name: str) -> list:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))


@pytest.fixture(scope="module")
def measured(project, prefect_api, tmp_path_factory) -> Path:
    """A copy of the finished project whose canary of the foundation is known."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("canary") / "project", symlinks=True)
    (folder / "canary").mkdir()
    (folder / "canary/small.yaml").write_text(yaml.safe_dump(SMALL))
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "What makes a canary small")
    before = state(folder)
    done = run(folder, "flows.canary", "foundation", "--record", PREFECT_API_URL=prefect_api)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "data/raw/corpus: from here" in done.stderr
    assert "recorded in canary/known.json; commit it" in done.stdout
    after = state(folder)
    assert after.pop("status") == "?? canary/known.json\n"
    assert after == {name: said for name, said in before.items() if name != "status"}
    return folder


def test_what_is_known_has_a_tolerance_and_is_of_the_small_project(measured, project):
    ((kind, known),) = json.loads((measured / "canary/known.json").read_text()).items()
    assert "cpu" in kind
    assert known["numbers"][BITS]["within"] >= 0.03
    assert known["numbers"]["foundation/training/steps"]["value"] == 8
    assert (
        known["circumstances"]["commit"]
        == subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=measured, text=True).strip()
    )
    assert {path.rpartition("/")[0] for path in known["sha256"]} == {"data/processed/corpus", "models/foundation"}


def test_a_number_that_is_outside_fails_the_run_which_shows_it_and_the_same_bytes_are_said(measured, command_line):
    path = measured / "canary/known.json"
    kept = path.read_text()
    known = json.loads(kept)
    (there,) = known.values()
    right = there["numbers"][BITS]["value"]
    there["numbers"][BITS]["value"] = right + 1
    path.write_text(json.dumps(known))
    raw = (measured / "data/raw/corpus").rename(measured / "data/raw/elsewhere")
    before = state(measured)
    log = measured / ".threestage/canary/log"
    log.unlink()
    code, _, error = command_line(measured, "canary", "foundation")
    assert state(measured) == before
    raw.rename(measured / "data/raw/corpus")
    path.write_text(kept)
    assert code == 1
    assert "data/raw/corpus: from DVC's cache" in log.read_text()
    count = len(there["numbers"])
    said = f"1 outside tolerance: {count} numbers; {BITS} {right:g} (known {right + 1:g} within "
    assert f"error: canary: {said}" in error
    assert "other bytes" not in error + log.read_text()
    (failed,) = runs("canary: 1 outside tolerance")
    assert failed.state.name == "Failed"
    assert said in failed.state.message
    first, *others = table(failed.id)
    assert first == {"number": BITS, "known": right + 1, "within": first["within"], "now": right, "": "OUTSIDE"}
    assert len(others) == count - 1
    assert not any(row[""] for row in others)


def test_nothing_runs_where_nothing_is_known_or_the_model_is_none(measured, prefect_api, command_line):
    path = measured / "canary/known.json"
    kept = path.read_text()
    _, _, error = command_line(measured, "canary", "novelist")
    assert "error: there is no model 'novelist'; those are: foundation, " in error
    path.unlink()
    code, _, error = command_line(measured, "canary")
    path.write_text(kept)
    assert code == 1
    assert "error: canary/known.json: no numbers are known yet" in error


def test_it_is_due_each_week():
    deployments = {each["name"]: each for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    canary = deployments["canary"]
    assert canary["entrypoint"] == "flows/canary.py:canary"
    assert canary["schedules"] == [{"cron": "0 1 * * 0", "timezone": "UTC"}]
    assert canary["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
