"""Commands in this process: imports are most of what they take."""

import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from projects import make_project


@pytest.fixture
def command_line(stage_line, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Call the `main` of a flow in a project: exit code and both outputs; `stage_line` takes back what it changed."""

    def call(folder: Path, flow: str, *arguments: str, **variables: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        for name, value in ({"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"} | variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", [flow, *arguments])
        capsys.readouterr()
        return import_module(f"flows.{flow}").main(), *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def untouched_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Code and sources of which no stage ran; look at it only."""
    return make_project(tmp_path_factory.mktemp("untouched") / "project")


@pytest.fixture
def small_project(untouched_project: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(untouched_project, tmp_path / "project", symlinks=True)
