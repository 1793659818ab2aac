import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from small_models import MODELS, challenger, run

from tasks.registry.logged_model import find_model, log_model
from tasks.registry.record import read_record
from tasks.registry.register import register_model, registered
from tasks.registry.tracking import log_measured, stage_run
from tasks.stages.hashes import locked, md5_of, stale

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NAME = "threestage-classifier"


def evaluated_with(f1: float) -> None:
    Path("params.yaml").write_text(f"f1: {f1}\n")
    run("dvc", "repro", "-q")


def test_three_models_become_challengers_that_load_and_predict(project):
    assert registered(MODELS) == dict.fromkeys(MODELS)
    assert {model: register_model(model) for model in MODELS} == dict.fromkeys(MODELS, "1")
    assert registered(MODELS) == dict.fromkeys(MODELS, "version 1, challenger")
    rows = {
        "foundation": pd.DataFrame({"prompt": ["the cat"]}),
        "classifier": pd.DataFrame({"subject": ["the cat"], "body": ["sat"]}),
        "assistant": pd.DataFrame({"instruction": ["sit"]}),
    }
    columns = {"foundation": "text", "classifier": "label", "assistant": "output"}
    for model, table in rows.items():
        served = mlflow.pyfunc.load_model(f"models:/threestage-{model}@challenger")
        assert isinstance(served.predict(table)[columns[model]][0], str)


def test_a_version_holds_its_record_metrics_and_evidence(project):
    register_model("classifier")
    version = challenger()
    training, evaluation = locked("finetune@classifier"), locked("evaluate@classifier")
    record = read_record(version.run_id)
    assert record.hashes.outs == training.outs | evaluation.outs
    assert record.hashes.deps == training.deps | evaluation.deps
    assert {name: record.facts[name] for name in ("git.commit", "run.training", "run.evaluation")} == {
        "git.commit": "none",
        "run.training": "none",
        "run.evaluation": "none",
    }
    assert set(version.tags) == {"threestage.key", "threestage.model"}
    assert version.tags["threestage.model"] == training.outs["models/classifier"]
    run = MlflowClient().get_run(version.run_id)
    assert run.data.metrics == {"f1": 0.5, "accuracy": 0.75, "baseline_f1": 0.9}
    assert run.data.tags["mlflow.note.content"].startswith("Version of the classifier")
    names = {
        file.path
        for folder in ("evaluation", "training", "card", "lineage")
        for file in MlflowClient().list_artifacts(version.run_id, folder)
    }
    assert names >= {"evaluation/curve.csv", "evaluation/metrics.json", "training/loss.csv", "card/card.html"}
    model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics}["f1"] == 0.5
    assert (model.source_run_id, model.params["f1"]) == (version.run_id, "0.5")
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": 1}]


def test_a_version_has_the_weights_that_its_training_logged(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "finetune@classifier")
    with stage_run() as training:
        mlflow.log_param("rate", 0.1)
        logged = log_model("classifier")
    monkeypatch.setenv("DVC_STAGE", "evaluate@classifier")
    with stage_run() as evaluation:
        log_measured({"f1": 0.5}, "test", find_model(md5_of(Path("models/classifier"))).model_id)
    monkeypatch.delenv("DVC_STAGE")
    register_model("classifier")
    evaluated_with(0.6)
    assert register_model("classifier") == "2"
    found = MlflowClient().search_model_versions(f"name = '{NAME}'")
    assert [version.source for version in found] == [f"models:/{logged}"] * 2
    assert len([*Path("mlartifacts").rglob("model.safetensors")]) == 1
    model = mlflow.get_logged_model(logged)
    assert (model.source_run_id, model.params) == (training.info.run_id, {"rate": "0.1"})
    assert evaluation.info.run_id in {metric.run_id for metric in model.metrics}
    assert len(json.loads(model.tags["mlflow.modelVersions"])) == 2
    description = MlflowClient().get_model_version(NAME, "1").description
    assert f"[training run](#/experiments/1/runs/{training.info.run_id})" in description
    served = mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    assert served.predict(pd.DataFrame({"subject": ["the cat"]}))["label"][0] in ("ham", "spam")


def test_equal_bytes_and_evidence_make_no_new_version_and_what_people_did_stays(project):
    register_model("classifier")
    runs = len(mlflow.search_runs(output_format="list"))
    MlflowClient().delete_registered_model_alias(NAME, "challenger")
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1"}
    assert len(mlflow.search_runs(output_format="list")) == runs


def test_new_evidence_makes_a_version_old_evidence_finds_its_own_and_aliases_stay(project):
    register_model("classifier")
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    evaluated_with(0.6)
    assert registered(["classifier"]) == {"classifier": None}
    assert register_model("classifier") == "2"
    evaluated_with(0.5)
    assert register_model("classifier") == "1"
    aliases = MlflowClient().get_registered_model(NAME).aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": 1, "challenger": 2}


@pytest.mark.parametrize(
    "path", ["tasks/served.py", "llm/model/gpt.py", "llm/kernels/serving/decode.c", "tasks/data/mail.py"]
)
def test_other_shipped_code_makes_a_version(project, path):
    register_model("classifier")
    Path(path).write_text(Path(path).read_text() + "\n# mended\n")
    assert registered(["classifier"]) == {"classifier": None}
    assert register_model("classifier") == "2"


def test_code_of_another_model_makes_no_version(project):
    register_model("foundation")
    Path("tasks/data/mail.py").write_text(Path("tasks/data/mail.py").read_text() + "\n# mended\n")
    assert register_model("foundation") == "1"


def test_a_version_whose_artifacts_are_gone_is_not_up_to_date(project):
    register_model("classifier")
    shutil.rmtree("mlartifacts")
    assert registered(["classifier"]) == {"classifier": None}
    assert register_model("classifier") == "2"
    assert registered(["classifier"]) == {"classifier": "version 2, challenger"}


def test_a_copy_of_the_project_has_versions_that_load_from_itself(project, tmp_path_factory, monkeypatch):
    register_model("classifier")
    copy = shutil.copytree(Path.cwd(), tmp_path_factory.mktemp("copy") / "project", symlinks=True)
    shutil.rmtree("mlartifacts")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}/mlflow.db")
    assert registered(["classifier"]) == {"classifier": "version 1, challenger"}
    served = mlflow.pyfunc.load_model("models:/threestage-classifier@challenger")
    assert served.predict(pd.DataFrame({"subject": ["the cat"]}))["label"][0] in ("ham", "spam")


def test_a_damaged_byte_that_dvc_does_not_see_is_not_registered(project):
    assert stale("evaluate@classifier") == {}  # now DVC knows the file by its time and size
    path = Path("models/classifier/model.safetensors")
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match=r"^models/classifier: its bytes are not those of dvc.lock"):
        register_model("classifier")
    assert MlflowClient().search_registered_models() == []


def test_a_version_that_a_person_deleted_does_not_come_back(project):
    register_model("classifier")
    MlflowClient().delete_model_version(NAME, "1")
    assert registered(["classifier"]) == {"classifier": "deleted in the registry"}
    assert register_model("classifier") == "deleted in the registry"
    assert MlflowClient().search_model_versions(f"name = '{NAME}'") == []
    (run,) = mlflow.search_runs(filter_string="run_name = 'register classifier'", output_format="list")
    MlflowClient().delete_run(run.info.run_id)  # the way back
    assert register_model("classifier") in ("1", "2")
    evaluated_with(0.6)
    assert register_model("classifier") in ("2", "3")  # new evidence is another matter


REGISTERS_AND_DIES = """
import itertools, os, signal, sys
import sqlalchemy
import tasks.served
from tasks.registry.register import register_model
for moment in map(int, sys.stdin):
    if (child := os.fork()) == 0:
        writes = itertools.count(1)
        @sqlalchemy.event.listens_for(sqlalchemy.engine.Engine, "commit")
        def count(_):
            if next(writes) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        register_model("classifier")
        print(next(writes) - 1, flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        print("killed", flush=True)
"""


@pytest.fixture
def dies() -> Iterator[Callable[[int], str]]:
    """Register in a process that is killed before a write to the store, the n-th; of 0, how many writes there are."""
    command = [sys.executable, "-c", REGISTERS_AND_DIES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes) as process:

        def register_until(moment: int) -> str:
            process.stdin.write(f"{moment}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield register_until


def test_a_killed_registration_leaves_nothing_behind_the_next_one(project, dies):
    def mend() -> None:
        Path("tasks/served.py").write_text(Path("tasks/served.py").read_text() + "# mended\n")

    register_model("classifier")
    mend()
    writes = int(dies(0))
    moments = [1 + number * (writes - 1) // 9 for number in range(10)]
    assert len(set(moments)) == 10
    for number, moment in enumerate(moments, start=3):
        mend()
        assert dies(moment) == "killed"
        assert register_model("classifier") == str(number)
        assert registered(["classifier"]) == {"classifier": f"version {number}, challenger"}
        found = MlflowClient().search_model_versions(f"name = '{NAME}'")
        assert sorted(int(version.version) for version in found) == list(range(1, number + 1))
        runs = mlflow.search_runs(output_format="list")
        assert sorted(run.info.run_id for run in runs) == sorted(version.run_id for version in found)
        assert {run.info.status for run in runs} == {"FINISHED"}
        models = mlflow.search_logged_models(output_format="list")
        assert {model.status for model in models} == {LoggedModelStatus.READY}
        assert sorted(model.model_uri for model in models) == sorted(version.source for version in found)
        assert len([*Path("mlartifacts").rglob("model.safetensors")]) == number


def test_what_was_killed_is_cleaned_up_by_the_registration_of_another_version(project, dies):
    assert dies(20) == "killed"
    evaluated_with(0.6)
    assert register_model("classifier") == "1"
    assert len(mlflow.search_runs(output_format="list")) == 1
    assert len([*Path("mlartifacts").rglob("model.safetensors")]) == 1


def test_a_store_that_does_not_answer_for_its_artifacts_makes_no_second_version(project, monkeypatch):
    register_model("classifier")

    def refuse(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("503 Service Unavailable")

    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", refuse)
    with pytest.raises(mlflow.MlflowException, match="503"):
        register_model("classifier")
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 1


def test_what_is_not_in_git_stands_in_the_description(project):
    run("git", "add", ".")
    run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "all")
    Path("params.yaml").write_text("f1: 0.5 # as it was\n")
    register_model("classifier")
    version = challenger()
    assert "; **not in git: params.yaml**." in version.description
    assert read_record(version.run_id).facts["uncommitted"] == "not in git: params.yaml"
    diff = mlflow.artifacts.load_text(f"runs:/{version.run_id}/lineage/uncommitted.diff")
    assert diff.endswith("-f1: 0.5\n+f1: 0.5 # as it was\n")


def test_a_commit_that_holds_all_leaves_nothing_to_say(project):
    run("git", "add", ".")
    run("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "all")
    register_model("classifier")
    version = challenger()
    assert "not in git" not in version.description
    assert read_record(version.run_id).facts["uncommitted"] == ""
    names = [file.path for file in MlflowClient().list_artifacts(version.run_id, "lineage")]
    assert names == ["lineage/stages.json"]


def test_parameters_stand_in_the_versions_own_run(project):
    register_model("classifier")
    assert MlflowClient().get_run(challenger().run_id).data.params == {"f1": "0.5"}


def reject(version: str) -> None:
    MlflowClient().set_model_version_tag(NAME, version, "threestage.state", "rejected")
    MlflowClient().delete_registered_model_alias(NAME, "challenger")


def test_a_rejected_version_is_never_made_challenger_again(project):
    register_model("classifier")
    reject("1")
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, rejected"}
    shutil.rmtree("mlartifacts")  # so that its bytes come back as a version of their own
    assert register_model("classifier") == "2"
    assert registered(["classifier"]) == {"classifier": "version 2"}
    evaluated_with(0.6)
    assert register_model("classifier") == "3"
    assert registered(["classifier"]) == {"classifier": "version 3, challenger"}


def test_more_models_than_a_page_of_the_registry_hide_none(project):
    register_model("classifier")
    for number in range(101):
        MlflowClient().create_registered_model(f"a-{number}")
    assert registered(["classifier"]) == {"classifier": "version 1, challenger"}


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("models/classifier/config.json", "{}", r"stage evaluate@classifier is stale, models/classifier changed"),
        ("params.yaml", "f1: 0.7\n", r"stage evaluate@classifier is stale, f1 changed since it ran: run `dvc repro`"),
        ("made/foundation/config.json", "{}", r"stage pretrain is stale, made/foundation changed"),
    ],
)
def test_what_differs_from_dvc_lock_is_not_registered(project, path, content, reason):
    Path(path).unlink()
    Path(path).write_text(content)
    with pytest.raises(ValueError, match=reason):
        register_model("classifier")
    assert MlflowClient().search_registered_models() == []


def test_a_missing_model_is_not_registered(unrun):
    assert registered(MODELS) == dict.fromkeys(MODELS)
    with pytest.raises(OSError, match="models/classifier: missing, stage evaluate@classifier needs it; run"):
        register_model("classifier")


def test_a_model_without_evaluation_is_not_registered(project):
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    del lock["stages"]["evaluate@classifier"]
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert registered(["classifier"]) == {"classifier": None}
    with pytest.raises(ValueError, match=r"dvc.lock: stage evaluate@classifier never ran; run `dvc repro`"):
        register_model("classifier")


def test_requirements_are_pinned_without_a_local_build(project, capfd):
    register_model("assistant")
    assert "WARNING" not in capfd.readouterr().err
    lines = Path(mlflow.pyfunc.get_model_dependencies(challenger("assistant").source)).read_text().split()
    assert f"torch=={torch.__version__.split('+')[0]}" in lines
    assert f"mlflow=={mlflow.__version__}" in lines
    assert any(line.startswith("jinja2==") for line in lines)
