"""The development container. Its file also passes the schema of containers.dev, which no package here has."""

import json
import re

from dockerfile import of
from projects import ROOT

CONFIG = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TOOLS = {"chromium", "g++", "golang-go", "postgresql"}
"""Packages that `make test` installs where it runs as root."""


def test_devcontainer_runs_the_pipeline_as_the_user_of_its_image() -> None:
    assert CONFIG["postCreateCommand"] == "make run"
    build = CONFIG["build"]
    folder = ROOT / ".devcontainer"
    assert (folder / build["dockerfile"]).resolve() == ROOT / "deploy/Dockerfile"
    assert (folder / build["context"]).resolve() == ROOT
    _, add_user = of(build["target"], "RUN")
    assert add_user.startswith("useradd --uid 1000 ")
    assert add_user.split()[-1] == CONFIG["remoteUser"]
    assert of(build["target"], "USER") == ["1000:1000"]
    assert of(build["target"], "FROM") == ["python AS devcontainer"], "the Python of the other images, by its exact tag"


def test_devcontainer_image_has_what_make_needs() -> None:
    install, _ = of("devcontainer", "RUN")
    packages = set(re.findall(r"[\w+-]+", install.partition("recommends")[2].partition("&&")[0]))
    assert packages == TOOLS | {"git", "make", "npm"}
    assert set(re.findall(r"call INSTALL,([\w+-]+)", MAKEFILE)) == TOOLS
    assert "uv==" in of("build", "RUN")[0]
    assert of("devcontainer", "COPY") == ["--from=build /usr/local/bin/uv /usr/local/bin/"]


def test_devcontainer_forwards_the_ports_of_the_makefile_to_the_same_ones() -> None:
    ports = [int(port) for port in re.findall(r"^\w+_PORT \?= (\d+)$", MAKEFILE, re.MULTILINE)]
    assert sorted(CONFIG["forwardPorts"]) == sorted(ports)
    attributes = {int(port): values for port, values in CONFIG["portsAttributes"].items()}
    assert attributes.keys() == set(ports)
    # MLflow and Prefect refuse requests whose Host has another port.
    assert all(values["requireLocalPort"] for values in attributes.values())
    assert CONFIG["otherPortsAttributes"] == {"onAutoForward": "ignore"}


def test_devcontainer_has_the_editor_check_params_yaml() -> None:
    editor = CONFIG["customizations"]["vscode"]
    assert {"ms-python.python", "redhat.vscode-yaml"} <= set(editor["extensions"])
    assert editor["settings"]["python.defaultInterpreterPath"] == "${containerWorkspaceFolder}/.venv/bin/python"
    first_line = (ROOT / "params.yaml").read_text().splitlines()[0]
    schema = first_line.removeprefix("# yaml-language-server: $schema=")
    assert json.loads((ROOT / schema).read_text())["$schema"]
