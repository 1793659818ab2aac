"""The images and the services of compose.yaml: fixed versions, closed doors, and no secret in a file."""

import re
import subprocess
import sys

import yaml
from projects import ROOT

TEXT = (ROOT / "deploy/compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]


def test_compose_file_follows_the_specification() -> None:
    schema = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([sys.executable, "-m", *schema, ROOT / "deploy/compose.yaml"], check=True)


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
