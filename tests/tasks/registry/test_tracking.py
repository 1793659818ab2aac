import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient

from llm.config import Config
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import add_facts, log_steps, stage_run
from tasks.stages.hashes import fingerprint, inputs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


class Inner(Config):
    rate: float = 0.5


class Settings(Config):
    seed: int = 3
    inner: Inner = Inner()
    prompts: tuple[str, ...] = ("a", "b")


@pytest.fixture(scope="module")
def store(ready_store, tmp_path_factory):
    """One database for all."""
    return f"sqlite:///{shutil.copy(ready_store, tmp_path_factory.mktemp('mlflow') / 'mlflow.db')}"


@pytest.fixture
def stage(tmp_path, monkeypatch, store):
    """A project in which this process runs the stage `train`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("DVC_STAGE", "train")
    Path("data").write_text(tmp_path.name)
    Path("params.yaml").write_text("seed: 3\n")
    Path("dvc.yaml").write_text("stages: {train: {cmd: 'true', deps: [data], outs: [model]}}")
    Repo.init(no_scm=True)


def read(run):
    return MlflowClient().get_run(run.info.run_id)


def test_stage_run_holds_parameters_facts_and_project_files(stage, store, capfd):
    with stage_run(Settings()) as run:
        mlflow.log_metric("loss", 2.5)
        add_facts(device="cpu")
    assert capfd.readouterr().err == ""
    first = read(run)
    assert (first.info.status, first.info.run_name) == ("FINISHED", "train")
    assert first.data.params == {"seed": "3", "inner.rate": "0.5", "prompts.0": "a", "prompts.1": "b"}
    assert first.data.metrics["loss"] == 2.5
    assert (first.data.tags["threestage.device"], first.data.tags["threestage.commit"]) == ("cpu", "none")
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/params.yaml") == "seed: 3\n"
    location = mlflow.get_experiment_by_name("threestage").artifact_location
    assert location == str(Path(store.removeprefix("sqlite:///")).with_name("mlartifacts"))


KILLED = """
import os
from tasks.registry.tracking import stage_run
with stage_run(fingerprint="k") as run:
    print(run.info.run_id, flush=True)
    os._exit(9)
"""


def statuses(*runs):
    return [MlflowClient().get_run(run).info.status for run in runs]


def test_stage_run_ends_a_killed_run_of_its_stage_and_resumes_the_training_of_its_own_workspace(
    stage, tmp_path_factory, monkeypatch
):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (9, "")
    killed = ended.stdout.strip()
    configure_tracking()
    experiment = mlflow.get_experiment_by_name("threestage").experiment_id
    tags = {"threestage.stage": "train", "threestage.workspace": "another machine:/project"}
    others = MlflowClient().create_run(experiment, tags=tags).info.run_id
    assert statuses(killed, others) == ["RUNNING"] * 2
    with stage_run():  # of other parameters
        assert statuses(killed, others) == ["KILLED", "RUNNING"]
    with stage_run(fingerprint="k") as again:
        assert again.info.run_id == killed
    assert statuses(killed, others) == ["FINISHED", "RUNNING"]
    with pytest.raises(RuntimeError), stage_run(fingerprint="k") as unfinished:
        raise RuntimeError
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with stage_run(fingerprint="k") as elsewhere:
        assert elsewhere.info.run_id != unfinished.info.run_id


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_stage_run_resumes_an_interrupted_or_failed_run_of_the_same_fingerprint(stage, error, status):
    key = fingerprint(inputs("train"))
    with pytest.raises(error), stage_run(fingerprint=key) as first:
        raise error
    assert read(first).info.status == status
    with stage_run(fingerprint=key) as second:
        pass
    with stage_run(fingerprint=key) as third:
        pass
    assert second.info.run_id == first.info.run_id
    assert read(second).info.status == "FINISHED"
    assert third.info.run_id != first.info.run_id


def test_stage_run_logs_datasets_with_the_md5_that_dvc_gives_them(stage):
    Path("emails").mkdir()
    path = Path("emails/train.parquet")
    pd.DataFrame({"body": ["hi", "ho"], "words": [1, 1]}).to_parquet(path)
    with stage_run(datasets={"train": path}) as run:
        pass
    (logged,) = read(run).inputs.dataset_inputs
    assert (logged.tags[0].value, logged.dataset.name) == ("train", "emails")
    assert logged.dataset.digest == hashlib.md5(path.read_bytes()).hexdigest()
    assert logged.dataset.profile == '{"num_rows": 2, "num_elements": 4}'


def test_log_steps_keeps_measured_values_and_can_be_repeated(stage):
    rows = [{"step": step, "timestamp": 1000 + step, "loss": 1 / (step + 1)} for step in range(1200)]
    rows[600] |= {"validation": 0.5}
    with stage_run() as run:
        log_steps(run.info.run_id, rows[:700])
        log_steps(run.info.run_id, rows)
    logged = MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [metric.value for metric in logged] == [row["loss"] for row in rows]
    assert (logged[-1].step, logged[-1].timestamp) == (1199, 2199)
    (validation,) = MlflowClient().get_metric_history(run.info.run_id, "validation")
    assert (validation.step, validation.value) == (600, 0.5)
