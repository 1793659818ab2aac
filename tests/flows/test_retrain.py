"""The schedule on a real Prefect server and worker: a deployment, a cancelled night, and the night after it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterStartTime, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from projects import NO_COMPILER, change_params, commit_all, environment, git, run
from real_servers import FINAL, Runs, wait_for

from tasks.stages.lock import workspace

POOL = "local"
GUARD = {
    "train": {"steps": 400, "batch_size": 8, "evaluate_every": 200, "checkpoint_every": 10},
    "review": {"at_least": {"f1": 1.01}},
}


@contextmanager
def worker(folder: Path, api: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool, in a group of its own."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    with (folder / "worker.log").open("a") as log:
        started = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(PREFECT_API_URL=api) | NO_COMPILER,
            process_group=0,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield started
    finally:
        started.kill()  # a run that it has ends with it
        started.wait()


@pytest.fixture(scope="module")
def deployed(project: Path, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished project and its deployments; git and DVC have remotes beside it.

    Somebody took the alias from all challengers but the guard. The schedules are paused: no run is due meanwhile.
    """
    folder = shutil.copytree(project, tmp_path_factory.mktemp("deployed") / "project", symlinks=True)
    git(folder, "config user.name Ada")
    git(folder, "config user.email ada@localhost")
    (folder / ".dvc/config").write_text(f"[core]\nremote = store\n['remote \"store\"']\nurl = {folder.parent}/store\n")
    commit_all(folder, "The models, and a remote")
    git(folder.parent, "clone --quiet --bare", str(folder), "origin")
    git(folder, "remote add origin", str(folder.parent / "origin"))
    git(folder, "fetch --quiet origin")
    git(folder, "branch --quiet --set-upstream-to", f"origin/{git_output(folder, 'branch --show-current')}")
    for model in ("foundation", "assistant", "classifier"):
        registry(folder).delete_registered_model_alias(f"threestage-{model}", "challenger")
    create = ["work-pool", "create", POOL, "--type", "process", "--overwrite"]
    for command in (create, ["--no-prompt", "deploy", "--all"]):
        done = run(folder, "prefect", *command, PREFECT_API_URL=prefect_api)
        assert done.returncode == 0, done.stdout + done.stderr
    client = Runs(prefect_api).client
    client.pause_deployment(client.read_deployment_by_name("retrain/daily").id)
    return folder


def registry(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    return MlflowClient(uri, uri)


def git_output(folder: Path, command: str) -> str:
    done = subprocess.run(["git", *command.split()], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def runs(prefect_api: str) -> Runs:
    return Runs(prefect_api)


def start(runs: Runs, **parameters: str) -> UUID:
    """Start the deployment `daily` now."""
    deployment = runs.client.read_deployment_by_name("retrain/daily")
    return runs.client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def ended(runs: Runs, flow_run: UUID) -> FlowRun:
    """The flow run once it has ended."""
    runs.ended(flow_run)
    return runs.client.read_flow_run(flow_run)


def states_of_night(runs: Runs, flow_run: UUID, folder: Path) -> dict[str, str]:
    """The states of a night and of its stages, which have its tag, once all have ended; by their names."""
    with chdir(folder):
        tag = f"retrain:{workspace()}"
    began = runs.client.read_flow_run(flow_run).start_time
    tagged = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[tag]), start_time=FlowRunFilterStartTime(after_=began - timedelta(seconds=1))
    )

    def final_states() -> dict[str, str] | None:
        states = {run.name: str(run.state_name) for run in runs.client.read_flow_runs(flow_run_filter=tagged)}
        return states if FINAL.issuperset(states.values()) else None

    return wait_for(final_states) | runs.final_tree(flow_run)


def statuses(folder: Path, stage: str) -> list[str]:
    """The states of a stage's runs in MLflow, the newest first."""
    experiment = registry(folder).get_experiment_by_name("threestage").experiment_id
    having = f"attributes.run_name = '{stage}'"
    newest_first = ["attributes.start_time DESC"]
    return [run.info.status for run in registry(folder).search_runs([experiment], having, order_by=newest_first)]


def checkpoints(folder: Path, stage: str) -> list[Path]:
    return list(folder.glob(f".threestage/stages/{stage}/*/step-*.safetensors"))


def test_deployments_have_a_schedule_no_lease_and_forms_with_bounds(deployed: Path, runs: Runs) -> None:
    daily = runs.client.read_deployment_by_name("retrain/daily")
    assert [entry.schedule.cron for entry in daily.schedules] == ["0 3 * * *"]
    assert daily.global_concurrency_limit is None, "a run that loses its lease in an outage is ended"
    assert daily.parameter_openapi_schema["properties"]["decide"]["enum"] == ["person", "gates", "nobody"]
    decide = runs.client.read_deployment_by_name("decide/decide")
    form = decide.parameter_openapi_schema
    assert form["properties"]["decision"]["enum"] == ["approve", "reject", "rollback"]
    assert form["required"] == ["model", "decision", "reason", "by"]
    assert decide.enforce_parameter_schema


def test_night_after_a_cancelled_one_goes_on_from_its_checkpoint_and_gates_decide(
    deployed: Path, prefect_api: str, runs: Runs
) -> None:
    change_params(deployed, {"applications": {"guard": GUARD}})
    log = deployed / ".threestage/stages/finetune@guard/log"
    head = git_output(deployed, "rev-parse HEAD")
    index = git_output(deployed, "ls-files --stage")

    def is_killed_in_mlflow() -> bool:
        return statuses(deployed, "finetune@guard")[0] == "KILLED"

    with worker(deployed, prefect_api):
        cancelled = start(runs)
        wait_for(partial(checkpoints, deployed, "finetune@guard"))
        runs.client.set_flow_run_state(cancelled, Cancelling())
        states = states_of_night(runs, cancelled, deployed)
        wait_for(is_killed_in_mlflow)
        assert states.pop("stages") == "Crashed", "so Prefect calls a task whose process is told to end"
        assert states.keys() > {"finetune-guard"}
        assert set(states.values()) == {"Cancelled"}, states
        assert git_output(deployed, "status --short --untracked-files=no") == "M params.yaml"

        registry(deployed).set_registered_model_alias("threestage-guard", "champion", "1")  # as a person may
        night = start(runs, push_to="origin", decide="gates")
        finished = ended(runs, night)
    assert finished.state.name == "Completed", (deployed / "worker.log").read_text()[-3000:]
    assert "going on after step" in log.read_text()
    assert statuses(deployed, "finetune@guard")[0] == "FINISHED"
    states = states_of_night(runs, night, deployed)
    assert set(states.values()) == {"Completed"}, states
    assert {"stages", "register guard", "review guard", "finetune-guard", "evaluate-guard"} <= states.keys()
    rows = {row["stage"]: row for row in json.loads(runs.page(night, "retrain"))}
    assert rows.keys() == {"finetune@guard", "evaluate@guard"}
    assert rows["finetune@guard"]["result"] == "done"
    assert "applications.guard.train modified" in rows["finetune@guard"]["reason"].split(", ")

    gates = {row["name"]: row["passed"] for row in json.loads(runs.page(night, "review-guard"))}
    assert gates["f1 at least 1.01"] is False
    version = registry(deployed).get_model_version("threestage-guard", "2")
    assert (version.tags["threestage.by"], version.tags["threestage.state"]) == ("gates", "rejected")
    assert "f1 at least 1.01: failed" in version.tags["threestage.why"]

    branch = finished.name.partition(":")[0].replace(" ", "/")
    assert (git_output(deployed, "rev-parse HEAD"), git_output(deployed, "ls-files --stage")) == (head, index)
    assert git_output(deployed, "status --short --untracked-files=no") == "M params.yaml"
    assert git_output(deployed, f"rev-parse {branch}^@") == head
    assert "threestage-guard version 2" in git_output(deployed, f"log -1 --format=%B {branch}").splitlines()
    changed = git_output(deployed, f"diff --name-only HEAD {branch}").splitlines()
    assert {"dvc.lock", "params.yaml", "reports/evaluation/guard/metrics.json"} <= {*changed}
    pushed = git_output(deployed.parent / "origin", f"rev-parse {branch}")
    assert pushed == git_output(deployed, f"rev-parse {branch}")
