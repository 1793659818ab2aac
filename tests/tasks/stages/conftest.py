"""Folders with the small graph of dvc_graphs.py."""

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from dvc_graphs import make_graph

from tasks.stages.dvc_process import reproduce


@pytest.fixture
def fresh_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, in which no stage ran."""
    monkeypatch.chdir(make_graph(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def once_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages but the broken one have run, for looking at."""
    folder = make_graph(tmp_path_factory.mktemp("run"))
    with chdir(folder):
        for stage in ("clean", "train"):
            reproduce(stage, {})
    return folder


@pytest.fixture
def finished_graph(once_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a copy of it."""
    monkeypatch.chdir(shutil.copytree(once_run, tmp_path, dirs_exist_ok=True))
    return tmp_path
