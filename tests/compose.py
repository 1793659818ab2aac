"""`docker compose` as tests have it: the services of the compose.yaml in this folder as processes of this machine.

`python compose.py compose up|stop|exec|run|build ...` takes the file's commands, variables and health checks. Volumes
are folders two levels up, and PostgreSQL runs already. The app and the worker are left out.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from dotenv import dotenv_values


class Compose:
    """The services of a folder."""

    def __init__(self, folder: Path) -> None:
        self.values = dotenv_values(folder / ".env")
        self.volumes = folder.parent.parent
        text = re.sub(r"\$\{(\w+):\?(.+?)\}", self.required, (folder / "compose.yaml").read_text())
        file = yaml.safe_load(text)
        self.services: dict[str, dict[str, Any]] = file["services"]
        del self.services["app"], self.services["worker"]  # tests/app and tests/flows have them
        self.configs: dict[str, dict[str, str]] = file["configs"]

    def required(self, match: re.Match[str]) -> str:
        """The value of a variable in .env."""
        name, reason = match.groups()
        return self.values.get(name) or sys.exit(f"required variable {name} is missing a value: {reason}")

    def variables(self, service: str) -> dict[str, str]:
        """The environment of a service."""
        return os.environ | self.services[service]["environment"]

    def process(self, service: str) -> psutil.Process | None:
        """The process of a service that runs."""
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            process = psutil.Process(int((self.volumes / f"{service}.pid").read_text()))
            if process.status() != psutil.STATUS_ZOMBIE:  # init may bury it at any moment
                return process
        return None

    def write_configs(self, service: str) -> None:
        """Write the files of a service; PostgreSQL runs those of its new volume."""
        for config in self.services[service].get("configs", ()):
            content = self.configs[config["source"]]["content"]
            made = self.volumes / config["source"]
            if not config["target"].startswith("/docker-entrypoint-initdb.d/"):
                Path(config["target"]).write_text(content)
            elif not made.exists():
                subprocess.run(["psql", "--quiet", "--set=ON_ERROR_STOP=1"], input=content, text=True, check=True)
                made.touch()

    def start(self, service: str) -> None:
        """Start a service in a group of its own, if it does not run."""
        self.write_configs(service)
        command = self.services[service].get("command")
        if not command or self.process(service):
            return
        with (self.volumes / f"{service}.log").open("a") as log:
            process = subprocess.Popen(
                command,
                cwd=self.volumes,
                env=self.variables(service),
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        (self.volumes / f"{service}.pid").write_text(str(process.pid))

    def wait_until_healthy(self, service: str) -> None:
        """Wait until a service's health check succeeds."""
        check = self.services[service]["healthcheck"]["test"][1:]
        while subprocess.run(check, env=self.variables(service), capture_output=True).returncode:
            if "command" in self.services[service] and not self.process(service):
                sys.exit(f"{service} has ended: {(self.volumes / f'{service}.log').read_text()[-3000:]}")
            time.sleep(0.5)

    def up(self, services: list[str]) -> None:
        """Start services, each once those that it depends on are healthy, and wait until all are."""
        for service in services:
            self.up([*self.services[service].get("depends_on", ())])
            self.start(service)
        for service in services:
            self.wait_until_healthy(service)

    def stop(self, services: list[str]) -> None:
        """End services, the last of the file first, and wait for their end."""
        for service in sorted(services, key=[*self.services].index, reverse=True):
            if process := self.process(service):
                os.killpg(process.pid, signal.SIGTERM)
            while self.process(service):
                time.sleep(0.1)
            (self.volumes / f"{service}.pid").unlink(missing_ok=True)

    def become(self, service: str, command: list[str]) -> None:
        """Run a command with the variables of a service in place of this program."""
        os.chdir(self.volumes)
        os.execvpe(command[0], command, self.variables(service))


def main() -> None:
    """Carry out a command."""
    verb, *words = sys.argv[2:]
    while words and words[0].startswith("-"):
        del words[0]
    compose = Compose(Path.cwd())
    services = [name for name in words if name in compose.services] or [*compose.services]
    match verb:
        case "up":
            compose.up(services)
        case "stop":
            compose.stop(services)
        case "exec" | "run":
            compose.become(words[0], command=words[1:])


if __name__ == "__main__":
    main()
