"""The command over a whole small project, from each model back to its pinned sources."""

import json
import os
import shutil
import sys
from xml.etree import ElementTree

import pytest
from mlflow import MlflowClient
from projects import read_params, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(project, tmp_path_factory):
    """A copy for the commands that run in it: while they do, other processes of this test run copy the shared one."""
    return shutil.copytree(project, tmp_path_factory.mktemp("lineage") / "project", symlinks=True)


@pytest.fixture(scope="module")
def graphs():
    """Graphs that the command printed, by model."""
    return {}


@pytest.fixture
def graph_of(project, graphs, command_line):
    def print_json(model):
        if model not in graphs:
            code, said, error = command_line(project, "lineage", model, "--json")
            assert code == 0, error
            graphs[model] = json.loads(said)["nodes"]
        return graphs[model]

    return print_json


def test_each_model_leads_back_to_the_sources_that_are_pinned(project, graph_of):
    values = read_params(project)
    pinned = {name: {each["sha256"] for each in block["sources"]} for name, block in values["datasets"].items()}
    datasets = {"foundation": ["corpus"], "classifier": ["emails", "corpus"], "assistant": ["instructions"]}
    for model, names in datasets.items():
        nodes = graph_of(model)
        assert nodes[0]["name"] == f"threestage-{model} version 1"
        assert {node["hash"] for node in nodes if node["kind"] == "source"} == set.union(*(pinned[it] for it in names))
        assert {node["name"] for node in nodes if node["kind"] == "dataset"} == set(names)


def test_a_base_is_its_registered_version_or_the_published_weights(graph_of):
    version, *_ = graph_of("classifier")
    assert any(key.startswith("version:threestage-foundation version 1@") for key in version["made_from"])
    version, *_ = graph_of("assistant")
    assert any(key.startswith("weights:published@") for key in version["made_from"])


def test_a_stage_says_its_parameters_seed_machine_and_commit(project, graph_of):
    nodes = {node["kind"]: node["facts"] for node in graph_of("foundation")}
    steps = read_params(project)["foundation"]["train"]["steps"]
    version, dataset, raw = nodes["version"], nodes["dataset"], nodes["raw data"]
    assert (version["parameters"]["steps"], version["seed"], version["aliases"]) == (steps, "1", ["challenger"])
    assert version["machine"].endswith(" 1 threads")
    assert version["made by"] == "stage pretrain"
    assert len({facts["run's git commit"] for facts in (version, dataset, raw)} | {version["git commit"]}) == 1
    assert dataset["parameters"]["tokenizer"] == "bpe"
    assert dataset["libraries"].keys() >= {"numpy", "tokenizers"}
    assert raw["made by"] == "stage fetch@corpus"


def test_the_tree_and_the_picture_are_those_of_the_version(project, tmp_path):
    done = run(project, "flows.lineage", "models:/threestage-classifier@challenger", "--svg", str(tmp_path / "a.svg"))
    assert (done.returncode, done.stderr) == (0, "")
    first, *lines = done.stdout.splitlines()
    assert first.startswith("threestage-classifier version 1 (challenger)  ")
    assert any(line.strip("│├└─ ").startswith("threestage-foundation version 1 (challenger)  ") for line in lines)
    ElementTree.fromstring((tmp_path / "a.svg").read_text())
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    run_id = client.get_model_version("threestage-classifier", "1").run_id
    names = {file.path for file in client.list_artifacts(run_id, "lineage")}
    assert names >= {"lineage/lineage.json", "lineage/lineage.svg", "lineage/stages.json"}


def test_what_is_not_there_and_a_folder_that_is_no_file_are_one_line_each(project, command_line, tmp_path):
    code, said, error = command_line(project, "lineage", "spam")
    assert (code, said) == (1, "")
    assert error.startswith("error: spam: there is no such registered model; there are: threestage-")
    assert error.count("\n") == 1
    code, _, error = command_line(project, "lineage", "classifier", "--svg", str(tmp_path))
    assert (code, error.count("\n")) == (1, 1)
    assert error.startswith("error: ")
    assert str(tmp_path) in error


def test_a_reader_who_has_seen_enough_and_ctrl_c_end_it_without_a_traceback(project, command_line, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as nobody, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", nobody)
        code, *_ = command_line(project, "lineage", "classifier", "--json")
        assert code == 0

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tasks.registry.ancestry.ancestry", interrupted)
    assert command_line(project, "lineage", "classifier") == (130, "", "interrupted\n")
