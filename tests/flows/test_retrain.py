"""The schedule on a real Prefect server and worker: a deployment, a cancelled run, a killed worker."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from functools import partial
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from mlflow import MlflowClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling
from projects import NO_COMPILER, change_params, commit_all, environment, git, run
from real_servers import Runs, wait_for

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


def has_name(runs: Runs, flow_run: UUID, pattern: str) -> bool:
    name = runs.client.read_flow_run(flow_run).name
    return re.fullmatch(pattern, name) is not None


def has_text(path: Path, text: str) -> bool:
    return text in path.read_text()


def statuses(folder: Path) -> list[str]:
    """The states of the retrains' runs in MLflow, oldest first. No run is open."""
    experiment = registry(folder).get_experiment_by_name("threestage").experiment_id
    runs = registry(folder).search_runs([experiment], order_by=["attributes.start_time"])
    assert "RUNNING" not in {run.info.status for run in runs}
    return [run.info.status for run in runs if run.info.run_name.startswith("retrain ")]


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
    assert form.keys() == {"hours", "stage_hours", "decide", "share", "push_to", "stages"}
    assert (form["decide"]["enum"], daily.parameters["decide"]) == (["person", "gates", "nobody"], "person")
    assert form["stage_hours"]["exclusiveMinimum"] == 0
    steps = "prefect.deployments.steps"
    assert daily.pull_steps == [
        {f"{steps}.set_working_directory": {"directory": str(deployed)}},
        {f"{steps}.run_shell_script": {"script": f"{sys.executable} -m cli deploy"}},
    ]
    decide = runs.client.read_deployment_by_name("decide/decide")
    assert decide.pull_steps == daily.pull_steps[:1]
    form = decide.parameter_openapi_schema
    assert form["properties"]["decision"]["enum"] == ["approve", "reject", "rollback"]
    assert form["required"] == ["model", "decision", "reason", "by"]
    assert decide.enforce_parameter_schema


def test_cancelled_run_is_cancelled_at_every_level_and_the_last_good_model_is_back(
    deployed: Path, prefect_api: str, runs: Runs
) -> None:
    before = weights(deployed)
    path = deployed / "params.yaml"
    params = path.read_text()
    change_params(deployed, {"foundation": {"train": ENDLESS | {"checkpoint_every": 10}}})
    log = deployed / ".threestage/stages/pretrain/log"
    try:
        with worker(deployed, prefect_api):
            flow_run = start(runs)
            wait_for(partial(checkpoints, deployed, "pretrain"))
            assert not (deployed / "models/foundation").exists()
            runs.client.set_flow_run_state(flow_run, Cancelling())
            done = ended(runs, flow_run)
            ends = [state for state in runs.client.read_flow_run_states(flow_run) if state.is_final()]
            later = "the next run goes on from the last checkpoint."
            assert ends[0].message == f"The run was cancelled; {later}", "the run's own message, before its worker's"
            assert weights(deployed) == before
            run_log = deployed / ".threestage/retrain/log"
            wait_for(partial(has_text, run_log, "Stopped; the next run goes on"))
            assert statuses(deployed)[-1] == "KILLED"
        assert "Finished in state Running" not in run_log.read_text()
        states = runs.final_tree(flow_run)
        assert set(states.values()) == {"Cancelled"}, states
        assert {"pretrain", "pretrain-scratch", done.name} <= states.keys()
        assert "Crash" not in log.read_text()
        assert " goes on from there; ended after " in log.read_text().splitlines()[-1]
        assert git_output(deployed, "status --short -- dvc.lock reports") == ""
    finally:
        path.write_text(params)
        for folder in {path.parent for path in checkpoints(deployed, "pretrain")}:
            shutil.rmtree(folder)


def test_killed_worker_leaves_crashed_runs_and_the_next_run_resumes_from_the_checkpoint(
    project: Path, deployed: Path, prefect_api: str, runs: Runs
) -> None:
    change_params(deployed, {"applications": {"guard": GUARD}})
    stage_folder = deployed / ".threestage/stages/finetune@guard"
    with worker(deployed, prefect_api) as working:
        flow_run = start(runs)
        wait_for(partial(checkpoints, deployed, "finetune@guard"))
        stage = psutil.Process(int((stage_folder / "lock").read_text()))
        stage.suspend()  # so that it does not end before
        working.kill()
        working.wait()
        stage.resume()
    done = ended(runs, flow_run)
    states = runs.final_tree(flow_run)  # the stage may still write its checkpoint
    assert set(states.values()) == {"Crashed"}, states
    assert {"finetune@guard", done.name} <= states.keys()
    assert statuses(deployed)[-1] == "KILLED"
    assert weights(deployed, "guard") == weights(project, "guard")

    registry(deployed).set_registered_model_alias("threestage-guard", "champion", "1")  # as a person may
    head = git_output(deployed, "rev-parse HEAD")
    index = git_output(deployed, "ls-files --stage")
    with worker(deployed, prefect_api):
        again = start(runs, push_to="origin")
        wait_for(partial(has_name, runs, again, ".* of 18 stages"))
        decided = start(runs, decide="gates")
        wait_for(partial(has_name, runs, decided, "retrain: waits for the run before"))
        assert not runs.client.read_flow_run(again).state.is_final()
        finished = ended(runs, again)
        judged = ended(runs, decided)
    assert finished.state.name == "Completed", (deployed / "worker.log").read_text()[-3000:]
    assert "going on after step" in (stage_folder / "log").read_text()
    assert weights(deployed, "guard") != weights(project, "guard")
    assert name_without_day(finished) == "2 of 18 stages"
    states = runs.final_tree(again)
    assert set(states.values()) == {"Completed"}
    assert {"review: guard 2 waits", "register", "share"} <= states.keys()
    assert "; finished in " in finished.state.message
    assert "guard/2 waits for a decision: run `threestage review`, " in finished.state.message
    shown = runs.page(again, "retrain")
    assert r"| finetune\@guard | ran | applications.guard.train modified |" in shown
    assert "- **guard**: version 2 waits for a decision\n" in shown

    branch = finished.name.partition(":")[0].replace(" ", "/")
    assert git_output(deployed, "rev-parse HEAD") == head
    assert git_output(deployed, "ls-files --stage") == index
    assert git_output(deployed, "status --short --untracked-files=no") == "M params.yaml"
    assert git_output(deployed, f"rev-parse {branch}^@") == head
    message = git_output(deployed, f"log -1 --format=%B {branch}").splitlines()
    assert {"finetune@guard: applications.guard.train modified", "threestage-guard version 2"} <= {*message}
    changed = git_output(deployed, f"diff --name-only HEAD {branch}").splitlines()
    assert {"dvc.lock", "params.yaml", "reports/evaluation/guard/metrics.json"} <= {*changed}
    pushed = git_output(deployed.parent / "origin", f"rev-parse {branch}")
    assert pushed == git_output(deployed, f"rev-parse {branch}")
    assert f"- committed to the branch {branch}\n- data pushed to DVC's remote store\n" in shown

    assert judged.state.name == "Completed"
    assert name_without_day(judged) == "nothing to train, a review", "DVC's run cache brought back what nobody merged"
    assert r"| finetune\@guard | restored |" in runs.page(decided, "retrain")
    assert f"- committed to the branch {branch}\n" in runs.page(decided, "retrain")
    assert git_output(deployed, "branch --list retrain/* --format=%(refname:short)") == branch
    version = registry(deployed).get_model_version("threestage-guard", "2")
    assert (version.tags["threestage.by"], version.tags["threestage.state"]) == ("gates", "rejected")
    assert re.search(r"\w+ at least [\d.]+: failed", version.tags["threestage.why"])
