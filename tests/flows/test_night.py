"""Nights of small models: a stage fails, results wait for a merge, two at once, one is killed, Prefect is away."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.steps.utility import run_shell_script
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from projects import ROOT, environment, free_ports
from real_servers import Process, Runs, wait_for
from small_models import make_models

from flows.retrain import RETRAIN, retrain
from llm.errors import UserError
from tasks.registry.store import configure_tracking
from tasks.stages import dvc
from tasks.stages.lock import workspace
from tasks.stages.prefect import run_flow

pytestmark = pytest.mark.slow

PARAMS = "f1: 0.5\napplications: {classifier: {}, assistant: {}}\n"
SCRIPT = """
import os, time
stage = os.environ["DVC_STAGE"]
with open("../ran", "a") as file:
    file.write(stage + "\\n")
while os.path.exists("../hold " + stage):
    time.sleep(0.05)
"""
"""What each stage does at its end: it notes its name, and waits while a file holds it."""
CLASSIFIER = ["finetune@classifier", "evaluate@classifier"]
ASSISTANT = ["finetune@assistant", "evaluate@assistant"]
FOUNDATION = ["pretrain", "evaluate_foundation"]
IN_A_PROCESS = "from tasks.stages.prefect import run_flow; from flows.retrain import retrain; run_flow(retrain, {})"


def git(*arguments: str, folder: Path | str = ".") -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(message: str, folder: Path | str = ".") -> None:
    git("add", "--all", folder=folder)
    git("commit", "--quiet", "--message", message, folder=folder)


@pytest.fixture
def colleague(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str, ready_store: Path) -> Path:
    """A colleague's clone. The working folder is the training machine's, where nothing ran; each pushes to `origin`."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ada@localhost")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/project/mlflow.db")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(ready_store, "mlflow.db")
    make_models(Path())
    for name in ("train.py", "evaluate.py"):
        Path(name).write_text(Path(name).read_text() + SCRIPT)
    git("branch", "--quiet", "--move", "main")
    Path("params.yaml").write_text(PARAMS)
    Path(".gitignore").write_text(".threestage/\nmlflow.db*\nmlartifacts/\n")
    with Repo() as repo, repo.config.edit() as config:
        config["core"]["remote"] = "store"
        config["remote"]["store"] = {"url": str(tmp_path / "store")}
    commit("A project")
    git("clone", "--quiet", "--bare", ".", "../origin")
    git("remote", "add", "origin", "../origin")
    git("fetch", "--quiet", "origin")
    git("branch", "--quiet", "--set-upstream-to", "origin/main")
    git("clone", "--quiet", "origin", "colleague", folder=tmp_path)
    configure_tracking()
    return tmp_path / "colleague"


@pytest.fixture
def server(colleague: Path, tmp_path: Path) -> Iterator[Process]:
    """A standing Prefect server that the test may kill and start again."""
    (port,) = free_ports(1)
    api = f"http://127.0.0.1:{port}/api"
    variables = environment(PREFECT_HOME=str(tmp_path / "prefect"), PYTHONPATH=str(ROOT))
    command = f"uvicorn --factory tasks.stages.prefect_app:create_app --host 127.0.0.1 --port {port}"
    server = Process(command, tmp_path, variables, answers=f"{api}/health")
    server.start()
    try:
        server.wait_until_ready()
        EventsWorker.drain_all()  # Prefect's threads keep the server that they began with
        with temporary_settings({PREFECT_API_URL: api}):
            yield server
            EventsWorker.drain_all()
    finally:
        server.kill()


@dataclass
class Night:
    """How a night ended, and its table."""

    state: str
    message: str
    results: dict[str, str]
    reasons: dict[str, str]
    tree: dict[str, str]


def runs_of_nights() -> list[FlowRun]:
    """The flow runs of this folder's nights, oldest first."""
    here = FlowRunFilter(tags=FlowRunFilterTags(all_=[workspace()]), name=FlowRunFilterName(like_=RETRAIN))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=here, sort=FlowRunSort.START_TIME_ASC)


def ended_night(run: FlowRun) -> Night:
    runs = Runs(PREFECT_API_URL.value())
    rows = json.loads(runs.page(run.id, RETRAIN))
    return Night(
        state=run.state.name,
        message=run.state.message,
        results={row["stage"]: row["result"] for row in rows},
        reasons={row["stage"]: row["reason"] for row in rows},
        tree=runs.final_tree(run.id),
    )


def night(**parameters: object) -> Night:
    """One night in this process, after which no challenger is compared."""
    with suppress(UserError):
        run_flow(retrain, {"decide": "nobody", "push_to": "origin", **parameters})
    return ended_night(runs_of_nights()[-1])


def begin_night(**parameters: object) -> subprocess.Popen[bytes]:
    """One night in a process of its own."""
    variables = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()}
    command = [sys.executable, "-P", "-c", IN_A_PROCESS.format({"decide": "nobody", **parameters})]
    return subprocess.Popen(command, env=variables)


def ran() -> list[str]:
    """The stages that ran since the last call, sorted."""
    path = Path("../ran")
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(names)


def versions() -> dict[str, list[str]]:
    """The versions of each registered model."""
    numbers: dict[str, list[str]] = {}
    for version in MlflowClient().search_model_versions():
        numbers.setdefault(version.name.removeprefix("threestage-"), []).append(str(version.version))
    return numbers


def branches(folder: Path | str = ".") -> list[str]:
    return git("branch", "--list", "retrain/*", "--format=%(refname:short)", folder=folder).splitlines()


def changed_files() -> str:
    return git("status", "--short", "--untracked-files=no")


def bring_merged_code() -> None:
    """The pull step of the deployment `daily`."""
    _, pull = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]["pull"]
    (step,) = pull.values()
    asyncio.run(run_shell_script(**step))


def test_night_shares_what_did_not_fail_and_the_next_the_rest_which_comes_back_as_merged_code(colleague: Path) -> None:
    source = Path("made/assistant").rename("../away")
    before = changed_files()
    end = night()
    assert end.state == "Failed"
    done = dict.fromkeys(FOUNDATION + CLASSIFIER, "done")
    assert end.results == done | {"finetune@assistant": "failed", "evaluate@assistant": "skipped"}
    assert "finetune@assistant" in end.reasons["evaluate@assistant"]
    assert "finetune@assistant" in end.message
    assert "evaluate" not in end.message, "what is skipped is no failure of its own"
    assert versions() == {"foundation": ["1"], "classifier": ["1"]}
    assert ran() == sorted(FOUNDATION + CLASSIFIER)
    assert (changed_files(), Path("dvc.lock").exists()) == (before, False), "as git has them"
    (first,) = branches()
    assert branches("../origin") == [first]
    assert git("log", "-1", "--format=%an|%s", first) == f"Threestage|{first.replace('/', ' ')}"
    message = git("log", "-1", "--format=%b", first)
    assert {"pretrain: it never ran", "threestage-classifier version 1"} <= {*message.splitlines()}
    assert "assistant" not in message
    made = [f"reports/evaluation/{model}/metrics.json" for model in ("classifier", "foundation")]
    assert git("diff", "--name-only", "HEAD", first).splitlines() == ["dvc.lock", *made]

    source.rename("made/assistant")
    end = night()
    assert (end.state, set(end.results.values())) == ("Completed", {"done"})
    assert ran() == sorted(ASSISTANT), "DVC's run cache has the others"
    assert versions() == {"foundation": ["1"], "classifier": ["1"], "assistant": ["1"]}
    second = f"{first}-2"
    assert branches() == branches("../origin") == [first, second]
    assert (changed_files(), list(Path("reports").rglob("metrics.json"))) == ("", [])

    git("fetch", "--quiet", folder=colleague)
    git("merge", "--quiet", f"origin/{second}", folder=colleague)
    (colleague / "params.yaml").write_text(PARAMS + "notes: merged\n")
    commit("Notes", colleague)
    git("push", "--quiet", folder=colleague)
    with Repo(str(colleague)) as repo:
        repo.pull()
    weights = "models/assistant/model.safetensors"
    assert (colleague / weights).read_bytes() == Path(weights).read_bytes()
    Path("params.yaml").write_text(PARAMS + "notes: mine\n")
    with pytest.raises(RuntimeError, match=r"local changes.*\n\tparams.yaml"):
        bring_merged_code()
    git("checkout", "--quiet", "params.yaml")
    Path("dvc.lock").write_text("schema: '2")  # as a kill may leave it, with git's results of other stages
    shutil.copytree(colleague / "reports", "reports", dirs_exist_ok=True)
    Path("reports/evaluation/classifier/metrics.json").write_text("{}")
    bring_merged_code()
    assert "merged" in Path("params.yaml").read_text()
    assert (changed_files(), dvc.stale()) == ("", {})
    end = night()
    assert (end.state, end.results, ran(), branches()) == ("Completed", {}, [], [first, second])


def test_second_night_waits_for_the_first_and_goes_on_when_that_is_killed(colleague: Path) -> None:
    def have_both_begun() -> bool:
        return len(runs_of_nights()) == 2

    hold = Path("../hold pretrain")
    hold.touch()
    with begin_night(stages=["evaluate_foundation"]) as killed:
        wait_for(Path("../ran").exists)
        with begin_night(stages=["evaluate_foundation"]) as second:
            try:
                wait_for(have_both_begun)
                assert {run.state.name for run in runs_of_nights()} == {"Running"}, "no night ends the other's runs"
                assert ran() == ["pretrain"]
                killed.kill()
                hold.unlink()
                assert second.wait() == 0
            finally:
                killed.kill()
                second.kill()
    assert ran() == sorted(FOUNDATION)
    assert (versions(), len(branches())) == ({"foundation": ["1"]}, 1)
    first, last = runs_of_nights()
    assert Runs(PREFECT_API_URL.value()).final_tree(first.id) == {"retrain": "Crashed", "stages": "Crashed"}
    assert set(ended_night(last).tree.values()) == {"Completed"}


def test_night_goes_on_while_prefect_is_away(colleague: Path, server: Process) -> None:
    hold = Path("../hold finetune@assistant")
    hold.touch()

    def has_run(stage: str) -> bool:
        path = Path("../ran")
        return path.exists() and stage in path.read_text().split()

    def restart() -> None:
        wait_for(lambda: has_run("finetune@assistant"))
        server.kill()
        hold.unlink()
        wait_for(lambda: has_run("evaluate@assistant"))
        server.start()

    with ThreadPoolExecutor() as threads:
        outage = threads.submit(restart)
        end = night(stages=["evaluate@assistant"])
        outage.result()
    assert (end.state, set(end.results.values())) == ("Completed", {"done"})
    assert set(end.tree.values()) == {"Completed"}
    assert {"stages", "register assistant"} <= end.tree.keys()
    assert versions() == {"assistant": ["1"]}
