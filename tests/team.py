"""A team's servers: the services of deploy/compose.yaml as processes of this machine, with the same commands, variables
and health checks.

Only hosts, ports and folders are this machine's, PostgreSQL is Debian's, and DVC's remote is moto, a server that speaks
S3.
"""

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import boto3
import httpx
import psutil
import yaml
from mlflow import MlflowClient
from projects import ROOT, environment, free_ports
from real_servers import wait_for

GUIDE = (ROOT / "docs/team.md").read_text()
DEPLOY = ROOT / "deploy"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
POSTGRES = "postgres"
FIRST_SERVICES = ("postgres", "mlflow", "prefect", "users")
PORTS = {"postgres": 5432, "mlflow": 5000, "prefect": 4200, "worker": 8080, "app": 8000, "dvc": 9000}
SETTINGS = ("MLFLOW_", "PREFECT_", "AWS_", "PG", "THREESTAGE_")
"""Beginnings of variables that are not this process's business to hand to a team's servers and people."""


def blocks(heading: str) -> list[str]:
    """The shell code below a heading of the guide."""
    section = re.split(r"^#{2,3} ", GUIDE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return [code.strip() for code in re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)]


def block(heading: str) -> str:
    """The same where it is one piece."""
    (code,) = blocks(heading)
    return code


def why_no_postgres() -> str:
    """What a PostgreSQL server lacks here; empty where one can be started."""
    if not _programs():
        return "there is no PostgreSQL: install the package postgresql"
    if os.getuid() == 0 and POSTGRES not in {user.pw_name for user in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


def _programs() -> str:
    """The folder of PostgreSQL's programs; Debian keeps its servers' off the path."""
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    path = os.pathsep.join([*debian, os.environ["PATH"]])
    initdb = shutil.which("initdb", path=path)
    return str(Path(initdb).resolve().parent) if initdb else ""


def read_env(path: Path) -> dict[str, str]:
    """The variables of an environment file."""
    return dict(line.split("=", maxsplit=1) for line in path.read_text().splitlines())


class Team:
    """The services that run, and the environment of each service and person."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(PORTS.values(), free_ports(len(PORTS)), strict=True))
        self.mlflow_url = f"http://127.0.0.1:{self.ports[5000]}"
        self.prefect_url = f"http://127.0.0.1:{self.ports[4200]}/api"
        self.app_url = f"http://127.0.0.1:{self.ports[8000]}"
        self.project = folder / "project"
        self.folders = {
            "/opt/threestage": DEPLOY,
            "/artifacts": folder / "artifacts",
            "/backups": folder / "backups",
            "/prefect": folder / "prefect",
        }
        for name in ("artifacts", "backups", "prefect", "project"):
            (folder / name).mkdir()
        subprocess.run([sys.executable, DEPLOY / "passwords.py", folder / "secrets"], check=True)
        self.bucket = {"AWS_ACCESS_KEY_ID": "dvc", "AWS_SECRET_ACCESS_KEY": "a secret key"}
        self.running: dict[str, subprocess.Popen] = {}
        self.stopped: list[str] = []
        self.postgres: Cluster | None = None

    def here(self, text: str) -> str:
        """A value or a command of the compose file or the guide, with the hosts, ports and folders of this machine."""
        for folder, path in self.folders.items():
            text = re.sub(rf"(?<![^\s=]){folder}\b", str(path), text)
        text = re.sub(r"\b(postgres|mlflow|prefect)(?=:\d)|^postgres$|\b0\.0\.0\.0\b", "127.0.0.1", text)

        def own_port(match: re.Match[str]) -> str:
            return str(self.ports[int(match[0])])

        return re.sub(r"\b(5432|9000|5000|4200|8080|8000)\b", own_port, text)

    def outside(self) -> dict[str, str]:
        """The variables of a shell that has none of the team's."""
        variables = {name: value for name, value in environment().items() if not name.startswith(SETTINGS)}
        return variables | self.bucket | {"GIT_TERMINAL_PROMPT": "0", "PGPORT": str(self.ports[5432])}

    def person(self, name: str, **changes: str) -> dict[str, str]:
        """The variables of one of the team, from the file that passwords.py wrote."""
        file = read_env(self.folder / "secrets" / f"{name}.env")
        return self.outside() | {variable: self.here(value) for variable, value in file.items()} | changes

    def environment(self, service: str) -> dict[str, str]:
        """The variables of a service."""
        variables: dict[str, str] = {}
        for file in SERVICES[service]["env_file"]:
            variables |= read_env(self.folder / file)
        variables |= SERVICES[service].get("environment", {})
        return self.outside() | {name: self.here(value) for name, value in variables.items()}

    def command(self, service: str, arguments: list[str] | None = None) -> list[str]:
        """The command of a service, or its entry point with other arguments."""
        definition = SERVICES[service]
        words = [*definition.get("entrypoint", ()), *(arguments or definition["command"])]
        return [self.here(word) for word in words]

    def start(self, service: str, **changes: str) -> None:
        """Start a service, and come back at once."""
        if service == POSTGRES:
            self.postgres.start()
            return
        self.start_process(service, self.command(service), self.environment(service) | changes)

    def start_process(self, name: str, command: list[str], env: Mapping[str, str]) -> None:
        """Start a process in a group of its own, which writes to a log of that name."""
        folder = self.project if name == "worker" else self.folder
        with (self.folder / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                command, cwd=folder, env=env, process_group=0, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_for(self, service: str) -> None:
        """Wait until a service's health check succeeds, or until it has ended well if it has none."""
        if "healthcheck" not in SERVICES[service]:
            assert self.running.pop(service).wait() == 0, self.log(service)
            return
        check = [self.here(word) for word in SERVICES[service]["healthcheck"]["test"][1:]]

        def is_healthy() -> bool:
            if service in self.running:
                assert self.running[service].poll() is None, self.log(service)[-3000:]
            return subprocess.run(check, env=self.outside(), capture_output=True).returncode == 0

        wait_for(is_healthy, every=0.5)

    def up(self, *services: str) -> None:
        """Start services in the file's order, each when those that it depends on are healthy or have ended."""
        healthy: set[str] = set()
        for service in services:
            for needed in SERVICES[service].get("depends_on", {}):
                if needed in services and needed not in healthy:
                    self.wait_for(needed)
                    healthy.add(needed)
            self.start(service)
        for service in services:
            if service not in healthy:
                self.wait_for(service)

    def compose(self, line: str) -> None:
        """Carry out a line of the guide: `docker compose run`, `stop`, or `up` of what was stopped."""
        verb, *arguments = [word for word in shlex.split(line)[2:] if word not in ("--rm", "--detach")]
        if verb == "run":
            service, *words = arguments
            command, env = self.command(service, words), self.environment(service)
            done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        elif verb == "stop":
            self.stopped = [service for service in arguments if service in self.running]
            for service in self.stopped:
                self.kill(service, signal.SIGTERM)
        else:
            assert line == "docker compose up --detach"
            self.up(*self.stopped)

    @contextmanager
    def client(self, name: str = "admin") -> Iterator[MlflowClient]:
        """MLflow as one of the team sees it."""
        env = self.environment("users") if name == "admin" else self.person(name)
        with mock.patch.dict(os.environ, env):
            yield MlflowClient(self.mlflow_url)

    def kill(self, service: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a service and all its processes, and wait for its end."""
        process = self.running.pop(service)
        os.killpg(process.pid, number)
        process.wait()

    def processes(self, service: str) -> list[psutil.Process]:
        """The processes of a service."""
        first = psutil.Process(self.running[service].pid)
        return [first, *first.children(recursive=True)]

    def log(self, service: str) -> str:
        """What a service wrote."""
        return (self.folder / f"{service}.log").read_text(errors="replace")

    def run(self, command: str, env: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
        """A command of one of the team, in a folder."""
        shell = ["sh", "-c", self.here(command)]
        return subprocess.run(shell, cwd=folder, env=env, capture_output=True, text=True, check=False)


class Cluster:
    """A PostgreSQL server in a folder of its own, as its own user where this is root."""

    def __init__(self, folder: str, team: Team) -> None:
        self.folder = folder
        self.user = {"user": POSTGRES, "group": POSTGRES, "extra_groups": []} if os.getuid() == 0 else {}
        if self.user:
            shutil.chown(folder, POSTGRES, POSTGRES)
        address = {"PGHOST": folder, "PGPORT": str(team.ports[5432]), "PGUSER": POSTGRES}
        path = f"{_programs()}:{os.environ['PATH']}"
        self.env = team.environment(POSTGRES) | {"PATH": path, "LANG": "C.UTF-8", **address}
        self.data = ("--pgdata", f"{folder}/data")
        self.options = f"-p {address['PGPORT']} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"

    def run(self, *command: str, text: str = "") -> None:
        """Run one of PostgreSQL's programs as its administrator."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, input=text, capture_output=True, text=True, check=False, **self.user
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Do what the image does: make a new cluster, then run the scripts of its folder initdb.d."""
        auth = ("--username", POSTGRES, "--auth-local=trust", "--auth-host=scram-sha-256")
        self.run("initdb", *self.data, *auth, "--no-sync")
        self.control("start", f"--log={self.folder}/log", f"--options={self.options}")
        for volume in SERVICES[POSTGRES]["volumes"]:
            source, target = volume.split(":")[:2]
            if target.startswith("/docker-entrypoint-initdb.d/"):
                self.run("sh", text=(DEPLOY / source).read_text())

    def control(self, action: str, *options: str) -> None:
        """Start, restart or stop the server."""
        self.run("pg_ctl", *self.data, "--wait", "--silent", *options, action)


@contextmanager
def servers(folder: Path) -> Iterator[Team]:
    """The servers of a team and DVC's remote, which end with the block."""
    team = Team(folder)
    with TemporaryDirectory(prefix="postgres-") as name:
        team.postgres = Cluster(name, team)
        try:
            moto = ["moto_server", "--host", "127.0.0.1", "--port", str(team.ports[9000])]
            team.start_process("dvc", moto, team.outside())
            team.up(*FIRST_SERVICES)
            _make_bucket(team)
            yield team
        finally:
            for service in [*team.running]:
                team.kill(service)
            team.postgres.control("stop", "--mode=immediate")


def _make_bucket(team: Team) -> None:
    """Make the bucket of DVC's remote as soon as its server answers."""
    url = f"http://127.0.0.1:{team.ports[9000]}"

    def answers() -> bool:
        try:
            return httpx.get(url).is_success
        except httpx.TransportError:
            return False

    wait_for(answers)
    key, secret = team.bucket.values()
    boto3.client("s3", endpoint_url=url, aws_access_key_id=key, aws_secret_access_key=secret).create_bucket(
        Bucket="dvc"
    )
