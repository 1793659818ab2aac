"""The command over a whole small project, from each model back to its pinned sources."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from projects import read_params

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"
CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for the commands that run in it: while they do, other processes of this test run copy the shared one."""
    return shutil.copytree(project, tmp_path_factory.mktemp("lineage") / "project", symlinks=True)


def pinned_sources(block: dict[str, Any]) -> set[str]:
    return {source["sha256"] for source in block["sources"]}


def test_lineage_leads_each_model_back_to_its_pinned_sources_with_the_facts_of_each_stage(
    project: Path, command_line: CommandLine
) -> None:
    values = read_params(project)
    pinned = {name: pinned_sources(block) for name, block in values["datasets"].items()}
    nodes_of: dict[str, list[dict[str, Any]]] = {}
    datasets = {"foundation": ["corpus"], "classifier": ["emails", "corpus"], "assistant": ["instructions"]}
    for model, names in datasets.items():
        code, text, error = command_line(project, "lineage", model, "--json")
        assert code == 0, error
        nodes = json.loads(text)["nodes"]
        nodes_of[model] = nodes
        assert nodes[0]["name"] == f"threestage-{model} version 1"
        hashes = {node["hash"] for node in nodes if node["kind"] == "source"}
        assert hashes == set().union(*[pinned[name] for name in names])
        assert {node["name"] for node in nodes if node["kind"] == "dataset"} == set(names)
    bases = {"classifier": "version:threestage-foundation version 1@", "assistant": "weights:published@"}
    for model, base in bases.items():
        assert any(key.startswith(base) for key in nodes_of[model][0]["made_from"])

    facts = {node["kind"]: node["facts"] for node in nodes_of["foundation"]}
    version = facts["version"]
    dataset = facts["dataset"]
    raw = facts["raw data"]
    steps = values["foundation"]["train"]["steps"]
    assert (version["parameters"]["steps"], version["seed"], version["aliases"]) == (steps, "1", ["challenger"])
    assert " 1 threads" in version["machine"]
    assert version["made by"] == "stage pretrain"
    commits = {version["commit"], version["run's commit"], dataset["run's commit"], raw["run's commit"]}
    assert len(commits) == 1
    assert dataset["parameters"]["tokenizer"] == "bpe"
    assert dataset["libraries"].keys() >= {"numpy", "tokenizers"}
    assert raw["made by"] == "stage fetch@corpus"


def test_lineage_prints_a_tree_and_a_chart_and_its_files_are_among_the_artifacts(
    project: Path, command_line: CommandLine
) -> None:
    code, text, error = command_line(project, "lineage", f"models:/{NAME}@challenger")
    assert (code, error) == (0, "")
    first, *lines = text.splitlines()
    assert first.startswith(f"{NAME} version 1 (challenger)  ")
    assert any(line.strip("│├└─ ").startswith("threestage-foundation version 1 (challenger)  ") for line in lines)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    run_id = client.get_model_version(NAME, "1").run_id
    names = {file.path for file in client.list_artifacts(run_id, "lineage")}
    assert names >= {f"lineage/{name}" for name in ("lineage.html", "lineage.json", "lineage.md", "stages.json")}
    code, chart, _ = command_line(project, "lineage", "classifier", "--mermaid")
    assert (code, chart.splitlines()[0]) == (0, "flowchart LR")


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
        code, *_ = command_line(project, "lineage", "classifier", "--json")
        assert code == 0

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.registry.lineage.find_lineage", interrupted)
    assert command_line(project, "lineage", "classifier") == (130, "", "interrupted\n")
