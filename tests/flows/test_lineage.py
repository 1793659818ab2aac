"""The command over a whole small project, from each model back to its pinned sources."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from projects import read_params

from tasks.registry.tree import HASH

pytestmark = pytest.mark.slow

PREFIX = "threestage-"
CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for the commands that run in it: while they do, other processes of this test run copy the shared one."""
    return shutil.copytree(project, tmp_path_factory.mktemp("lineage") / "project", symlinks=True)


def test_lineage_leads_each_model_back_to_its_pinned_sources(project: Path, command_line: CommandLine) -> None:
    values = read_params(project)
    bases = {"classifier": f"{PREFIX}foundation version 1 (challenger)  ", "assistant": "weights published  "}
    datasets = {"foundation": ["corpus"], "classifier": ["emails", "corpus"], "assistant": ["instructions"]}
    for model, names in datasets.items():
        code, text, error = command_line(project, "lineage", model)
        assert (code, error) == (0, "")
        first, *lines = [line.strip("│├└─ ") for line in text.splitlines()]
        assert first.startswith(f"{PREFIX}{model} version 1 (challenger)  ")
        for name in names:
            assert any(line.startswith(f"dataset {name}  ") for line in lines)
            assert {f"made by  stage fetch@{name}", f"made by  stage preprocess@{name}"} <= {*lines}
            for source in values["datasets"][name]["sources"]:
                assert f"{source['source']}  {source['sha256'][:HASH]}" in lines
        if model in bases:
            assert any(line.startswith(bases[model]) for line in lines)


def test_lineage_of_a_registration_is_among_the_artifacts(project: Path) -> None:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    run_id = client.get_model_version(f"{PREFIX}classifier", "1").run_id
    names = {file.path for file in client.list_artifacts(run_id, "lineage")}
    assert names >= {"lineage/lineage.txt", "lineage/stages.json"}


def test_lineage_of_an_unknown_model_is_an_error_and_a_closed_pipe_and_ctrl_c_are_none(
    project: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, text, error = command_line(project, "lineage", "spam")
    assert (code, text) == (1, "")
    assert error.startswith("error: spam: there is no such registered model; there are: threestage-")
    assert error.count("\n") == 1

    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", nobody)
        code, *_ = command_line(project, "lineage", "classifier")
        assert code == 0

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.registry.lineage.find_lineage", interrupted)
    assert command_line(project, "lineage", "classifier") == (130, "", "interrupted\n")
