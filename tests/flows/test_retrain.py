"""The schedule on a real Prefect server and worker: a deployment, a cancelled run, a killed worker."""

import hashlib
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC

import psutil
import pytest
from mlflow import MlflowClient
from prefect.states import Cancelling
from projects import NO_COMPILER, change_params, environment, git, run
from real_servers import Runs, wait_for

HANGS = 600  # seconds that only something that hangs takes
NEVER = 10**6
ENDLESS = {"steps": NEVER, "evaluate_every": NEVER, "checkpoint_every": NEVER}
POOL = "local"
ENDS = {"Completed", "Failed", "Crashed", "Cancelled"}
GUARD = {
    "train": {"steps": 400, "batch_size": 8, "evaluate_every": 200, "checkpoint_every": 10},
    "review": {"at_least": {"f1": 1.01}},
}


@contextmanager
def worker(folder, api):
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
def deployed(project, prefect_api, tmp_path_factory):
    """A copy of the finished project and its deployments; git and DVC have remotes beside it.

    Somebody took the alias from all challengers but the guard. The schedules are paused: no run is due meanwhile.
    """
    folder = shutil.copytree(project, tmp_path_factory.mktemp("deployed") / "project", symlinks=True)
    git(folder, "config", "user.name", "Ada")
    git(folder, "config", "user.email", "ada@localhost")
    done = run(folder, "dvc", "remote", "add", "--default", "store", str(folder.parent / "store"))
    assert done.returncode == 0, done.stderr
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "The models, and a remote")
    git(folder.parent, "clone", "--quiet", "--bare", str(folder), "origin")
    git(folder, "remote", "add", "origin", str(folder.parent / "origin"))
    git(folder, "fetch", "--quiet", "origin")
    git(folder, "branch", "--quiet", "--set-upstream-to", f"origin/{said(folder, 'branch', '--show-current')}")
    for model in ("foundation", "assistant", "classifier"):
        registry(folder).delete_registered_model_alias(f"threestage-{model}", "challenger")
    create = ["work-pool", "create", POOL, "--type", "process", "--overwrite"]
    pause = ["--no-prompt", "deployment", "schedule", "pause", "--all"]
    for command in (create, ["--no-prompt", "deploy", "--all"], pause):
        done = run(folder, "prefect", *command, PREFECT_API_URL=prefect_api)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def registry(folder):
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}", f"sqlite:///{folder / 'mlflow.db'}")


def said(folder, *arguments):
    """What git says."""
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def runs(prefect_api):
    return Runs(prefect_api)


def start(runs, **parameters):
    """Start the deployment `daily` now."""
    deployment = runs.client.read_deployment_by_name("retrain/daily")
    return runs.client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id


def ended(runs, flow_run):
    """The flow run once it has ended."""
    runs.ended(flow_run)
    return runs.client.read_flow_run(flow_run)


def tree(runs, flow_run):
    """The states in which a flow run and all below it ended, by their names: a server hears of tasks a little later."""
    return wait_for(lambda: ENDS.issuperset((found := runs.tree(flow_run)).values()) and found)


def statuses(folder):
    """The states of the retrains' runs in MLflow, oldest first. No run is open."""
    experiment = registry(folder).get_experiment_by_name("threestage").experiment_id
    runs = registry(folder).search_runs([experiment], order_by=["attributes.start_time"])
    assert "RUNNING" not in {run.info.status for run in runs}
    return [run.info.status for run in runs if run.info.run_name.startswith("retrain ")]


def weights(folder, model="foundation"):
    return hashlib.sha256((folder / f"models/{model}/model.safetensors").read_bytes()).hexdigest()


def checkpoints(folder, stage="pretrain"):
    return list(folder.glob(f".threestage/stages/{stage}/*/step-*.safetensors"))


def what(run):
    """What a run's name says beside the day, which is one of its own."""
    day, rest = re.fullmatch(r"retrain (\d{4}-\d\d-\d\d): (.+)", run.name).groups()
    assert f"{run.start_time.astimezone(UTC):%Y-%m-%d}" <= day <= f"{run.end_time.astimezone(UTC):%Y-%m-%d}"
    return rest


def test_a_deployment_has_its_schedule_no_lease_and_a_form_with_bounds(deployed, runs):
    daily = runs.client.read_deployment_by_name("retrain/daily")
    assert [each.schedule.cron for each in daily.schedules] == ["0 3 * * *"]
    assert daily.global_concurrency_limit is None, "a run that loses its lease in an outage is ended"
    form = daily.parameter_openapi_schema["properties"]
    assert form.keys() == {"hours", "stage_hours", "decide", "share", "push_to"}
    assert (form["decide"]["enum"], daily.parameters["decide"]) == (["person", "gates", "nobody"], "person")
    assert form["stage_hours"]["exclusiveMinimum"] == 0
    place, code = (next(iter(step.values())) for step in daily.pull_steps)
    assert place == {"directory": str(deployed)}
    assert code == {"script": f"{sys.executable} -m cli deploy"}
    assert runs.client.read_deployment_by_name("review/review").pull_steps == daily.pull_steps[:1]


def test_a_cancelled_run_has_one_word_at_every_level_and_the_last_good_model_is_back(deployed, prefect_api, runs):
    before, path = weights(deployed), deployed / "params.yaml"
    kept = path.read_text()
    change_params(deployed, {"foundation": {"train": ENDLESS | {"checkpoint_every": 10}}})
    log = deployed / ".threestage/stages/pretrain/log"
    try:
        with worker(deployed, prefect_api):
            flow_run = start(runs)
            wait_for(lambda: checkpoints(deployed))
            assert not (deployed / "models/foundation").exists()
            runs.client.set_flow_run_state(flow_run, Cancelling())
            done = ended(runs, flow_run)
            ends = [each for each in runs.client.read_flow_run_states(flow_run) if each.is_final()]
            later = "the next run goes on from the last checkpoint."
            assert ends[0].message == f"The run was cancelled; {later}"  # as it says itself, before its worker looks
            assert weights(deployed) == before
            run_log = deployed / ".threestage/retrain/log"
            wait_for(lambda: "Stopped; the next run goes on" in run_log.read_text())
            assert statuses(deployed)[-1] == "KILLED"
        assert "Finished in state Running" not in run_log.read_text()
        states = tree(runs, flow_run)
        assert set(states.values()) == {"Cancelled"}, states
        assert {"pretrain", "pretrain-scratch", done.name} <= states.keys()
        assert "Crash" not in log.read_text()
        assert " goes on from there; ended after " in log.read_text().splitlines()[-1]
        assert said(deployed, "status", "--short", "--", "dvc.lock", "reports") == ""
    finally:
        path.write_text(kept)
        for folder in {each.parent for each in checkpoints(deployed)}:
            shutil.rmtree(folder)


def test_a_killed_worker_leaves_crashed_runs_and_the_next_one_goes_on_from_the_checkpoint(
    project, deployed, prefect_api, runs
):
    change_params(deployed, {"applications": {"guard": GUARD}})
    stage_folder = deployed / ".threestage/stages/finetune@guard"
    with worker(deployed, prefect_api) as working:
        flow_run = start(runs)
        wait_for(lambda: checkpoints(deployed, "finetune@guard"))
        stage = psutil.Process(int((stage_folder / "lock").read_text()))
        stage.suspend()  # so that it does not end before
        working.kill()
        working.wait()
        stage.resume()
    done = ended(runs, flow_run)
    states = tree(runs, flow_run)  # the stage may still write its checkpoint
    assert set(states.values()) == {"Crashed"}, states
    assert {"finetune@guard", done.name} <= states.keys()
    assert statuses(deployed)[-1] == "KILLED"
    assert weights(deployed, "guard") == weights(project, "guard")

    registry(deployed).set_registered_model_alias("threestage-guard", "champion", "1")  # as a person may
    before = said(deployed, "rev-parse", "HEAD"), said(deployed, "ls-files", "--stage")
    with worker(deployed, prefect_api):
        again = start(runs, push_to="origin")
        wait_for(lambda: runs.client.read_flow_run(again).name.endswith(" of 18 stages"))
        decided = start(runs, decide="gates")
        wait_for(lambda: runs.client.read_flow_run(decided).name == "retrain: waits for the run before")
        assert not runs.client.read_flow_run(again).state.is_final()
        finished = ended(runs, again)
        judged = ended(runs, decided)
    assert finished.state.name == "Completed", (deployed / "worker.log").read_text()[-3000:]
    assert "going on after step" in (stage_folder / "log").read_text()
    assert weights(deployed, "guard") != weights(project, "guard")
    assert what(finished) == "2 of 18 stages"
    states = tree(runs, again)
    assert set(states.values()) == {"Completed"}
    assert {"review: guard 2 waits", "register", "share"} <= states.keys()
    assert "; finished in " in finished.state.message
    assert "guard/2 waits for a decision: run `threestage review`, " in finished.state.message
    shown = runs.page(again, "retrain")
    assert r"| finetune\@guard | ran | applications.guard.train modified |" in shown
    assert "- **guard**: version 2 waits for a decision\n" in shown

    branch = finished.name.partition(":")[0].replace(" ", "/")
    assert before == (said(deployed, "rev-parse", "HEAD"), said(deployed, "ls-files", "--stage"))
    assert said(deployed, "status", "--short", "--untracked-files=no") == "M params.yaml"
    assert said(deployed, "rev-parse", f"{branch}^@") == before[0]
    message = said(deployed, "log", "-1", "--format=%B", branch).splitlines()
    assert {"finetune@guard: applications.guard.train modified", "threestage-guard version 2"} <= {*message}
    changed = said(deployed, "diff", "--name-only", "HEAD", branch).splitlines()
    assert {"dvc.lock", "params.yaml", "reports/evaluation/guard/metrics.json"} <= {*changed}
    assert said(deployed.parent / "origin", "rev-parse", branch) == said(deployed, "rev-parse", branch)
    assert f"- committed to the branch {branch}\n- data pushed to DVC's remote store\n" in shown

    assert judged.state.name == "Completed"
    assert what(judged) == "nothing to train, a review", "DVC's run cache brought back what nobody merged"
    assert r"| finetune\@guard | restored |" in runs.page(decided, "retrain")
    assert f"- committed to the branch {branch}\n" in runs.page(decided, "retrain")
    assert said(deployed, "branch", "--list", "retrain/*", "--format=%(refname:short)") == branch
    version = registry(deployed).get_model_version("threestage-guard", "2")
    assert (version.tags["threestage.by"], version.tags["threestage.state"]) == ("gates", "rejected")
    assert re.search(r"\w+ at least [\d.]+: failed", version.tags["threestage.why"])
