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
from decisions import ME, set_tags, states
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from small_models import MODELS, challenger

from tasks.registry.decide import approve, compared, history
from tasks.registry.logged_model import find_model, log_model
from tasks.registry.record import read_record
from tasks.registry.register import register_model, registered
from tasks.registry.tracking import log_measured, stage_run
from tasks.stages.hashes import locked, md5_of, stale
from tests.tasks.registry.conftest import enter, evaluate_with

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
NAME = "threestage-classifier"
SHIPPED = ("tasks/served.py", "llm/model/gpt.py", "tasks/data/mail/html.py")


def predict(version: str = "challenger") -> str:
    served = mlflow.pyfunc.load_model(f"models:/{NAME}@{version}")
    return served.predict(pd.DataFrame({"subject": ["the cat"], "body": ["sat"]}))["label"][0]


def mend(path: str) -> str:
    """Change a file of code; how it was."""
    before = Path(path).read_text()
    Path(path).write_text(before + "\n# mended\n")
    return before


def test_other_models_become_challengers_that_load_and_predict_too(registered_project, capfd):
    assert registered(MODELS) == dict.fromkeys(MODELS) | {"classifier": "version 1, challenger"}
    assert {model: register_model(model) for model in MODELS} == dict.fromkeys(MODELS, "1")
    assert registered(MODELS) == dict.fromkeys(MODELS, "version 1, challenger")
    assert "WARNING" not in capfd.readouterr().err
    rows = {"foundation": {"prompt": ["the cat"]}, "assistant": {"instruction": ["sit"]}}
    for model, column in (("foundation", "text"), ("assistant", "output")):
        served = mlflow.pyfunc.load_model(f"models:/threestage-{model}@challenger")
        assert isinstance(served.predict(pd.DataFrame(rows[model]))[column][0], str)
    assert predict() in ("ham", "spam")


def test_version_holds_record_metrics_evidence_and_pinned_requirements(registered_project):
    version, client = challenger(), MlflowClient()
    training, evaluation = locked("finetune@classifier"), locked("evaluate@classifier")
    record = read_record(version.run_id)
    assert record.hashes.outs == training.outs | evaluation.outs
    assert record.hashes.deps == training.deps | evaluation.deps
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    names = ("git.commit", "run.training", "run.evaluation", "uncommitted")
    assert [record.facts[name] for name in names] == [commit, "none", "none", ""]
    assert set(version.tags) == {"threestage.key", "threestage.model"}
    assert version.tags["threestage.model"] == training.outs["models/classifier"]
    assert "not in git" not in version.description
    run = client.get_run(version.run_id)
    assert run.data.metrics == {"f1": 0.5, "accuracy": 0.75, "baseline_f1": 0.9}
    assert run.data.params == {"f1": "0.5"}
    assert run.data.tags["mlflow.note.content"].startswith("Version of the classifier")
    folders = ("evaluation", "training", "card", "lineage")
    files = {file.path for folder in folders for file in client.list_artifacts(version.run_id, folder)}
    assert files >= {"evaluation/curve.csv", "evaluation/metrics.json", "training/loss.csv", "card/card.md"}
    assert {file for file in files if file.startswith("lineage")} == {"lineage/stages.json"}
    model = mlflow.get_logged_model(version.source.removeprefix("models:/"))
    assert {metric.key: metric.value for metric in model.metrics}["f1"] == 0.5
    assert (model.source_run_id, model.params["f1"]) == (version.run_id, "0.5")
    lines = Path(mlflow.pyfunc.get_model_dependencies(version.source)).read_text().split()
    assert {f"torch=={torch.__version__.split('+')[0]}", f"mlflow=={mlflow.__version__}"} <= set(lines)


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
    description = MlflowClient().get_model_version(NAME, "1").description
    assert f"[training run](#/experiments/1/runs/{training.info.run_id})" in description
    assert predict() in ("ham", "spam")


def test_register_finds_the_version_of_equal_bytes_and_makes_one_of_new_evidence(registered_project):
    client = MlflowClient()
    runs = len(mlflow.search_runs(output_format="list"))
    client.delete_registered_model_alias(NAME, "challenger")
    client.set_registered_model_alias(NAME, "champion", "1")
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, champion"}
    assert len(mlflow.search_runs(output_format="list")) == runs
    evaluate_with(0.6)
    assert registered(["classifier"]) == {"classifier": None}
    assert register_model("classifier") == "2"
    evaluate_with(0.5)
    assert register_model("classifier") == "1"
    aliases = client.get_registered_model(NAME).aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"champion": 1, "challenger": 2}
    assert [str(event).partition(",")[0] for event in history("classifier")] == [
        "version 1 approved by somebody in MLflow"
    ]


def test_register_makes_no_version_of_newer_code_and_one_after_lost_artifacts(registered_project):
    compared("classifier", "1", champion=None)
    approve("classifier", "1", **ME)
    for path in (*SHIPPED, next(map(str, Path("llm").rglob("*.c")))):
        mend(path)
    assert registered(["classifier"]) == {"classifier": "version 1, champion"}
    assert register_model("classifier") == "1"
    assert len([*Path("mlartifacts").rglob("model.safetensors")]) == 1
    assert [event.event for event in history("classifier")] == ["compared", "approved"]
    shutil.rmtree("mlartifacts")
    assert registered(["classifier"]) == {"classifier": None}
    assert register_model("classifier") == "2"
    assert registered(["classifier"]) == {"classifier": "version 2, challenger"}


def test_register_ships_the_code_that_measured_and_supersedes_the_challenger(registered_project):
    mend(SHIPPED[0])
    evaluate_with(0.6)
    assert register_model("classifier") == "2"
    assert MlflowClient().get_model_version(NAME, "1").source != challenger().source
    assert states() == {"1": "superseded"}
    evaluate_with(0.5)
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, superseded"}


def test_register_warns_when_a_person_chose_another_challenger(registered_project, caplog):
    evaluate_with(0.6)
    register_model("classifier")
    MlflowClient().set_registered_model_alias(NAME, "challenger", "1")
    evaluate_with(0.7)
    assert register_model("classifier") == "3"
    assert f"{NAME} version 3 is not the challenger: somebody chose another challenger in MLflow" in caplog.text
    assert registered(["classifier"]) == {"classifier": "version 3"}
    assert str(challenger().version) == "1"


def test_versions_of_a_copied_project_load_from_the_copy(registered_project, tmp_path_factory, monkeypatch):
    original = Path.cwd()
    enter(original, tmp_path_factory.mktemp("copy") / "project", monkeypatch)
    shutil.rmtree(original / "mlartifacts")
    assert registered(["classifier"]) == {"classifier": "version 1, challenger"}
    assert predict() in ("ham", "spam")


def test_register_leaves_a_version_deleted_that_a_person_deleted(registered_project):
    client = MlflowClient()
    client.delete_model_version(NAME, "1")
    assert registered(["classifier"]) == {"classifier": "deleted in the registry"}
    assert register_model("classifier") == "deleted in the registry"
    assert client.search_model_versions(f"name = '{NAME}'") == []
    (run,) = mlflow.search_runs(filter_string="run_name = 'register classifier'", output_format="list")
    client.delete_run(run.info.run_id)  # the way back
    assert register_model("classifier") in ("1", "2")
    evaluate_with(0.6)
    assert register_model("classifier") in ("2", "3")  # new evidence is another matter


def test_register_never_makes_a_rejected_version_challenger(registered_project):
    set_tags(MlflowClient(), "1", state="rejected")
    MlflowClient().delete_registered_model_alias(NAME, "challenger")
    assert register_model("classifier") == "1"
    assert registered(["classifier"]) == {"classifier": "version 1, rejected"}
    shutil.rmtree("mlartifacts")  # so that its bytes come back as a version of their own
    assert register_model("classifier") == "2"
    assert registered(["classifier"]) == {"classifier": "version 2"}
    evaluate_with(0.6)
    assert register_model("classifier") == "3"
    assert registered(["classifier"]) == {"classifier": "version 3, challenger"}


def test_register_makes_no_second_version_when_the_store_does_not_answer(registered_project, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise mlflow.MlflowException("503 Service Unavailable")

    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", refuse)
    with pytest.raises(mlflow.MlflowException, match="503"):
        register_model("classifier")
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 1


def test_register_names_uncommitted_parameters_in_the_description(project):
    Path("params.yaml").write_text("f1: 0.5 # as it was\n")
    register_model("classifier")
    version = challenger()
    assert "; **not in git: params.yaml**." in version.description
    assert read_record(version.run_id).facts["uncommitted"] == "not in git: params.yaml"


# ---- a registration that is killed

REGISTERS_AND_DIES = """
import itertools, os, signal, sys
import alembic.script, dvc.repo, mlflow.pyfunc, mlflow.store.model_registry.sqlalchemy_store, sqlalchemy
import mlflow.store.tracking.sqlalchemy_store, prefect.runtime, tasks.served  # once, and not in each child
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


def test_killed_registration_leaves_nothing_behind_the_next_one(registered_project, dies):
    mend("tasks/served.py")
    evaluate_with(0.02)
    writes = int(dies(0))
    moments = [1 + number * (writes - 1) // 6 for number in range(7)]
    assert len(set(moments)) == 7
    for number, moment in enumerate(moments, start=3):
        mend("tasks/served.py")
        evaluate_with(number / 100)
        assert dies(moment) == "killed"
        if number == 6:  # the registration of another version cleans up, too
            mend("tasks/served.py")
            evaluate_with(0.5 + number / 100)
        assert register_model("classifier") == str(number)
        assert states() == {str(version): "superseded" for version in range(1, number)}
        assert registered(["classifier"]) == {"classifier": f"version {number}, challenger"}
        versions = MlflowClient().search_model_versions(f"name = '{NAME}'")
        assert sorted(int(version.version) for version in versions) == list(range(1, number + 1))
        runs = mlflow.search_runs(output_format="list")
        assert sorted(run.info.run_id for run in runs) == sorted(version.run_id for version in versions)
        assert {run.info.status for run in runs} == {"FINISHED"}
        models = mlflow.search_logged_models(output_format="list")
        assert {model.status for model in models} == {LoggedModelStatus.READY}
        assert sorted(model.model_uri for model in models) == sorted(version.source for version in versions)
        assert len([*Path("mlartifacts").rglob("model.safetensors")]) == number


# ---- what is not registered


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("models/classifier/config.json", "{}", r"stage evaluate@classifier is stale, models/classifier changed"),
        ("params.yaml", "f1: 0.7\n", r"stage evaluate@classifier is stale, f1 changed since it ran: run `dvc repro`"),
        ("made/foundation/config.json", "{}", r"stage pretrain is stale, made/foundation changed"),
        ("models/classifier", None, r"models/classifier: missing, stage evaluate@classifier needs it; run"),
    ],
)
def test_register_error_for_a_stale_or_missing_model(project, path, content, reason):
    if content is None:
        shutil.rmtree(path)
        assert registered(["classifier"]) == {"classifier": None}
    else:
        Path(path).unlink()
        Path(path).write_text(content)
    with pytest.raises((ValueError, OSError), match=reason):
        register_model("classifier")
    assert MlflowClient().search_registered_models() == []


def test_register_error_for_a_corrupt_byte_that_dvc_does_not_see(project):
    assert stale("evaluate@classifier") == {}  # now DVC knows the file by its time and size
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
