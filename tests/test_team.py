"""A team's servers: docs/team.md's own commands, with the services of compose.yaml as processes of this machine."""

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import httpx
import pytest
from dotenv import dotenv_values
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect.client.orchestration import SyncPrefectClient
from projects import ROOT, environment, free_ports

PAGE = (ROOT / "docs/team.md").read_text()
PORTS = (5432, 5000, 4200, 8000)
SETTINGS = ("MLFLOW_", "PREFECT_", "AWS_", "PG", "THREESTAGE_")
"""Beginnings of variables of this process that no service and no person of the team has."""
PASSWORD = "a-long-password"
EVIL = {"Origin": "https://evil.example"}
MODEL = "threestage-classifier"


def postgres_programs() -> str:
    """The folder of PostgreSQL's programs; Debian keeps its servers' off the path."""
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    initdb = shutil.which("initdb", path=os.pathsep.join([*debian, os.environ["PATH"]]))
    return str(Path(initdb).resolve().parent) if initdb else ""


IS_ROOT = os.getuid() == 0
HAS_POSTGRES = postgres_programs() and (not IS_ROOT or "postgres" in {user.pw_name for user in pwd.getpwall()})
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="PostgreSQL is missing: install the package postgresql"),
]


def blocks(heading: str) -> list[str]:
    """The shell code below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@contextmanager
def postgres(port: int) -> Iterator[dict[str, str]]:
    """A PostgreSQL server of its own, as its own user where this is root: the variables that lead to it."""
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if IS_ROOT else {}
    programs = postgres_programs()
    with TemporaryDirectory(prefix="postgres-") as folder:
        if IS_ROOT:
            shutil.chown(folder, "postgres", "postgres")

        def run(program: str, *arguments: str) -> None:
            command = [f"{programs}/{program}", f"--pgdata={folder}/data", *arguments]
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, **user)

        run("initdb", "--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "start", "--wait", "--silent", f"--log={folder}/log", f"--options={options}")
        try:
            yield {
                "PGHOST": folder,
                "PGPORT": str(port),
                "PGUSER": "postgres",
                "PATH": f"{programs}:{os.environ['PATH']}",
            }
        finally:
            run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")


class Team:
    """A clone on the server, and the commands of its operator."""

    def __init__(self, folder: Path, ports: dict[int, int], server: dict[str, str]) -> None:
        self.folder, self.ports = folder, ports
        self.mlflow_url = f"http://127.0.0.1:{ports[5000]}"
        self.prefect_url = f"http://127.0.0.1:{ports[4200]}/api"
        programs = folder / "bin"
        for name in ("bin", "artifacts", "prefect", "checkout/deploy"):
            (folder / name).mkdir(parents=True)
        (programs / "docker").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/compose.py "$@"\n')
        (programs / "docker").chmod(0o755)
        own = {name: value for name, value in environment().items() if not name.startswith(SETTINGS)}
        path = f"{programs}:{Path(sys.executable).parent}:{server['PATH']}"
        self.variables = own | server | {"PATH": path}
        self.deploy = folder / "checkout/deploy"
        (self.deploy / "compose.yaml").write_text(self.here((ROOT / "deploy/compose.yaml").read_text()))

    def here(self, text: str) -> str:
        """Text of compose.yaml or of the page, with the hosts, ports and folders of this machine."""
        for name in ("artifacts", "prefect", "basic_auth.ini"):
            text = re.sub(rf"(?<=[\s=:])/{name}\b", str(self.folder / name), text)
        text = re.sub(r"\b(mlflow|prefect)(?=:\d)|(?<=PGHOST: )postgres|\b0\.0\.0\.0\b", "127.0.0.1", text)
        for port, own_port in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(own_port), text)
        return text

    def run(self, code: str, folder: Path | None = None) -> None:
        """Run shell code of the page in `deploy/`."""
        code = f"set -e\n{self.here(code)}"
        done = subprocess.run(
            ["sh", "-c", code], cwd=folder or self.deploy, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def secrets(self) -> dict[str, str]:
        """The values of `.env`."""
        return dotenv_values(self.deploy / ".env")

    @contextmanager
    def mlflow(self, name: str, password: str) -> Iterator[MlflowClient]:
        """MLflow as one of the team sees it."""
        account = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
        with mock.patch.dict(os.environ, account):
            yield MlflowClient(self.mlflow_url)

    @property
    def prefect(self) -> SyncPrefectClient:
        """Prefect as all of the team see it."""
        return SyncPrefectClient(self.prefect_url, auth_string=f"team:{self.secrets['PREFECT_PASSWORD']}")

    def rows(self) -> list[str]:
        """What a backup must bring back: runs and aliases of MLflow, flows of Prefect, an artifact."""
        queries = {
            "mlflow": "SELECT run_uuid FROM runs UNION ALL SELECT alias FROM registered_model_aliases",
            "prefect": "SELECT name FROM flow",
        }
        command = ["psql", "--tuples-only", "--no-align"]
        rows = []
        for database, query in queries.items():
            rows += subprocess.check_output([*command, "-c", query, database], env=self.variables, text=True).split()
        return rows + [path.read_text() for path in (self.folder / "artifacts").rglob("weights.txt")]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The team after the page's first commands."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    with postgres(ports[5432]) as server:
        team = Team(tmp_path_factory.mktemp("team"), ports, server)
        try:
            people = f"account engineer {PASSWORD}\naccount ada {PASSWORD}\nmanager ada\n"
            team.run(f"{''.join(blocks('Start'))}{people}", team.folder / "checkout")
            yield team
        finally:
            team.run("docker compose stop")


def test_servers_refuse_strangers_and_other_sites(team: Team) -> None:
    experiments = f"{team.mlflow_url}/api/2.0/mlflow/experiments/search"
    assert httpx.get(experiments, params={"max_results": 1}).status_code == 401
    assert httpx.post(experiments, headers=EVIL).status_code == 403
    assert httpx.get(team.mlflow_url, headers={"Host": "evil.example"}).status_code == 403
    runs = f"{team.prefect_url}/flow_runs/filter"
    assert httpx.post(runs).status_code == 401
    allowed = httpx.options(runs, headers=EVIL | {"Access-Control-Request-Method": "POST"}).headers
    assert "access-control-allow-origin" not in allowed


def test_start_never_overwrites_passwords_that_their_owner_alone_reads(team: Team) -> None:
    before = team.secrets
    with pytest.raises(AssertionError, match=r"\.env"):
        team.run(blocks("Start")[0], team.folder / "checkout")
    assert team.secrets == before
    assert (team.deploy / ".env").stat().st_mode & 0o777 == 0o600
    assert len(set(before.values())) == len(before)


def test_people_may_do_what_the_page_says_and_a_backup_restores_all_of_it(team: Team) -> None:
    with team.mlflow("worker", team.secrets["WORKER_PASSWORD"]) as client:
        run = client.create_run(client.create_experiment("threestage")).info
        client.log_text(run.run_id, "weights", "weights.txt")
        client.create_registered_model(MODEL)
        client.create_model_version(MODEL, f"{run.artifact_uri}/weights.txt", run.run_id)
    with team.mlflow("engineer", PASSWORD) as client:
        assert client.get_model_version(MODEL, "1").run_id == run.run_id
        client.create_registered_model("threestage.engineer.laptop-classifier")
        with pytest.raises(MlflowException, match="403"):
            client.set_registered_model_alias(MODEL, "champion", "1")
    with team.mlflow("app", team.secrets["APP_PASSWORD"]) as client, pytest.raises(MlflowException, match="403"):
        client.delete_registered_model(MODEL)
    with team.mlflow("ada", PASSWORD) as client:
        client.set_registered_model_alias(MODEL, "champion", "1")
    flow = team.prefect.create_flow_from_name("retrain")

    backup, restore, upgrade = blocks("Backup, restore, upgrade")
    rows = team.rows()
    assert rows == [run.run_id, "champion", "retrain", "weights"]
    team.run(backup)
    (folder,) = (team.deploy / "backups").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    with team.mlflow("admin", team.secrets["MLFLOW_ADMIN_PASSWORD"]) as client:
        client.delete_registered_model(MODEL)
    team.prefect.request("DELETE", "/flows/{id}", path_params={"id": flow})
    shutil.rmtree(team.folder / "artifacts")
    (team.folder / "artifacts").mkdir()
    start = "docker compose up --detach --wait\n"
    team.run(f"backup={folder}\n{restore.removesuffix(start)}{upgrade.removesuffix(start).replace('git pull', '')}")
    assert team.rows() == rows
