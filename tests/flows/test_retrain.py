"""The schedule on a real Prefect server and worker: a deployment, a cancelled run, a killed worker."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from mlflow import MlflowClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterStartTime, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from projects import NO_COMPILER, change_params, commit_all, environment, git, run
from real_servers import FINAL, Runs, has_ended, wait_for

from tasks.stages.lock import workspace

HANGS = 600  # seconds that only something that hangs takes
NEVER = 10**6
ENDLESS = {"steps": NEVER, "evaluate_every": NEVER, "checkpoint_every": NEVER}
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
    done = run(folder, "dvc", "remote", "add", "--default", "store", str(folder.parent / "store"))
    assert done.returncode == 0, done.stderr
    commit_all(folder, "The models, and a remote")
    git(folder.parent, "clone --quiet --bare", str(folder), "origin")
    git(folder, "remote add origin", str(folder.parent / "origin"))
    git(folder, "fetch --quiet origin")
    git(folder, "branch --quiet --set-upstream-to", f"origin/{git_output(folder, 'branch --show-current')}")
    for model in ("foundation", "assistant", "classifier"):
        registry(folder).delete_registered_model_alias(f"threestage-{model}", "challenger")
    create = ["work-pool", "create", POOL, "--type", "process", "--overwrite"]
    pause = ["--no-prompt", "deployment", "schedule", "pause", "--all"]
    for command in (create, ["--no-prompt", "deploy", "--all"], pause):
        done = run(folder, "prefect", *command, PREFECT_API_URL=prefect_api)
        assert done.returncode == 0, done.stdout + done.stderr
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


def rows_of(runs: Runs, flow_run: UUID) -> dict[str, tuple[str, str]]:
    """The result and the reason of each stage in a night's table."""
    return {row["stage"]: (row["result"], row["reason"]) for row in json.loads(runs.page(flow_run, "retrain"))}


def newest_status(folder: Path, stage: str) -> str:
    """The state of the newest run of a stage in MLflow."""
    experiment = registry(folder).get_experiment_by_name("threestage").experiment_id
    having = f"attributes.run_name = '{stage}'"
    (run,) = registry(folder).search_runs([experiment], having, order_by=["attributes.start_time DESC"], max_results=1)
    return run.info.status


def weights(folder: Path, model: str = "foundation") -> str:
    return hashlib.sha256((folder / f"models/{model}/model.safetensors").read_bytes()).hexdigest()


def checkpoints(folder: Path, stage: str) -> list[Path]:
    return list(folder.glob(f".threestage/stages/{stage}/*/step-*.safetensors"))


def name_without_day(run: FlowRun) -> str:
    """A run's name without the day, which must be one on which it ran."""
    match = re.fullmatch(r"retrain (\d{4}-\d\d-\d\d): (.+)", run.name)
    day, name = match.groups()
    assert f"{run.start_time.astimezone(UTC):%Y-%m-%d}" <= day <= f"{run.end_time.astimezone(UTC):%Y-%m-%d}"
    return name


def test_deployments_have_a_schedule_no_lease_and_forms_with_bounds(deployed: Path, runs: Runs) -> None:
    daily = runs.client.read_deployment_by_name("retrain/daily")
    assert [entry.schedule.cron for entry in daily.schedules] == ["0 3 * * *"]
    assert daily.global_concurrency_limit is None, "a run that loses its lease in an outage is ended"
    form = daily.parameter_openapi_schema["properties"]
    assert form.keys() == {"hours", "decide", "share", "push_to", "stages"}
    assert (form["decide"]["enum"], daily.parameters["decide"]) == (["person", "gates", "nobody"], "person")
    assert form["hours"]["exclusiveMinimum"] == 0
    in_checkout, pull = daily.pull_steps
    assert in_checkout == {"prefect.deployments.steps.set_working_directory": {"directory": str(deployed)}}
    assert "git pull --ff-only" in pull["prefect.deployments.steps.run_shell_script"]["script"]
    decide = runs.client.read_deployment_by_name("decide/decide")
    assert decide.pull_steps == [in_checkout]
    form = decide.parameter_openapi_schema
    assert form["properties"]["decision"]["enum"] == ["approve", "reject", "rollback"]
    assert form["required"] == ["model", "decision", "reason", "by"]
    assert decide.enforce_parameter_schema


def test_cancelled_night_ends_its_stage_with_a_checkpoint(deployed: Path, prefect_api: str, runs: Runs) -> None:
    path = deployed / "params.yaml"
    params = path.read_text()
    change_params(deployed, {"foundation": {"train": ENDLESS | {"checkpoint_every": 10}}})
    log = deployed / ".threestage/stages/pretrain/log"

    def has_stage_ended() -> bool:
        return "ended after" in log.read_text().splitlines()[-1]

    def is_killed_in_mlflow() -> bool:
        return newest_status(deployed, "pretrain") == "KILLED"

    try:
        with worker(deployed, prefect_api):
            flow_run = start(runs)
            wait_for(partial(checkpoints, deployed, "pretrain"))
            runs.client.set_flow_run_state(flow_run, Cancelling())
            ended(runs, flow_run)
            states = states_of_night(runs, flow_run, deployed)
            wait_for(has_stage_ended)
            wait_for(is_killed_in_mlflow)
        assert states.pop("stages") == "Crashed", "so Prefect calls a task whose process is told to end"
        assert states.keys() > {"pretrain-scratch"}
        assert set(states.values()) == {"Cancelled"}, states
        assert git_output(deployed, "status --short -- dvc.lock reports") == ""
    finally:
        path.write_text(params)
        for folder in {path.parent for path in checkpoints(deployed, "pretrain")}:
            shutil.rmtree(folder)


def test_night_after_a_killed_worker_goes_on_from_the_checkpoint_and_gates_decide(
    project: Path, deployed: Path, prefect_api: str, runs: Runs
) -> None:
    change_params(deployed, {"applications": {"guard": GUARD}})
    stage_folder = deployed / ".threestage/stages/finetune@guard"
    with worker(deployed, prefect_api) as working:
        killed = start(runs)
        wait_for(partial(checkpoints, deployed, "finetune@guard"))
        stage = psutil.Process(int((stage_folder / "lock").read_text()))
        stage.suspend()  # so that it does not end before
        working.kill()
        working.wait()
        stage.resume()
    wait_for(lambda: has_ended(stage))

    registry(deployed).set_registered_model_alias("threestage-guard", "champion", "1")  # as a person may
    head = git_output(deployed, "rev-parse HEAD")
    index = git_output(deployed, "ls-files --stage")
    with worker(deployed, prefect_api):
        again = start(runs, push_to="origin")
        finished = ended(runs, again)
        decided = start(runs, decide="gates")
        judged = ended(runs, decided)
    assert set(states_of_night(runs, killed, deployed).values()) <= {"Crashed", "Cancelled", "Completed"}
    assert runs.client.read_flow_run(killed).state.name == "Crashed"
    assert newest_status(deployed, "finetune@guard") == "FINISHED"
    assert finished.state.name == "Completed", (deployed / "worker.log").read_text()[-3000:]
    assert "going on after step" in (stage_folder / "log").read_text()
    assert weights(deployed, "guard") != weights(project, "guard")
    assert name_without_day(finished) == "2 of 2 stale stages"
    states = states_of_night(runs, again, deployed)
    assert set(states.values()) == {"Completed"}, states
    assert {"stages", "register guard", "review guard", "finetune-guard", "evaluate-guard"} <= states.keys()
    gates = {row["name"]: row["passed"] for row in json.loads(runs.page(again, "review-guard"))}
    assert gates["f1 at least 1.01"] is False
    rows = rows_of(runs, again)
    assert rows.keys() == {"finetune@guard", "evaluate@guard"}
    assert rows["finetune@guard"][0] == "done"
    assert "applications.guard.train modified" in rows["finetune@guard"][1].split(", ")

    branch = finished.name.partition(":")[0].replace(" ", "/")
    assert git_output(deployed, "rev-parse HEAD") == head
    assert git_output(deployed, "ls-files --stage") == index
    assert git_output(deployed, "status --short --untracked-files=no") == "M params.yaml"
    assert git_output(deployed, f"rev-parse {branch}^@") == head
    message = git_output(deployed, f"log -1 --format=%B {branch}").splitlines()
    assert "threestage-guard version 2" in message
    assert any(line.startswith("finetune@guard: applications.guard.train modified") for line in message)
    changed = git_output(deployed, f"diff --name-only HEAD {branch}").splitlines()
    assert {"dvc.lock", "params.yaml", "reports/evaluation/guard/metrics.json"} <= {*changed}
    pushed = git_output(deployed.parent / "origin", f"rev-parse {branch}")
    assert pushed == git_output(deployed, f"rev-parse {branch}")

    assert judged.state.name == "Completed"
    assert rows_of(runs, decided)["finetune@guard"][0] == "done", "DVC's run cache has what nobody merged"
    assert git_output(deployed, "branch --list retrain/* --format=%(refname:short)") == branch
    version = registry(deployed).get_model_version("threestage-guard", "2")
    assert (version.tags["threestage.by"], version.tags["threestage.state"]) == ("gates", "rejected")
    assert "f1 at least 1.01: failed" in version.tags["threestage.why"]
