"""The command over a whole small project: from each model back to the sources that params.yaml pins."""

import json
from xml.etree import ElementTree

import pytest
from mlflow import MlflowClient
from projects import read_params, run

pytestmark = pytest.mark.slow


def graph_of(project, model):
    done = run(project, "flows.lineage", model, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["nodes"]


def test_each_model_leads_back_to_the_sources_that_are_pinned(project):
    values = read_params(project)
    pinned = {name: {each["sha256"] for each in block["sources"]} for name, block in values["datasets"].items()}
    datasets = {"foundation": ["corpus"], "classifier": ["emails", "corpus"], "assistant": ["instructions"]}
    for model, names in datasets.items():
        nodes = graph_of(project, model)
        assert nodes[0]["name"] == f"threestage-{model} version 1"
        assert {node["hash"] for node in nodes if node["kind"] == "source"} == set.union(*(pinned[it] for it in names))
        assert {node["name"] for node in nodes if node["kind"] == "dataset"} == set(names)


def test_a_base_is_its_registered_version_or_the_published_weights(project):
    version, *_ = graph_of(project, "classifier")
    assert any(key.startswith("version:threestage-foundation version 1@") for key in version["made_from"])
    version, *_ = graph_of(project, "assistant")
    assert any(key.startswith("weights:published@") for key in version["made_from"])


def test_a_stage_says_its_parameters_seed_machine_and_commit(project):
    nodes = {node["kind"]: node["facts"] for node in graph_of(project, "foundation")}
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


def test_what_is_not_there_and_a_folder_that_is_no_file_are_one_line_each(project, tmp_path):
    done = run(project, "flows.lineage", "spam")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: spam: there is no such registered model; there are: threestage-")
    assert done.stderr.count("\n") == 1
    done = run(project, "flows.lineage", "classifier", "--svg", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: ")
    assert str(tmp_path) in done.stderr
