"""The command over a whole small project, from each model back to its pinned sources; and what listeners heard."""

import json
import os
import shutil
import sys
from uuid import UUID
from xml.etree import ElementTree

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from projects import change_params, read_params, run
from told import EVENTS, check, read_events, to_file

from flows.retrain import retrain
from llm.errors import UserError
from tasks.registry import openlineage
from tasks.stages.hashes import as_hashes, locked_stages
from tasks.stages.server import run_as_child

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


@pytest.fixture(scope="module")
def told(project, shared):
    """The events of each run, by its job."""
    runs = {}
    for event in read_events(shared / EVENTS):
        runs.setdefault((event["job"]["name"], event["run"]["runId"]), []).append(event)
    jobs = [job for job, _ in runs]
    assert len(jobs) == len(set(jobs))
    return {job: heard for (job, _), heard in runs.items()}


def versions(datasets):
    return {each["name"]: each["facets"]["version"]["datasetVersion"] for each in datasets}


def test_every_stage_and_registration_was_told_with_the_bytes_that_dvc_lock_has(project, told):
    stages = {name: as_hashes(stage) for name, stage in locked_stages(project / "dvc.lock").items()}
    models = ("foundation", "classifier", "assistant")
    assert told.keys() == stages.keys() | {f"register@{model}" for model in models}
    for job, heard in told.items():
        assert [event["eventType"] for event in heard] == ["START", "COMPLETE"], job
        for event in heard:
            check(event)
    for job, hashes in stages.items():
        begun, ended = told[job]
        assert versions(ended["outputs"]) == hashes.outs
        data = {path: md5 for path, md5 in hashes.deps.items() if path.split("/")[0] not in ("flows", "llm", "tasks")}
        assert versions(begun["inputs"]) == versions(ended["inputs"]) == data
    for model in models:
        trained = "pretrain" if model == "foundation" else f"finetune@{model}"
        begun, ended = told[f"register@{model}"]
        assert versions(ended["outputs"]) == {f"models:/threestage-{model}": "1"}
        path = f"models/{model}"
        assert versions(begun["inputs"])[path] == versions(told[trained][1]["outputs"])[path]


def test_tables_come_with_columns_rows_and_what_was_checked_of_them(told):
    (emails,) = (each for each in told["finetune@classifier"][0]["inputs"] if each["name"] == "data/processed/emails")
    assert {"subject", "body", "label"} <= {field["name"] for field in emails["facets"]["schema"]["fields"]}
    assert emails["inputFacets"]["inputStatistics"]["rowCount"] > 100
    checks = emails["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert len(checks) > 5
    assert all(each["success"] for each in checks)
    made = {each["name"]: each["outputFacets"]["outputStatistics"] for each in told["preprocess@emails"][1]["outputs"]}
    assert made["data/processed/emails"]["rowCount"] == emails["inputFacets"]["inputStatistics"]["rowCount"]
    assert made["data/processed/emails"]["size"] > 10_000


def test_a_run_leads_to_those_in_mlflow_and_prefect_and_one_in_mlflow_back(project, told):
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    for job in ("fetch@corpus", "pretrain", "evaluate@assistant"):
        ours = told[job][0]["run"]["facets"]["threestage_lineage"]["tags"]
        tags = client.get_run(ours["threestage.mlflow.run"]).data.tags
        assert tags["threestage.openlineage.run"] == told[job][0]["run"]["runId"]
        assert ours["threestage.prefect.flow_run"] == tags["threestage.prefect.flow_run"] != "none"


def test_a_retraining_is_told_with_its_run_in_prefect_and_with_what_ended_it(
    project, prefect_api, tmp_path, monkeypatch
):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    change_params(folder, {"foundation": {"train": {"steps": 7}}})
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setattr(openlineage, "PATIENCE", 600)  # on a busy machine
    for name, value in to_file(tmp_path / EVENTS).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="longer than it may"):
        run_as_child(retrain, {"hours": 1e-9, "stage_hours": 1})
    begun, failed = read_events(tmp_path / EVENTS)
    check(failed)
    assert [(each["job"]["name"], each["eventType"]) for each in (begun, failed)] == [
        ("retrain", "START"),
        ("retrain", "FAIL"),
    ]
    assert failed["job"]["facets"]["jobType"]["integration"] == "PREFECT"
    with get_client(sync_client=True) as client:
        flow_run = begun["run"]["facets"]["threestage_lineage"]["tags"]["threestage.prefect.flow_run"]
        assert client.read_flow_run(UUID(flow_run)).state.is_failed()
    assert failed["run"]["facets"]["errorMessage"]["message"].startswith("UserError: the run took longer than it may")
