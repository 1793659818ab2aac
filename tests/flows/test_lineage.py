"""The command over a whole small project, from each model back to its pinned sources."""

import json
import os
import shutil
import sys

import pytest
from mlflow import MlflowClient
from projects import read_params

pytestmark = pytest.mark.slow

NAME = "threestage-classifier"


@pytest.fixture(scope="module")
def project(project, tmp_path_factory):
    """A copy for the commands that run in it: while they do, other processes of this test run copy the shared one."""
    return shutil.copytree(project, tmp_path_factory.mktemp("lineage") / "project", symlinks=True)


def test_each_model_leads_back_to_the_sources_that_are_pinned_with_the_facts_of_each_stage(project, command_line):
    values, nodes_of = read_params(project), {}
    pinned = {name: {each["sha256"] for each in block["sources"]} for name, block in values["datasets"].items()}
    datasets = {"foundation": ["corpus"], "classifier": ["emails", "corpus"], "assistant": ["instructions"]}
    for model, names in datasets.items():
        code, text, error = command_line(project, "lineage", model, "--json")
        assert code == 0, error
        nodes = nodes_of[model] = json.loads(text)["nodes"]
        assert nodes[0]["name"] == f"threestage-{model} version 1"
        assert {node["hash"] for node in nodes if node["kind"] == "source"} == set.union(*(pinned[it] for it in names))
        assert {node["name"] for node in nodes if node["kind"] == "dataset"} == set(names)
    bases = {"classifier": "version:threestage-foundation version 1@", "assistant": "weights:published@"}
    for model, base in bases.items():
        assert any(key.startswith(base) for key in nodes_of[model][0]["made_from"])

    facts = {node["kind"]: node["facts"] for node in nodes_of["foundation"]}
    version, dataset, raw = facts["version"], facts["dataset"], facts["raw data"]
    steps = values["foundation"]["train"]["steps"]
    assert (version["parameters"]["steps"], version["seed"], version["aliases"]) == (steps, "1", ["challenger"])
    assert " 1 threads" in version["machine"]
    assert version["made by"] == "stage pretrain"
    assert len({each["run's commit"] for each in (version, dataset, raw)} | {version["commit"]}) == 1
    assert dataset["parameters"]["tokenizer"] == "bpe"
    assert dataset["libraries"].keys() >= {"numpy", "tokenizers"}
    assert raw["made by"] == "stage fetch@corpus"


def test_the_tree_and_the_chart_are_those_of_the_version(project, command_line):
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


def test_an_unknown_model_is_an_error_on_one_line_and_a_closed_pipe_and_ctrl_c_are_none(
    project, command_line, monkeypatch
):
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

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.registry.lineage.find_lineage", interrupted)
    assert command_line(project, "lineage", "classifier") == (130, "", "interrupted\n")
