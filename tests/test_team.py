"""The project as a team has it: servers on PostgreSQL and S3, two clones, and what each of the five may do."""

import json
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from mlflow.entities import ViewType
from projects import git
from team import Team, block, blocks, servers, until, why_no_postgres

from tasks.registry.tracking import namespace
from tasks.registry.versions import own_models, versions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_no_postgres()), reason=why_no_postgres() or "there is one"),
]

MODELS = ("foundation", "classifier", "assistant")
NAMES = {f"threestage-{model}" for model in MODELS}
UNFINISHED = "tags.`threestage.registering` != 'done'"
SOMEONE = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture(scope="module")
def team(tmp_path_factory) -> Iterator[Team]:
    with servers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture(scope="module")
def training(team: Team, project: Path, tmp_path_factory) -> Path:
    """The training machine's clone: all is made and committed, and the team's remote is named."""
    folder = shutil.copytree(project, tmp_path_factory.mktemp("training") / "project", symlinks=True)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "The models")
    done = team.run(f"set -e\n{block('The DVC remote')}", team.env("", **SOMEONE), folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def registered(team: Team, training: Path) -> str:
    """What the training machine said as it registered: in the middle the tracking server was killed and came back."""
    env = team.of_the_team("training", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    log = training.parent / "register.log"

    def said() -> str:
        return log.read_text(errors="replace")

    def says(word: str, text: Callable[[], str]) -> None:
        until(lambda: word in text() or registering.poll() is not None, said)
        assert registering.poll() is None, said()

    with log.open("w") as file:
        command = [sys.executable, "-m", "flows.register"]
        registering = subprocess.Popen(command, cwd=training, env=env, stdout=file, stderr=subprocess.STDOUT)
    try:
        says("/registered-models/create", lambda: team.log("mlflow"))
        team.kill("mlflow")
        says("Retry 1/", said)
        registering.send_signal(signal.SIGSTOP)  # so that its patience does not depend on how fast a server starts
        team.start_mlflow()
        pushed = team.run("dvc push", env, training)
        assert pushed.returncode == 0, pushed.stderr
        team.wait_for_mlflow()
        registering.send_signal(signal.SIGCONT)
        assert registering.wait() == 0, said()
    finally:
        registering.kill()
        registering.wait()
    return said()


@pytest.fixture(scope="module")
def clone(team: Team, training: Path, registered: str, tmp_path_factory) -> Path:
    """A fresh clone, as the reviewer and the engineer have one."""
    folder = tmp_path_factory.mktemp("reviewer") / "project"
    git(training, "clone", "--quiet", str(training), str(folder))
    return folder


def aliases(team: Team) -> dict[str, dict[str, str]]:
    """The aliases of the team's models, as the app would read them."""
    with team.client("app") as client:
        return {model: dict(client.get_registered_model(f"threestage-{model}").aliases) for model in MODELS}


def flow_runs(team: Team) -> list[dict]:
    """All that ran in Prefect."""
    auth = tuple(team.servers_env["PREFECT_SERVER_API_AUTH_STRING"].split(":"))
    answer = httpx.post(f"{team.prefect_url}/flow_runs/filter", json={"sort": "ID_DESC"}, auth=auth, timeout=600)
    return answer.raise_for_status().json()


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "one of MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD is wrong"),
        ("PREFECT_API_AUTH_STRING", "PREFECT_API_AUTH_STRING must be its USER:PASSWORD"),
    ],
)
def test_a_wrong_password_is_said_in_a_line_with_the_way_out(team, training, variable, reason):
    env = team.of_the_team("training") | {variable: "team:wrong"}
    done = team.run("python -m flows.register", env, training)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    server = {"MLFLOW": f"MLFLOW_TRACKING_URI={team.mlflow_url}", "PREFECT": f"PREFECT_API_URL={team.prefect_url}"}
    assert said == f"error: {server[variable.partition('_')[0]]}: it refuses (401); {reason}"


def test_a_registration_waits_for_a_server_that_went_away_and_doubles_nothing(team, registered):
    assert "Retry 1/4 will start" in registered
    with team.client() as client:
        assert {model.name: len(versions(client, model.name)) for model in client.search_registered_models()} == (
            dict.fromkeys(NAMES, 1)
        )
        experiment = client.get_experiment_by_name("threestage").experiment_id
        assert client.search_runs([experiment], UNFINISHED, run_view_type=ViewType.ACTIVE_ONLY) == []
    assert aliases(team) == {model: {"challenger": "1"} for model in MODELS}


def test_a_clone_pulls_what_another_pushed_and_has_nothing_to_do(team, training, clone):
    said = {}
    for line in block("A week").splitlines():
        command = line.partition("  #")[0].strip()
        done = team.run(command, team.of_the_team("reviewer"), clone)
        assert done.returncode == 0, done.stdout + done.stderr
        said[command] = done.stdout + done.stderr
    assert "Data and pipelines are up to date." in said["dvc repro"]
    assert "Everything is up to date" in said["python -m flows"]
    assert said["python -m flows"].count("version 1, challenger") == len(MODELS)
    assert (clone / "dvc.lock").read_bytes() == (training / "dvc.lock").read_bytes()
    for model in MODELS:
        weights = f"models/{model}/model.safetensors"
        assert (clone / weights).read_bytes() == (training / weights).read_bytes()


def test_what_one_decides_all_see(team, training, clone):
    reviewer = team.of_the_team("reviewer")
    for command in ("classifier", "approve classifier --despite-gates --reason 'as the page says' --by 'the reviewer'"):
        done = team.run(f"python -m flows.review {command}", reviewer, clone)
        assert done.returncode == 0, done.stdout + done.stderr
    seen = team.run("python -m flows.review history classifier", team.of_the_team("training"), training)
    assert re.search(
        r"^version 1 approved (despite .*)?by the reviewer, .*: as the page says$", seen.stdout, re.MULTILINE
    )
    assert seen.stdout.endswith("now: champion 1\n")
    assert aliases(team)["classifier"] == {"champion": "1"}


def test_a_laptop_touches_none_of_the_teams_models(team, clone, monkeypatch):
    before = aliases(team)
    register = "from tasks.registry.register import register_model; register_model('classifier')"
    done = team.run(f'python -c "{register}"', team.env("engineer"), clone)
    assert done.returncode == 0, done.stderr
    refused = team.run("python -m flows.review reject assistant --reason no", team.of_the_team("engineer"), clone)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "it refuses engineer this (403)" in refused.stderr
    assert aliases(team) == before
    with team.client() as client:
        own = f"{namespace()}-classifier"
        assert own.startswith("threestage.")
        assert {model.name for model in client.search_registered_models()} == NAMES | {own}
        assert [len(versions(client, name)) for name in (own, "threestage-classifier")] == [1, 1]
        monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage")
        assert {model for model, _ in own_models(client)} == set(MODELS)


def test_tidying_finds_no_version_that_somebody_needs(team, clone):
    done = team.run("python -m flows.tidy --versions 0 --days 0 --verbose", team.of_the_team("reviewer"), clone)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^0 versions, 0.0 MB", done.stdout, re.MULTILINE)
    names = {run["name"].partition(":")[0] for run in flow_runs(team) if run["tags"] == [f"{platform.node()}:{clone}"]}
    assert names == {"review", "tidy"}


def test_servers_find_their_database_again(team, registered):
    def seen() -> tuple[dict[str, dict[str, str]], list[str]]:
        return aliases(team), [run["id"] for run in flow_runs(team)]

    before = seen()
    team.as_postgres("pg_ctl", "--pgdata=data", "--log=log", "--mode=immediate", "--wait", "--silent", "restart")
    assert seen() == before


def test_a_backup_brings_everything_back(team, registered):
    before = aliases(team)
    env = team.env("") | team.servers_env
    save, restore = blocks("Backups")
    assert team.run(save, env).returncode == 0
    for name in ("mlflow", "prefect"):
        team.kill(name)
    for name in ("mlflow", "mlflow_auth", "prefect"):
        team.as_postgres("dropdb", "--force", name)
    for command in block("PostgreSQL").splitlines()[1:]:
        team.as_postgres(*command.split())
    restored = team.run(restore, env)
    assert (restored.returncode, restored.stderr) == (0, "")
    team.start_mlflow()
    team.wait_for_mlflow()
    assert aliases(team) == before
    with team.client("reviewer") as client:
        run = versions(client, "threestage-foundation")[0].run_id
        card = Path(client.download_artifacts(run, "card/card.md", team.folder)).read_text()
        assert json.loads(Path(client.download_artifacts(run, "lineage/stages.json", team.folder)).read_text())
    assert card.startswith("# ")
