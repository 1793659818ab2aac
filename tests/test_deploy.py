"""The images, the services of compose.yaml, their passwords and the units. No container runs here; tests/test_team.py
starts the services as processes."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from dockerfile import STAGES, copied, of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from projects import ROOT
from team import DEPLOY, SERVICES, read_env
from typer.testing import CliRunner

from cli.main import cli

LOCK = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"
)
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PYPROJECT["project"]["version"]
UNITS = DEPLOY / "systemd"
HARDENING = UNITS / "threestage-.service.d/hardening.conf"
ADDRESSES = {"0.0.0.0": "127.0.0.1", "postgres": "127.0.0.1", "/artifacts": "/var/lib/threestage/artifacts"}
"""Words of compose.yaml, and what the units have for them."""


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and line[0] != "#"]


def read_unit(*paths: Path) -> ConfigParser:
    """A unit with its drop-in. Of a repeated key, values are joined by newlines."""
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    for path in paths:
        section = ""
        for line in path.read_text().replace("\\\n", " ").splitlines():
            if line.startswith("["):
                section = line.strip("[]")
                if not unit.has_section(section):
                    unit.add_section(section)
            elif line and line[0] != "#":
                name, value = line.split("=", maxsplit=1)
                before = unit[section].get(name)
                unit[section][name] = value if before is None else f"{before}\n{value}"
    return unit


def services(pattern: str = "*") -> list[Path]:
    return sorted(UNITS.glob(f"threestage-{pattern}.service"))


def test_images_install_the_locks_versions_and_hold_no_secrets():
    bases = [arguments.split(" AS ")[0] for stage in STAGES for arguments in of(stage, "FROM")]
    (base,) = set(bases) - STAGES.keys()
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)
    installs = [arguments for stage in STAGES for arguments in of(stage, "RUN") if "uv pip install" in arguments]
    commands = [command for arguments in installs for command in arguments.split("&&") if "uv pip" in command]
    assert len(commands) == 4
    for command in commands:
        assert "--constraint requirements.lock" in command
        assert "://" not in command, "the builder chooses the index"
        words = shlex.split(command.partition("requirements.lock")[2])
        names = [re.sub(r"\[.*\]", "", word) for word in words if not word.startswith("--")]
        assert set(names) <= LOCK.keys() | {".", "serve"}
    served = {canonicalize_name(Requirement(text).name) for text in PYPROJECT["dependency-groups"]["serve"]}
    assert served <= {canonicalize_name(name) for name in LOCK}
    folders = [words[0] for words in copied("app-build") if len(set(words)) == 1]
    assert sorted(folders) == ["app", "cli", "llm", "tasks"], "`threestage serve` imports no flow"
    for stage in ("servers", "worker", "app"):
        assert of(stage, "USER") == ["10001:10001"]
    first, *others = lines(ROOT / ".dockerignore")
    assert first == "*"
    sources = {source for stage in STAGES for words in copied(stage) for source in words[:-1]}
    assert sources == {line[1:] for line in others if line[0] == "!"}
    assert all((ROOT / source).exists() for source in sources)


def test_compose_file_follows_the_specification(tmp_path):
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*schema, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    compose = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*compose, "version"], capture_output=True).returncode:
        return
    folder = shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets", "backups"))
    subprocess.run([sys.executable, folder / "passwords.py"], check=True)
    config = [*compose, "--file", folder / "compose.yaml", "--profile", "backup", "config", "--quiet"]
    done = subprocess.run(config, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_fixed_version_and_starts_after_what_it_needs(name):
    service = SERVICES[name]
    image, _, tag = service["image"].partition(":")
    if build := service.get("build"):
        assert build["target"] in STAGES
        assert (DEPLOY / build["context"] / build["dockerfile"]).exists()
        assert tag == VERSION
        assert service["cap_drop"] == ["ALL"]
    else:
        assert (image, bool(re.fullmatch(r"\d+\.\d+-bookworm", tag))) == ("postgres", True)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("unless-stopped" if "healthcheck" in service else "no")
    for needed, dependency in service.get("depends_on", {}).items():
        ends = "healthcheck" not in SERVICES[needed]
        assert dependency["condition"] == ("service_completed_successfully" if ends else "service_healthy")


def test_services_open_ports_to_this_machine_alone_and_reach_only_what_they_need():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    numbers = {"app": 8000, "mlflow": 5000, "prefect": 4200}
    assert ports == {name: [f"127.0.0.1:{port}:{port}"] for name, port in numbers.items()}
    members = {network: set() for network in COMPOSE["networks"]}
    for name, service in SERVICES.items():
        for network in service["networks"]:
            members[network].add(name)
    assert members == {
        "database": {"postgres", "mlflow", "prefect", "backup"},
        "tracking": {"mlflow", "users", "worker", "app"},
        "runs": {"prefect", "worker"},
    }
    assert COMPOSE["networks"]["database"] == {"internal": True}
    sources = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {source for source in sources if "/" not in source} == COMPOSE["volumes"].keys()
    for name, service in SERVICES.items():
        values = " ".join(service.get("environment", {}).values())
        for host in SERVICES.keys() & set(re.findall(r"//(\w+):\d", values)):
            assert set(service["networks"]) & set(SERVICES[host]["networks"]), f"{name} can't reach {host}"


def test_passwords_are_written_once_for_their_owner_alone(tmp_path):
    folder = tmp_path / "secrets"

    def write() -> tuple[str, dict[str, str]]:
        done = subprocess.run([sys.executable, DEPLOY / "passwords.py", folder], capture_output=True, check=True)
        return done.stdout.decode(), {path.stem: path.read_text() for path in folder.iterdir()}

    output, files = write()
    assert output == f"wrote {folder}\n"
    assert write() == (f"{folder} exists; nothing was written\n", files)
    assert list(tmp_path.iterdir()) == [folder]
    assert folder.stat().st_mode & 0o777 == 0o700
    named = {file for service in SERVICES.values() for file in service["env_file"]}
    people = {f"secrets/{name}.env" for name in ("engineer", "editor", "reviewer")}
    assert named | people == {f"secrets/{name}.env" for name in files}
    passwords = []
    for name in files:
        path = folder / f"{name}.env"
        assert path.stat().st_mode & 0o777 == 0o600
        passwords += [value for variable, value in read_env(path).items() if re.search("PASSW|KEY|AUTH", variable)]
    assert all(re.fullmatch("(team:)?[0-9a-f]{48}", password) for password in passwords)
    assert len(set(passwords)) == 12
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "deploy/secrets/app.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    text = (DEPLOY / "compose.yaml").read_text()
    assert not re.search(r"(PASSWORD|SECRET|_KEYS?|AUTH_STRING): ", text)
    assert not re.search(r"://\w+:[^@\s]+@", text)


@pytest.mark.parametrize("name", ["mlflow", "prefect", "backup"])
def test_unit_runs_what_compose_runs(name):
    unit = read_unit(UNITS / f"threestage-{name}.service")["Service"]
    words = [*SERVICES[name].get("entrypoint", ()), *SERVICES[name]["command"]]
    variables = SERVICES[name]["environment"]

    def here(text: str) -> str:
        for word, replacement in ADDRESSES.items():
            text = re.sub(rf"(?<![^=]){word}$", replacement, text)
        text = text.replace("mlflow:5000,", "").replace("/opt/threestage", "/srv/threestage/deploy")
        return re.sub(r"^/(prefect|backups)$", r"/var/lib/threestage/\1", text)

    program, *arguments = shlex.split(unit["ExecStart"])
    assert [Path(program).name, *arguments] == [here(word) for word in words]
    assert dict(line.split("=", 1) for line in unit["Environment"].splitlines()) == {
        variable: here(value) for variable, value in variables.items()
    }
    assert unit["EnvironmentFile"] == SERVICES[name]["env_file"][0].replace("secrets", "/etc/threestage")


@pytest.mark.parametrize("path", services(), ids=lambda path: path.stem)
def test_unit_is_hardened_and_restarts_on_failure(path):
    service = read_unit(HARDENING, path)["Service"]
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "ProtectKernelModules"):
        assert service[name] == "true", name
    assert (service["User"], service["ProtectSystem"], service["CapabilityBoundingSet"]) == ("threestage", "strict", "")
    assert "MemoryDenyWriteExecute" not in service, "torch compiles its kernels while it runs"
    assert service["EnvironmentFile"].startswith("/etc/threestage/"), "everybody may read a unit"
    assert service["Type"] == "oneshot" or service["Restart"] == "on-failure"
    writes = service.get("ReadWritePaths", "")
    assert writes == ("/srv/threestage" if path.stem in ("threestage-app", "threestage-worker") else "")


def test_app_unit_starts_a_command_of_ours():
    program, *arguments = read_unit(UNITS / "threestage-app.service")["Service"]["ExecStart"].split()
    assert program == "/srv/threestage/.venv/bin/threestage"
    assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 0


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_finds_no_fault_and_little_exposure(tmp_path):
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    for path in [*tmp_path.glob("*.service"), tmp_path / HARDENING.relative_to(UNITS)]:
        text = re.sub(r"/srv/threestage/\.venv/bin/\w+", sys.executable, path.read_text())  # one that is there
        path.write_text(re.sub(r"(?<==)/srv/threestage$", str(tmp_path), text, flags=re.MULTILINE))
    units = sorted([*tmp_path.glob("*.service"), *tmp_path.glob("*.timer")])
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
