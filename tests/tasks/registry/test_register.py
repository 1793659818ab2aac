import json
import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from decisions import ME, aliases, compare
from mlflow import MlflowClient
from small_models import MODELS, challenger

from tasks.registry.decide import approve, reject
from tasks.registry.logged_model import find_model, log_model
from tasks.registry.register import hashes_behind, register_model, registered, version_params
from tasks.registry.tracking import log_measured, stage_run
from tasks.stages.hashes import Hashes, locked, md5_of
from tests.tasks.registry.conftest import evaluate_with

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NAME = "threestage-classifier"


def predict(version="challenger"):
    served = mlflow.pyfunc.load_model(f"models:/{NAME}@{version}")
    return served.predict(pd.DataFrame({"subject": ["the cat"], "body": ["sat"]}))["label"][0]


def test_other_models_become_challengers_that_load_and_predict_too(registered_project, capfd):
    assert registered(MODELS) == dict.fromkeys(MODELS) | {"classifier": "version 1, challenger, pending"}
    assert {model: register_model(model) for model in MODELS} == dict.fromkeys(MODELS, "1")
    assert registered(MODELS) == dict.fromkeys(MODELS, "version 1, challenger, pending")
    assert "WARNING" not in capfd.readouterr().err
    rows = {"foundation": {"prompt": ["the cat"]}, "assistant": {"instruction": ["sit"]}}
    for model, column in (("foundation", "text"), ("assistant", "output")):
        served = mlflow.pyfunc.load_model(f"models:/threestage-{model}@challenger")
        assert isinstance(served.predict(pd.DataFrame(rows[model]))[column][0], str)
    assert predict() in ("ham", "spam")


def test_version_holds_origin_metrics_evidence_and_pinned_requirements(registered_project):
    version, client = challenger(), MlflowClient()
    run = client.get_run(version.run_id)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert (run.data.tags["threestage.commit"], run.data.tags["threestage.uncommitted"]) == (commit, "")
    assert set(version.tags) == {"threestage.key", "threestage.state"}
    assert run.data.metrics == {"f1": 0.5, "accuracy": 0.75, "baseline_f1": 0.9}
    weights = locked("finetune@classifier").outs["models/classifier"]
    assert run.data.params["made_from.models/classifier"] == weights
    names = ("evaluation/metrics.json", "training/loss.csv", "card.md", "dvc.lock", "params.yaml", "profile.json")
    folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/"))
    assert all((folder / name).exists() for name in names)
    assert (folder / "dvc.lock").read_text() == Path("dvc.lock").read_text()
    model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics}["f1"] == 0.5
    requirements = Path(mlflow.pyfunc.get_model_dependencies(version.source)).read_text()
    assert f"torch=={torch.__version__.split('+')[0]}" in requirements.split()


def test_version_has_the_weights_that_its_training_logged(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "finetune@classifier")
    with stage_run() as training:
        mlflow.log_param("rate", 0.1)
        logged = log_model("classifier")
    monkeypatch.setenv("DVC_STAGE", "evaluate@classifier")
    with stage_run() as evaluation:
        log_measured({"f1": 0.5}, "test", find_model(md5_of(Path("models/classifier"))).model_id)
    monkeypatch.delenv("DVC_STAGE")
    register_model("classifier")
    evaluate_with(0.6)
    assert register_model("classifier") == "2"
    versions = MlflowClient().search_model_versions(f"name = '{NAME}'")
    assert [version.source for version in versions] == [f"models:/{logged}"] * 2
    assert len([*Path("mlartifacts").rglob("model.safetensors")]) == 1
    model = mlflow.get_logged_model(logged)
    assert (model.source_run_id, model.params) == (training.info.run_id, {"rate": "0.1"})
    assert evaluation.info.run_id in {metric.run_id for metric in model.metrics}


def test_register_finds_the_version_of_equal_bytes_and_makes_one_of_new_evidence(registered_project):
    compare("1")
    approve("classifier", "1", **ME)
    runs = len(mlflow.search_runs(output_format="list"))
    code = next(Path("llm").rglob("*.c"))
    code.write_text(f"{code.read_text()}\n// mended\n")  # newer code alone makes no version
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, champion, approved"}
    assert len(mlflow.search_runs(output_format="list")) == runs
    evaluate_with(0.6)
    assert registered(["classifier"]) == {"classifier": None}
    assert register_model("classifier") == "2"
    assert MlflowClient().get_model_version(NAME, "1").source != challenger().source  # it ships the code that measured
    evaluate_with(0.5)
    assert register_model("classifier") == "1"
    assert aliases() == ("1", None, "2")


def test_register_leaves_a_rejected_version_rejected(registered_project):
    reject("classifier", "1", **ME)
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, rejected"}


def test_register_names_uncommitted_files_in_tag_and_description(project):
    Path("params.yaml").write_text("f1: 0.5 # as it was\n")
    register_model("classifier")
    version = challenger()
    assert MlflowClient().get_run(version.run_id).data.tags["threestage.uncommitted"] == "params.yaml"
    assert "**Made with files that no commit holds: params.yaml**" in version.description


def test_params_of_versions_have_the_same_names_whatever_the_model_is_called():
    train = {"steps": 900, "lora": {"rank": 4}}
    params = {"applications.mail.train": train, "applications.mail.evaluate": {"batch_size": 8}, "torch": "2.13.0"}
    deps = {"data/processed/emails": "d1.dir", "models/published": "d2.dir", "llm/model": "d3.dir"}
    assert version_params(Hashes(params, deps, {})) == {
        "train.steps": 900,
        "train.lora.rank": 4,
        "evaluate.batch_size": 8,
        "libraries.torch": "2.13.0",
        "made_from.data/processed/emails": "d1.dir",
        "made_from.models/published": "d2.dir",
        "dataset": "emails",
    }


# ---- a registration that is killed

DIES = """
import itertools, os, signal, sys
import sqlalchemy, mlflow.store.model_registry.sqlalchemy_store
from tasks.registry.register import register_model
writes = itertools.count(1)
@sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "commit")
def count(_):
    if next(writes) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
register_model("classifier")
print(next(writes) - 1)
"""


def test_killed_registration_is_completed_by_the_next_one(registered_project):
    def register_until(write):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", DIES, str(write)]
        return subprocess.run(command, capture_output=True, text=True, env=environment).stdout.strip()

    evaluate_with(0.02)
    writes = int(register_until(0))
    for number, write in enumerate((writes // 2, writes - 1), start=3):
        evaluate_with(number / 100)
        assert register_until(write) == ""
        assert register_model("classifier") == str(number)
        assert registered(["classifier"]) == {"classifier": f"version {number}, challenger, pending"}
        assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == number
        statuses = {run.info.status for run in mlflow.search_runs(output_format="list")}
        assert "RUNNING" not in statuses


# ---- what is not registered


def test_register_error_for_a_corrupt_byte_that_dvc_does_not_see(project):
    path = Path("models/classifier/model.safetensors")
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match=r"^models/classifier: its bytes are not those of dvc.lock"):
        register_model("classifier")
    assert MlflowClient().search_registered_models() == []


def test_register_error_without_an_evaluation(project):
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    del lock["stages"]["evaluate@classifier"]
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert registered(["classifier"]) == {"classifier": None}
    with pytest.raises(ValueError, match=r"dvc.lock: stage evaluate@classifier never ran; run `dvc repro`"):
        register_model("classifier")


def test_hashes_behind_a_model_are_those_of_training_and_evaluation(project):
    hashes = hashes_behind("classifier")
    assert hashes.outs == locked("finetune@classifier").outs | locked("evaluate@classifier").outs
    assert json.dumps(hashes.params) == '{"f1": 0.5}'
