"""The schedule on a real Prefect server and worker: a no-op, a cancelled run, a worker that is killed."""

import asyncio
import hashlib
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
    FlowRunFilterParentFlowRunId,
)
from prefect.states import Cancelling
from projects import change_params, environment, run

HANGS = 600  # seconds that only something that hangs takes
NEVER = 10**6
ENDLESS = {"steps": NEVER, "evaluate_every": NEVER, "checkpoint_every": NEVER}
POOL = "local"


def wait_for(there, running=None):
    """What `there` gives as soon as that is something."""
    deadline = time.monotonic() + HANGS
    while not (found := there()):
        assert time.monotonic() < deadline
        assert running is None or running.poll() is None
        time.sleep(0.1)
    return found


@contextmanager
def worker(folder, api):
    """A worker of the pool, in a group of its own."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    with (folder / "worker.log").open("a") as log:
        started = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(PREFECT_API_URL=api),
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
def deployed(project, prefect_api, tmp_path_factory):
    """A copy of the finished project, and its deployments."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("deployed") / "project", symlinks=True)
    create = ["work-pool", "create", POOL, "--type", "process", "--overwrite"]
    for command in (create, ["--no-prompt", "deploy", "--all"]):
        done = run(folder, "prefect", *command, PREFECT_API_URL=prefect_api)
        assert done.returncode == 0, done.stdout + done.stderr
    with get_client(sync_client=True) as client:
        steps = client.read_deployment_by_name("retrain/daily").pull_steps
    assert steps == [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
    return folder


@pytest.fixture
def client(prefect_api):
    with get_client(sync_client=True) as client:
        yield client


def start(client):
    """Start the deployment `daily` now."""
    deployment = client.read_deployment_by_name("retrain/daily")
    return client.create_flow_run_from_deployment(deployment.id).id


def ended(client, flow_run):
    """The flow run once it has ended."""

    def there():
        found = client.read_flow_run(flow_run)
        return found if found.state.is_final() else None

    return wait_for(there)


def tree(client, flow_run):
    """The states of a flow run and of all below it, by their names."""
    found, levels = {}, [client.read_flow_run(flow_run)]
    while levels:
        found |= {each.name: each.state.name for each in levels}
        below = [each.id for each in levels]
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=below)))
        found |= {each.name: each.state.name for each in tasks}
        parent = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=below))
        levels = client.read_flow_runs(flow_run_filter=parent)
    return found


def page(flow_run):
    """The page that a run left."""

    async def read():
        async with get_client() as client:
            ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run]))
            return await client.read_artifacts(artifact_filter=ours)

    (found,) = (each for each in asyncio.run(read()) if each.key == "retrain")
    return found.data


def weights(folder):
    return hashlib.sha256((folder / "models/foundation/model.safetensors").read_bytes()).hexdigest()


def checkpoints(folder):
    return list(folder.glob(".threestage/stages/pretrain/*/step-*.safetensors"))


def today():
    return f"retrain {datetime.now(UTC):%Y-%m-%d}"


def test_a_run_is_due_each_day_and_none_is_dropped_while_another_runs(deployed, client):
    daily = client.read_deployment_by_name("retrain/daily")
    assert [each.schedule.cron for each in daily.schedules] == ["0 3 * * *"]
    assert daily.global_concurrency_limit.limit == 1
    assert daily.concurrency_options.collision_strategy == "ENQUEUE"
    form = daily.parameter_openapi_schema["properties"]
    assert form.keys() == {"hours", "stage_hours"}
    assert form["stage_hours"]["exclusiveMinimum"] == 0
    assert "next run goes on" in form["stage_hours"]["description"]


def test_where_nothing_is_new_a_run_says_so_and_starts_nothing(deployed, prefect_api, client):
    with worker(deployed, prefect_api):
        flow_run = start(client)
        done = ended(client, flow_run)
    assert done.state.name == "Completed", (deployed / "worker.log").read_text()[-3000:]
    assert done.name == f"{today()}: nothing new"
    assert tree(client, flow_run) == {done.name: "Completed"}
    assert "| threestage-classifier | version 1, challenger |" in page(flow_run)


def test_a_run_that_takes_longer_than_it_may_fails_before_its_next_stage(deployed, prefect_api, client):
    path = deployed / "params.yaml"
    kept = path.read_text()
    change_params(deployed, {"foundation": {"train": {"steps": 7}}})
    try:
        code = (
            "from flows.retrain import retrain; from tasks.stages.server import run_as_child; "
            "run_as_child(retrain, {'hours': 1e-9, 'stage_hours': 1})"
        )
        command = [sys.executable, "-c", code]
        variables = environment(PREFECT_API_URL=prefect_api)
        done = subprocess.run(command, cwd=deployed, env=variables, capture_output=True, text=True, check=False)
    finally:
        path.write_text(kept)
    assert "UserError: the run took longer than it may (`hours`)" in done.stderr
    assert (deployed / "models/foundation").exists()
    (latest,) = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_=f"{today()}: 4 of 13 stages")), limit=1
    )
    assert latest.state.name == "Failed"


def test_a_cancelled_run_has_one_word_at_every_level_and_the_last_good_model_is_back(
    deployed, prefect_api, client, tmp_path
):
    before, path = weights(deployed), deployed / "params.yaml"
    kept = path.read_text()
    change_params(deployed, {"foundation": {"train": ENDLESS}})
    log = deployed / ".threestage/stages/pretrain/log"
    log.unlink(missing_ok=True)
    try:
        with worker(deployed, prefect_api) as working:
            flow_run = start(client)
            trains = "training needs about"  # after which a stop leaves a checkpoint
            wait_for(lambda: log.exists() and trains in log.read_text(), working)
            assert not (deployed / "models/foundation").exists()
            client.set_flow_run_state(flow_run, Cancelling())
            done = ended(client, flow_run)
            assert weights(deployed) == before
        states = tree(client, flow_run)
        assert set(states.values()) == {"Cancelled"}, states
        assert {"pretrain", "pretrain-scratch", done.name} <= states.keys()
        assert "Crash" not in log.read_text()
        assert checkpoints(deployed)
    finally:
        path.write_text(kept)
        for folder in {each.parent for each in checkpoints(deployed)}:
            shutil.rmtree(folder)


def test_a_killed_worker_leaves_crashed_runs_and_the_next_one_goes_on_from_the_checkpoint(
    project, deployed, prefect_api, client
):
    change_params(deployed, {"foundation": {"train": {"steps": 200, "sample_prompts": []}}})
    lock = deployed / ".threestage/stages/pretrain/lock"
    with worker(deployed, prefect_api) as working:
        flow_run = start(client)
        wait_for(lambda: checkpoints(deployed), working)
        stage = psutil.Process(int(lock.read_text()))
        stage.suspend()  # so that it does not end before
        working.kill()
        working.wait()
        stage.resume()
    done = ended(client, flow_run)
    wait_for(lambda: "Running" not in tree(client, flow_run).values())  # the stage may still write its checkpoint
    states = tree(client, flow_run)
    assert set(states.values()) == {"Crashed"}, states
    assert {"pretrain", "pretrain-scratch", done.name} <= states.keys()
    assert weights(deployed) == weights(project)

    with worker(deployed, prefect_api):
        again = start(client)
        finished = ended(client, again)
    assert finished.state.name == "Completed", (deployed / "worker.log").read_text()[-3000:]
    assert "going on after step" in (deployed / ".threestage/stages/pretrain/log").read_text()
    assert weights(deployed) != weights(project)
    assert finished.name == f"{today()}: 4 of 13 stages"  # the foundation and the classifier, which starts from it
    states = tree(client, again)
    assert set(states.values()) == {"Completed"}
    said = page(again)
    assert "| pretrain | ran | foundation.train modified |" in said
