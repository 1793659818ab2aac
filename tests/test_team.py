"""The project as a team has it: the services of compose.yaml, one night, two clones, and what each person may do."""

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from projects import change_params, commit_all, environment, git
from real_servers import Runs, wait_for
from team import Team, block, blocks, read_env, servers, why_no_postgres

from tasks.registry.store import namespace
from tasks.registry.versions import own_models, versions

pytestmark = pytest.mark.slow
needs_postgres = pytest.mark.skipif(bool(why_no_postgres()), reason=why_no_postgres() or "there is one")

MODELS = ("foundation", "classifier", "assistant", "guard")
NAMES = {f"threestage-{model}" for model in MODELS}
UNFINISHED = "tags.`threestage.registering` != 'done'"
SOMEONE = dict.fromkeys(
    ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"], "test@localhost"
)
STAGE = "finetune@assistant"
LONGER = {"train": {"steps": 40, "checkpoint_every": 10}}
EVIL = {"Origin": "https://evil.example"}


@dataclass
class Night:
    """A run of `daily` during which Prefect, then MLflow was killed and came back."""

    state: str
    log: str
    tree: dict[str, str]
    branch: str


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="module")
def repository(team: Team, project: Path) -> Path:
    """The team's repository: everything is made and shared, then a parameter of the assistant's training changed."""
    folder = shutil.copytree(project, team.folder / "repository", symlinks=True)
    commit_all(folder, "The models")
    done = team.run(f"set -e\n{block('The DVC remote')}\ndvc push", team.outside() | SOMEONE, folder)
    assert done.returncode == 0, done.stderr
    change_params(folder, {"applications": {"assistant": LONGER}})
    commit_all(folder, "A longer training")
    return folder


@pytest.fixture(scope="module")
def night(team: Team, repository: Path) -> Night:
    """One night of the worker, in a clone that it makes itself."""
    team.start("worker", THREESTAGE_REPOSITORY=str(repository), MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    wait_for((team.project / "dvc.lock").exists)
    done = team.run("dvc pull", team.person("training"), team.project)
    assert done.returncode == 0, done.stderr
    team.wait_for("worker")
    runs = Runs(team.prefect_url, team.person("training")["PREFECT_API_AUTH_STRING"])
    daily = runs.client.read_deployment_by_name("retrain/daily")
    runs.client.pause_deployment(daily.id)
    flow_run = runs.client.create_flow_run_from_deployment(
        daily.id, parameters={"decide": "nobody", "push_to": "origin"}
    ).id
    training = team.project / f".threestage/stages/{STAGE}"
    retrain = team.project / ".threestage/retrain"

    def log() -> str:
        path = retrain / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def checkpoints() -> list[Path]:
        return list(training.glob("*/step-*.safetensors"))

    def registration_begins() -> bool:
        return "/registered-models/create" in team.log("mlflow")

    def registration_is_retried() -> bool:
        return "Retry 1/" in log()

    def wait(condition: Callable[[], object]) -> None:
        def is_over() -> bool:
            return bool(condition()) or runs.client.read_flow_run(flow_run).state.is_final()

        wait_for(is_over, every=0.1)
        assert condition(), log()

    wait(checkpoints)
    restart(team, "prefect", training / "lock")
    wait(registration_begins)
    team.kill("mlflow")
    wait(registration_is_retried)
    restart(team, "mlflow", retrain / "lock")
    state = runs.ended(flow_run)
    team.kill("worker")
    day = runs.client.read_flow_run(flow_run).name.partition(":")[0].removeprefix("retrain ")
    return Night(state=state, log=log(), tree=runs.tree(flow_run), branch=f"retrain/{day}")


def restart(team: Team, service: str, lock: Path) -> None:
    """Kill a service and start it again; meanwhile the process that holds a lock waits, however long that takes."""
    process = psutil.Process(int(lock.read_text()))
    process.suspend()
    if service in team.running:
        team.kill(service)
    team.up(service)
    process.resume()


@pytest.fixture(scope="module")
def clone(repository: Path, night: Night, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after the night's branch was merged, as the reviewer and the engineer have one."""
    git(repository, "merge --quiet", night.branch)
    folder = tmp_path_factory.mktemp("reviewer") / "project"
    git(repository, "clone --quiet", str(repository), str(folder))
    return folder


def aliases(team: Team) -> dict[str, dict[str, str]]:
    """The aliases of the team's models, as the app would read them."""
    with team.client("app") as client:
        return {model: dict(client.get_registered_model(f"threestage-{model}").aliases) for model in MODELS}


def flow_runs(team: Team) -> list[dict[str, Any]]:
    """All flow runs in Prefect, as its API returns them."""
    auth = tuple(team.person("training")["PREFECT_API_AUTH_STRING"].split(":"))
    answer = httpx.post(f"{team.prefect_url}/flow_runs/filter", json={"sort": "ID_DESC"}, auth=auth, timeout=600)
    return answer.raise_for_status().json()


def records(team: Team) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The aliases in MLflow, and the runs in Prefect."""
    return aliases(team), [run["id"] for run in flow_runs(team)]


@needs_postgres
def test_servers_refuse_strangers_and_run_no_jobs(team: Team) -> None:
    experiments = f"{team.mlflow_url}/api/2.0/mlflow/experiments/search"
    assert httpx.get(experiments, params={"max_results": 1}).status_code == 401
    assert httpx.post(experiments, headers=EVIL).text == "Cross-origin request blocked"
    assert httpx.get(team.mlflow_url, headers={"Host": "evil.example"}).status_code == 403
    runs = f"{team.prefect_url}/flow_runs/filter"
    assert httpx.post(runs).status_code == 401
    allowed = httpx.options(runs, headers=EVIL | {"Access-Control-Request-Method": "POST"}).headers
    assert "access-control-allow-origin" not in allowed
    assert len(team.processes("mlflow")) == 2
    assert len(team.processes("prefect")) == 1


@needs_postgres
def test_night_survives_restarts_of_prefect_and_mlflow_and_registers_each_model_once(team: Team, night: Night) -> None:
    assert night.state == "Completed", night.log
    assert set(night.tree.values()) == {"Completed"}, night.tree
    assert {"stages", "register assistant"} <= night.tree.keys()
    assert "pretrain" not in night.tree
    assert "Retry 1/4 will start" in night.log
    with team.client() as client:
        models = [model.name for model in client.search_registered_models()]
        assert {model: len(versions(client, model)) for model in models} == dict.fromkeys(NAMES, 1)
        experiment = client.get_experiment_by_name("threestage").experiment_id
        assert client.search_runs([experiment], UNFINISHED, run_view_type=ViewType.ACTIVE_ONLY) == []
    assert aliases(team) == {model: {"challenger": "1"} for model in MODELS}


@needs_postgres
def test_wrong_password_of_prefect_is_an_error_on_one_line_with_the_way_out(team: Team, clone: Path) -> None:
    env = team.person("training") | {"PREFECT_API_AUTH_STRING": "team:wrong"}
    done = team.run("threestage register", env, clone)
    assert done.returncode == 1
    (error,) = done.stderr.splitlines()
    reason = "it refuses (401); PREFECT_API_AUTH_STRING must be its USER:PASSWORD"
    assert error == f"error: PREFECT_API_URL={team.prefect_url}: {reason}"


@needs_postgres
def test_clone_that_pulls_the_results_of_a_night_has_nothing_to_do(team: Team, repository: Path, clone: Path) -> None:
    output: dict[str, str] = {}
    for line in block("A week").splitlines():
        command = line.partition("  #")[0].strip()
        done = team.run(command, team.person("reviewer"), clone)
        assert done.returncode == 0, done.stdout + done.stderr
        output[command] = done.stdout + done.stderr
    assert "Data and pipelines are up to date." in output["dvc repro"]
    assert "Everything is up to date" in output["threestage run"]
    assert output["threestage run"].count("version 1, challenger") == len(MODELS)
    for model in MODELS:
        weights = f"models/{model}/model.safetensors"
        made_before = (clone / weights).read_bytes() == (repository / weights).read_bytes()
        assert made_before == (model != "assistant")


@needs_postgres
def test_decision_of_one_person_is_in_the_history_of_all(team: Team, clone: Path) -> None:
    reviewer = team.person("reviewer")
    for command in ("classifier", "approve classifier --despite-gates --reason 'as the page says' --by 'the reviewer'"):
        done = team.run(f"threestage review {command}", reviewer, clone)
        assert done.returncode == 0, done.stdout + done.stderr
    history = team.run("threestage review history classifier", team.person("training"), team.project)
    approval = re.compile(r"^version 1 approved (despite .*)?by the reviewer, .*: as the page says$", re.MULTILINE)
    assert approval.search(history.stdout)
    assert history.stdout.endswith("now: champion 1\n")
    assert aliases(team)["classifier"] == {"champion": "1"}


@needs_postgres
def test_laptop_registers_models_of_its_own_and_may_not_change_the_teams(
    team: Team, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = aliases(team)
    register = "from tasks.registry.register import register_model; register_model('classifier')"
    done = team.run(f'python -c "{register}"', team.person("engineer"), clone)
    assert done.returncode == 0, done.stderr
    own_file = team.person("engineer", THREESTAGE_NAMESPACE="threestage")
    refused = team.run("threestage review reject assistant --reason no", own_file, clone)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "403" in refused.stderr
    assert aliases(team) == before
    with team.client() as client:
        own = f"{namespace()}-classifier"
        assert own.startswith("threestage.")
        assert {model.name for model in client.search_registered_models()} == NAMES | {own}
        assert [len(versions(client, name)) for name in (own, "threestage-classifier")] == [1, 1]
        monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage")
        assert {model for model, _ in own_models(client)} == set(MODELS)


@needs_postgres
@pytest.mark.usefixtures("night")
def test_servers_reconnect_after_a_restart_of_postgresql(team: Team) -> None:
    before = records(team)
    team.postgres.control("restart", "--log=log", "--mode=immediate")
    assert records(team) == before


@needs_postgres
@pytest.mark.usefixtures("night")
def test_backup_restores_runs_versions_and_decisions_and_the_app_serves_the_champion(team: Team) -> None:
    before = records(team)
    back_up, stop, *update_code, upgrade_mlflow, upgrade_prefect, start = block("Upgrade").splitlines()
    assert update_code == ["git pull", "docker compose build"]
    assert back_up == block("Backup")
    team.compose(back_up)
    (backup,) = (team.folder / "backups").iterdir()
    with team.client() as client:
        client.delete_registered_model("threestage-classifier")
    stop_again, restore, start_again = block("Restore").splitlines()
    assert (stop, start) == (stop_again, start_again)
    team.compose(stop)
    shutil.rmtree(team.folder / "artifacts")
    (team.folder / "artifacts").mkdir()
    team.postgres.run("dropdb", "prefect")
    for line in (restore.replace("DATE", backup.name), upgrade_mlflow, upgrade_prefect, start):
        team.compose(line)
    assert records(team) == before
    team.up("app")
    key = {"Authorization": f"Bearer {read_env(team.folder / 'secrets/app.env')['THREESTAGE_API_KEYS']}"}
    wait_for(lambda: httpx.get(f"{team.app_url}/readyz").is_success)
    emails = [{"subject": "Lunch", "body": "At noon?"}]
    mail = {"model": "classifier", "emails": emails}
    verdict = httpx.post(f"{team.app_url}/classify", json=mail, headers=key, timeout=600)
    assert verdict.is_success, verdict.text
    assert verdict.json()["verdicts"][0]["leaning"] in ("ham", "spam")


def test_backup_of_an_sqlite_registry_restores_it_and_its_artifacts(mlflow_store: Path, tmp_path: Path) -> None:
    client = MlflowClient(f"sqlite:///{mlflow_store}")
    model = client.create_registered_model("threestage-classifier").name
    client.create_model_version(model, str(tmp_path / "mlartifacts/weights"), run_id=None)
    weights = tmp_path / "mlartifacts/weights"
    weights.parent.mkdir()
    weights.write_text("weights")

    def run(code: str) -> None:
        subprocess.run(["sh", "-c", f"set -e\n{code}"], cwd=tmp_path, env=environment(), check=True)

    backup, restore = blocks("One person's registry")
    with sqlite3.connect(mlflow_store) as writer:
        writer.execute("UPDATE registered_models SET description = 'not committed'")
        run(backup)
        writer.rollback()
    client.delete_registered_model(model)
    weights.unlink()
    run(restore)
    again = MlflowClient(f"sqlite:///{shutil.move(mlflow_store, tmp_path / 'restored.db')}")
    assert [version.version for version in again.search_model_versions(f"name='{model}'")] == [1]
    assert again.get_registered_model(model).description != "not committed"
    assert weights.read_text() == "weights"
