"""Nights of small models: a part fails, results wait for a merge, merged code comes, a change is in the way, another
dvc has the lock, and the Prefect server is killed and comes back."""

import logging
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running
from projects import environment, free_ports
from real_servers import Process, Runs
from small_models import make_models

from flows.deploy import bring_merged_code, update
from flows.retrain import retrain
from llm.errors import UserError
from tasks.registry.parent_run import PARENT_OF
from tasks.stages import dvc_lock, dvc_process, graph
from tasks.stages.lock import workspace
from tasks.stages.server import run_as_child

pytestmark = pytest.mark.slow

PARAMS = "f1: 0.5\napplications: {classifier: {}, assistant: {}}\n"
STATUS = ("status", "--short", "--untracked-files=no")
UPSTREAM = "origin/main"
IGNORED = ".threestage/\nmlflow.db*\nmlartifacts/\n"
PARAMETERS = {"decide": "nobody", "push_to": "origin"}


def git(*arguments: str, folder: Path | str = ".") -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(message: str, folder: Path | str = ".") -> None:
    git("add", "--all", folder=folder)
    git("commit", "--quiet", "--message", message, folder=folder)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Process]:
    """A standing Prefect server that a test may kill and start again."""
    (port,) = free_ports(1)
    api = f"http://127.0.0.1:{port}/api"
    variables = environment(PREFECT_HOME=str(tmp_path / "prefect"), PREFECT_SERVER_ANALYTICS_ENABLED="false")
    server = Process(
        f"prefect server start --host 127.0.0.1 --port {port}", tmp_path, variables, answers=f"{api}/health"
    )
    server.start()
    try:
        server.wait_until_ready()
        EventsWorker.drain_all()  # Prefect's threads keep the server that they began with
        with temporary_settings({PREFECT_API_URL: api}):
            yield server
            EventsWorker.drain_all()
    finally:
        server.kill()


@pytest.fixture
def colleague(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Process) -> Path:
    """A colleague's clone. The working folder is the training machine's, where nothing ran; each pushes to `origin`."""
    someone = {f"GIT_{who}_{what}": "ada@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for name, value in (someone | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/project/mlflow.db"}).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    make_models(Path())
    git("branch", "--quiet", "--move", "main")
    Path("params.yaml").write_text(PARAMS)
    Path(".gitignore").write_text(IGNORED)
    with Repo() as repo, repo.config.edit() as config:
        config["core"]["remote"] = "store"
        config["remote"]["store"] = {"url": str(tmp_path / "store")}
    commit("A project")
    git("clone", "--quiet", "--bare", ".", "../origin")
    git("remote", "add", "origin", "../origin")
    git("fetch", "--quiet", "origin")
    git("branch", "--quiet", "--set-upstream-to", UPSTREAM)
    git("clone", "--quiet", "origin", "colleague", folder=tmp_path)
    return tmp_path / "colleague"


def last_run() -> FlowRun:
    """The run of the last night."""
    here = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace()]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=here, sort=FlowRunSort.START_TIME_DESC)
    return next(run for run in runs if run.name.startswith("retrain "))


def night(**parameters: float) -> tuple[str, str]:
    """Run one night. Returns the name of the run without its date, and the message of its final state."""
    with suppress(UserError):
        run_as_child(retrain, PARAMETERS | parameters)
    run = last_run()
    return run.name.partition(": ")[2], f"{run.state.name}: {run.state.message}"


@contextmanager
def another_dvc() -> Iterator[list[str]]:
    """Hold DVC's lock until a night waits for it. Yields what the night says then."""
    messages = []

    class Release(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not messages:
                repo.lock.unlock()
            messages.append(record.getMessage())

    logger = dvc_lock.logger
    logger.addHandler(handler := Release())
    logger.setLevel("INFO")
    with Repo() as repo:
        repo.lock.lock()
        yield messages
    logger.setLevel("NOTSET")
    logger.removeHandler(handler)


def parents() -> list[str]:
    """The states of the nights' runs in MLflow, oldest first."""
    experiment = MlflowClient().get_experiment_by_name("threestage").experiment_id
    runs = MlflowClient().search_runs([experiment], order_by=["attributes.start_time"])
    return [run.info.status for run in runs if run.info.run_name.startswith("retrain ")]


def branches(folder: Path | str = ".") -> list[str]:
    return git("branch", "--list", "retrain/*", "--format=%(refname:short)", folder=folder).splitlines()


def versions() -> dict[str, str]:
    """The newest version of each model."""
    names = ("foundation", "classifier", "assistant")
    newest: dict[str, str] = {}
    for name in names:
        versions = MlflowClient().search_model_versions(f"name='threestage-{name}'")
        if versions:
            newest[name] = str(versions[0].version)
    return newest


def in_outage(server: Process, reproduce: Callable[..., None]) -> Callable[..., None]:
    """Run the assistant's stages without a server; it is started when the last one has ended."""

    def run_stage(stage: str, *arguments: object) -> None:
        if stage == "finetune@assistant":
            server.kill()
        reproduce(stage, *arguments)
        if stage == "evaluate@assistant":
            server.start()

    return run_stage


def test_nights_survive_failures_and_outages_and_take_merged_code(
    colleague: Path, server: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, end = night(hours=1e-9)
    assert (name, versions()) == ("0 of 6 stages; 1 failed", {})
    assert end.count("the run took longer than it may (`hours`)") == 1
    source = Path("made/assistant").rename("../away")
    before = git(*STATUS)
    with another_dvc() as messages:
        name, end = night()
    assert messages[0].startswith("waiting for another dvc: Unable to acquire lock.")
    assert name == "4 of 6 stages; 1 failed"
    assert end.startswith("Failed: ")
    assert "finetune@assistant failed: " in end
    assert "evaluate" not in end, "what is skipped is no failure of its own"
    assert versions() == {"foundation": "1", "classifier": "1"}
    assert git(*STATUS) == before
    assert not Path("dvc.lock").exists()
    (first,) = branches()
    assert branches("../origin") == [first]
    assert git("log", "-1", "--format=%an|%s", first) == f"Threestage|{first.replace('/', ' ')}"
    message = git("log", "-1", "--format=%b", first)
    assert {"pretrain: it never ran", "threestage-classifier version 1"} <= {*message.splitlines()}
    assert "assistant" not in message
    made = [f"reports/evaluation/{model}/metrics.json" for model in ("classifier", "foundation")]
    assert git("diff", "--name-only", "HEAD", first).splitlines() == ["dvc.lock", *made]

    source.rename("made/assistant")
    with monkeypatch.context() as patch:
        patch.setattr(dvc_process, "reproduce", in_outage(server, dvc_process.reproduce))
        name, end = night()
    assert name == "2 of 6 stages", "DVC's run cache brings back what the night before made"
    states = Runs(PREFECT_API_URL.value()).final_tree(last_run().id)
    assert set(states.values()) == {"Completed"}
    assert {"finetune@assistant", "evaluate@assistant", "register", "share"} <= states.keys()
    assert end.startswith("Completed: ")
    assert " wait for a decision: run `threestage review`" in end
    assert versions() == {"foundation": "1", "classifier": "1", "assistant": "1"}
    second = f"{first}-2"
    assert branches() == branches("../origin") == [first, second]
    assert git(*STATUS) == ""
    assert not list(Path("reports").rglob("metrics.json"))
    assert night()[0] == "nothing new"
    assert branches() == [first, second]

    git("fetch", "--quiet", folder=colleague)
    git("merge", "--quiet", f"origin/{second}", folder=colleague)
    (colleague / "notes.md").write_text("Merged.")
    commit("Notes", colleague)
    git("push", "--quiet", folder=colleague)
    Path("dvc.lock").write_text("schema: '2")  # as a kill may leave it
    assert update() == f"commit {git('rev-parse', '--short', 'HEAD', folder=colleague)} of {UPSTREAM}"
    assert Path("notes.md").read_text() == "Merged."
    assert graph.plan().why == {}, "a night has nothing to do"

    (colleague / "params.yaml").write_text(PARAMS.replace("0.5", "0.6"))
    commit("Better", colleague)
    git("push", "--quiet", folder=colleague)
    Path("params.yaml").write_text(PARAMS.replace("0.5", "0.7"))
    assert "the code is not what was merged: git pull: error: " in bring_merged_code()
    name, end = night()
    assert name == "3 of 6 stages; 1 failed"
    assert "the code is not what was merged: git pull: error: " in end
    assert night()[0] == "nothing new"
    assert parents() == ["FAILED", "FINISHED", "FAILED"], "nights in which nothing was made have none"

    with get_client(sync_client=True) as client:  # a night that is killed
        killed = client.create_flow_run(retrain, name="killed", state=Running())
        child = client.create_task_run(task(update), killed.id, "update-0", name="child", state=Running())
        experiment = MlflowClient().get_experiment_by_name("threestage").experiment_id
        parent = MlflowClient().create_run(experiment, run_name="retrain killed", tags={PARENT_OF: workspace()})
        client.set_flow_run_state(killed.id, Crashed(message="Flow run process exited with status code -9"))
        for hook in retrain.on_crashed_hooks:
            hook(flow=retrain, flow_run=killed, state=client.read_flow_run(killed.id).state)  # as a worker does
        assert client.read_task_run(child.id).state.name == "Crashed"
    assert MlflowClient().get_run(parent.info.run_id).info.status == "KILLED"
