"""The images and the services of compose.yaml: fixed versions, closed doors, and no secret in a file."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from dockerfile import STAGES, copied, of
from projects import ROOT

TEXT = (ROOT / "deploy/compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_images_install_locked_versions_and_run_without_root() -> None:
    installs = [arguments for stage in STAGES for arguments in of(stage, "RUN") if "uv pip install" in arguments]
    for command in " && ".join(installs).split("&&"):
        assert "uv pip" not in command or "--constraint requirements.lock" in command
    for stage in ("servers", "worker", "app"):
        assert of(stage, "USER") == ["10001:10001"]
    words = [word for stage in STAGES for source in copied(stage) for word in source[:-1]]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert set(words) == set(kept)
    folders = [source for *sources, target in copied("app-build") for source in sources if source == target]
    assert sorted(folders) == ["app", "cli", "llm", "tasks"], "`threestage serve` imports no flow"


def test_compose_file_follows_the_specification() -> None:
    schema = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([sys.executable, "-m", *schema, ROOT / "deploy/compose.yaml"], check=True)


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_a_fixed_version_and_few_rights(name: str) -> None:
    service = SERVICES[name]
    image, _, tag = service["image"].partition(":")
    if "build" in service:
        assert (service["build"]["target"] in STAGES, tag, service["cap_drop"]) == (True, VERSION, ["ALL"])
    else:
        assert (image, bool(re.fullmatch(r"\d+\.\d+-bookworm", tag))) == ("postgres", True)
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "healthcheck" in service


def test_services_open_ports_to_this_machine_alone_and_two_reach_the_database() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    numbers = {"app": 8000, "mlflow": 5000, "prefect": 4200}
    assert ports == {name: [f"127.0.0.1:{port}:{port}"] for name, port in numbers.items()}
    near = {name for name, service in SERVICES.items() if "database" in service.get("networks", ())}
    assert near == {"postgres", "mlflow", "prefect"}
    assert COMPOSE["networks"]["database"] == {"internal": True}


def test_secrets_come_from_env_are_all_required_and_made_by_the_page() -> None:
    loop = (ROOT / "docs/team.md").read_text().partition("for name in ")[2].partition("\n    do ")[0]
    required = set(re.findall(r"\$\{(\w+):\?[\w /.]+\}", TEXT))
    assert required == set(re.findall(r"[A-Z_]+", loop))
    assert len(re.findall(r"\$\{", TEXT)) == len(re.findall(r"\$\{\w+:\?", TEXT))
    literal = r"(?:PASSWORD|SECRET_KEY|API_KEYS|AUTH_STRING): (?!(?:team:)?\$\{)(.+)"
    assert re.findall(literal, TEXT) == []
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "deploy/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
