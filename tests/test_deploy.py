"""What is deployed: the image, the services beside it, the unit. Files are read here; no container runs."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from fnmatch import fnmatch

import pytest
import yaml
from projects import ROOT
from typer.testing import CliRunner

from app.cli.command import cli

DEPLOY = ROOT / "deploy"
LOCK = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"
)
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
VARIABLE = re.compile(r"\$\{(\w+):\?[^}]+\}")  # one without which nothing starts


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line[0] == "#":
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        list(found.values())[-1].append((word, rest))
    return found


STAGES = stages()


def of(stage: str, word: str) -> list[str]:
    return [rest for each, rest in STAGES[stage] if each == word]


# ---- the image


def test_the_app_is_what_the_dockerfile_makes_by_default():
    assert list(STAGES)[-1] == "app"
    assert of("app", "ENTRYPOINT") == ['["threestage"]']
    assert of("app", "CMD") == ['["serve", "--host", "0.0.0.0"]']


def test_everything_is_installed_with_the_versions_of_the_lock():
    installs = [rest for stage in STAGES for rest in of(stage, "RUN") if "pip install" in rest]
    assert len(installs) == 2
    assert all("--constraint requirements.lock" in each for each in installs)
    assert "://" not in " ".join(installs)  # the packages' index is the builder's choice
    assert f"mlflow=={LOCK['mlflow']} " in " ".join(installs)


def test_the_image_has_what_serving_needs_and_no_more():
    (installed,) = [rest for rest in of("app-build", "RUN") if "--editable" in rest]
    assert shlex.split(installed)[-1] == ".[app]"
    folders = [rest.split()[0] for rest in of("app-build", "COPY") if len(set(rest.split())) == 1]
    assert sorted(folders) == ["app", "llm", "tasks"]  # which import nothing else of ours, as lint-imports sees


@pytest.mark.parametrize(("stage", "asked"), [("app", "8000/healthz"), ("tracking", "5000/health")])
def test_what_runs_is_no_root_and_can_be_asked_for_its_health(stage, asked):
    assert of(stage, "USER") == ["10001:10001"]
    (health,) = of(stage, "HEALTHCHECK")
    assert f"http://127.0.0.1:{asked}'" in health
    code = json.loads(health.partition("CMD ")[2])
    assert code[:2] == ["python", "-c"]
    compile(code[2], "HEALTHCHECK", "exec")
    builders = [rest for rest in of(stage, "COPY") if not rest.startswith("--from=")]
    assert builders == [], "no build tools, no context: a stage before has made it"


def test_the_context_holds_what_is_copied_and_nothing_that_is_made():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line[0] == "!"}
    copied = {
        source
        for stage in STAGES
        for rest in of(stage, "COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


# ---- the services


def test_these_services_run():
    assert set(SERVICES) == {"app", "mlflow", "mlflow-db", "store", "store-bucket", "prefect", "prefect-db"}


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_has_a_fixed_version(name):
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", tag), f"{image} without a version"
    if "build" in SERVICES[name]:
        assert SERVICES[name]["build"]["target"] in STAGES
        assert (DEPLOY / SERVICES[name]["build"]["context"] / SERVICES[name]["build"]["dockerfile"]).exists()
        assert tag == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if image == "prefecthq/prefect":
        assert tag.startswith(f"{LOCK['prefect']}-")


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "store-bucket"])
def test_a_service_can_be_asked_for_its_health_and_comes_back(name):
    service = SERVICES[name]
    built = service.get("build", {}).get("target")
    assert "healthcheck" in service or of(built, "HEALTHCHECK")
    assert service["restart"] == "unless-stopped"
    assert service["security_opt"] == ["no-new-privileges:true"]
    for needed, how in service.get("depends_on", {}).items():
        ends = needed == "store-bucket"
        assert how == {"condition": "service_completed_successfully" if ends else "service_healthy"}


def test_ports_are_open_to_this_machine_alone():
    ports = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    assert ports == {
        "app": ["127.0.0.1:8000:8000"],
        "mlflow": ["127.0.0.1:5000:5000"],
        "prefect": ["127.0.0.1:4200:4200"],
    }


def test_what_is_kept_is_in_named_volumes():
    used = [volume.partition(":")[0] for each in SERVICES.values() for volume in each.get("volumes", ())]
    assert sorted(used) == sorted(COMPOSE["volumes"])
    assert len(set(used)) == len(used)


def test_secrets_come_from_the_environment_and_its_pattern_names_each():
    lines = [line for line in (DEPLOY / ".env.example").read_text().splitlines() if line and line[0] != "#"]
    assert all(line.endswith("=") for line in lines), "a pattern has no secrets"
    names = {line.removesuffix("=") for line in lines}
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(VARIABLE.findall(text)) == names
    assert "${" not in VARIABLE.sub("", text)
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY|USER$", name) and not name.startswith("POSTGRES_USER"):
                assert VARIABLE.fullmatch(value), name
            for password in re.findall(r"://\w+:([^@]+)@", str(value)):
                assert VARIABLE.fullmatch(password), name


def test_the_app_asks_the_tracking_server_which_knows_it_by_that_name():
    address = SERVICES["app"]["environment"]["MLFLOW_TRACKING_URI"]
    (hosts,) = [each for each in SERVICES["mlflow"]["command"] if each.startswith("--allowed-hosts=")]
    assert address.removeprefix("http://") in hosts.partition("=")[2].split(",")
    assert fnmatch(SERVICES["mlflow"]["environment"]["MLFLOW_S3_ENDPOINT_URL"], "http://store:*")


# ---- the unit


@pytest.fixture
def unit() -> ConfigParser:
    found = ConfigParser(interpolation=None)
    found.optionxform = str
    found.read(DEPLOY / "threestage.service")
    return found


def test_the_unit_starts_the_command_as_nobody_else_and_again_when_it_fails(unit):
    service = unit["Service"]
    program, *arguments = service["ExecStart"].split()
    assert program == f"{service['WorkingDirectory']}/.venv/bin/threestage"
    assert CliRunner().invoke(cli, [*arguments, "--help"]).exit_code == 0
    assert service["User"] == service["Group"] == "threestage"
    assert service["Restart"] == "on-failure"
    assert service["EnvironmentFile"], "the keys stand in no unit, which all may read"


def test_the_unit_is_hardened(unit):
    service = unit["Service"]
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "ProtectKernelModules"):
        assert service[name] == "true", name
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"] == service["WorkingDirectory"]
    assert service["CapabilityBoundingSet"] == ""
    assert "MemoryDenyWriteExecute" not in service, "torch compiles its kernels while it runs"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_finds_no_fault(tmp_path):
    text = (DEPLOY / "threestage.service").read_text()
    path = tmp_path / "threestage.service"
    path.write_text(text.replace("/srv/threestage/.venv/bin/threestage", sys.executable))  # one that is there
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
