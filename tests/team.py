"""A team's servers, started by the commands of docs/team.md: PostgreSQL, an object store, MLflow with users, Prefect.

They are real, on free ports, in folders of their own; the object store is moto, a server that speaks S3.
"""

import contextlib
import io
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import httpx
from mlflow import MlflowClient
from projects import ROOT, environment, free_ports
from real_servers import wait_for

GUIDE = (ROOT / "docs/team.md").read_text()
POSTGRES = "postgres"
NOT_OF_A_SERVER = ("MLFLOW_", "PREFECT_", "AWS_", "PG", "THREESTAGE_")


def blocks(heading: str, language: str = "sh") -> list[str]:
    """The code below a heading of the guide."""
    section = re.split(r"^#{2,3} ", GUIDE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def block(heading: str, language: str = "sh") -> str:
    """The same where it is one piece."""
    (code,) = blocks(heading, language)
    return code.strip()


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
    found = shutil.which("initdb", path=path)
    return str(Path(found).resolve().parent) if found else ""


class Team:
    """The servers, the passwords of those who use them, and the environment of each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.passwords = folder, dict[str, str]()
        self.ports = dict(zip((5432, 9000, 5000, 4200), free_ports(4), strict=True))
        self.mlflow_url = f"http://127.0.0.1:{self.ports[5000]}"
        self.prefect_url = f"http://127.0.0.1:{self.ports[4200]}/api"
        lines = (line.partition("=") for line in self.here(block("servers.env")).splitlines())
        self.servers_env = {name: value.replace("SECRET", secrets.token_hex(24)) for name, _, value in lines}
        self.servers_env["MLFLOW_AUTH_CONFIG_PATH"] = str(ROOT / self.servers_env["MLFLOW_AUTH_CONFIG_PATH"])
        self.running: dict[str, subprocess.Popen] = {}
        self.as_postgres: Callable[..., None] | None = None

    def here(self, text: str) -> str:
        """A part of the guide with the ports of this team."""
        for written, port in self.ports.items():
            text = re.sub(rf"\b{written}\b", str(port), text)
        return text

    def env(self, who: str, **more: str) -> dict[str, str]:
        """The variables of one who uses MLflow, as the guide's table has them; without `who` of none."""
        kept = {name: value for name, value in environment().items() if not name.startswith(NOT_OF_A_SERVER)}
        user = {"MLFLOW_TRACKING_USERNAME": who, "MLFLOW_TRACKING_PASSWORD": self.passwords.get(who, "")}
        address = {"MLFLOW_TRACKING_URI": self.mlflow_url, "GIT_TERMINAL_PROMPT": "0"}
        keys = {name: self.servers_env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        return kept | keys | address | (user if who else {}) | more

    def of_the_team(self, who: str, **more: str) -> dict[str, str]:
        """The same for one who works on the team's own models and runs."""
        auth = {"PREFECT_API_AUTH_STRING": self.servers_env["PREFECT_SERVER_API_AUTH_STRING"]}
        return self.env(who, THREESTAGE_NAMESPACE="threestage", PREFECT_API_URL=self.prefect_url, **auth, **more)

    def start(self, name: str, command: str) -> None:
        """Start a server by its command; it is waited for elsewhere."""
        with (self.folder / f"{name}.log").open("a") as log:
            self.running[name] = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self.env("") | self.servers_env,
                process_group=0,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def start_mlflow(self) -> None:
        """Start MLflow; one process answers as well as four for so few."""
        self.start("mlflow", self.here(block("MLflow")) + " --workers 1")

    def wait_for_mlflow(self) -> None:
        """Wait until MLflow answers."""
        self.wait_for("mlflow", f"{self.mlflow_url}/health")

    @contextmanager
    def client(self, who: str = "admin") -> Iterator[MlflowClient]:
        """MLflow as one of the team sees it."""
        with mock.patch.dict(os.environ, self.env(who)):
            yield MlflowClient(self.mlflow_url)

    def kill(self, name: str) -> None:
        """End a server and all its processes, as the loss of its machine would."""
        server = self.running.pop(name)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    def log(self, name: str) -> str:
        """What a server said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for(self, name: str, url: str) -> None:
        """Wait until a server answers that it is well."""

        def answers() -> bool:
            assert self.running[name].poll() is None, self.log(name)[-3000:]
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url).is_success
            return False

        wait_for(answers)

    def run(self, command: str, env: Mapping[str, str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command of the guide, for one of the team, in a folder."""
        shell = ["sh", "-c", self.here(command)]
        return subprocess.run(shell, cwd=folder or self.folder, env=env, capture_output=True, text=True, check=False)


@contextmanager
def _postgres(team: Team) -> Iterator[None]:
    """A cluster of its own, as its own user where this is root; who can enter its folder may do everything there."""
    with TemporaryDirectory(prefix="postgres-") as name:
        user = {"user": POSTGRES, "group": POSTGRES, "extra_groups": []} if os.getuid() == 0 else {}
        if user:
            shutil.chown(name, POSTGRES, POSTGRES)
        address = {"PGHOST": name, "PGPORT": team.servers_env["PGPORT"], "PGUSER": POSTGRES}
        env = {"PATH": f"{_programs()}:{os.environ['PATH']}", "LANG": "C.UTF-8", **address}
        options = f"-p {address['PGPORT']} -k {name} -c listen_addresses=127.0.0.1 -c fsync=off"

        def run(*command: str, said: str = "") -> None:
            # A session of its own has no terminal, so that the password is read from what is said here.
            done = subprocess.run(
                command, cwd=name, env=env, input=said, capture_output=True, text=True, start_new_session=True, **user
            )
            assert done.returncode == 0, done.stdout + done.stderr

        cluster = ("--pgdata", f"{name}/data")
        run("initdb", *cluster, "--username", POSTGRES, "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync")
        run("pg_ctl", *cluster, "--wait", "--silent", "--log", f"{name}/log", "--options", options, "start")
        try:
            password = f"{team.servers_env['PGPASSWORD']}\n"
            for command in block("PostgreSQL").splitlines():
                run(*command.split(), said=password * 2)
            team.as_postgres = run
            yield
        finally:
            run("pg_ctl", *cluster, "--wait", "--silent", "--mode=immediate", "stop")


def make_users(team: Team) -> None:
    """Run the guide's Python as its administrator, and keep the passwords that it prints."""
    team.passwords["admin"] = team.servers_env["MLFLOW_AUTH_ADMIN_PASSWORD"]
    said = io.StringIO()
    with mock.patch.dict(os.environ, team.env("admin")), contextlib.redirect_stdout(said):
        exec(team.here(block("Users of MLflow", "python")), {})
    team.passwords |= dict(line.split() for line in said.getvalue().splitlines())


@contextmanager
def servers(folder: Path) -> Iterator[Team]:
    """The servers of a team, which end with the block."""
    team = Team(folder)
    try:
        team.start("store", f"moto_server --host 127.0.0.1 --port {team.ports[9000]}")
        with _postgres(team):
            try:
                team.wait_for("store", team.servers_env["AWS_ENDPOINT_URL"])
                team.start("prefect", team.here(block("Prefect")))
                team.start_mlflow()
                made = team.run(block("Object store"), team.env("") | team.servers_env)
                assert made.returncode == 0, made.stderr
                team.wait_for_mlflow()
                make_users(team)
                team.wait_for("prefect", f"{team.prefect_url}/health")
                yield team
            finally:
                for name in set(team.running) - {"store"}:
                    team.kill(name)
    finally:
        for name in set(team.running):
            team.kill(name)
