import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient

from llm.config import Config
from tasks.lineage import fingerprint, inputs
from tasks.tracking import configure_tracking, log_steps, stage_run

ROOT = Path(__file__).parents[2]


class Inner(Config):
    rate: float = 0.5


class Settings(Config):
    seed: int = 3
    inner: Inner = Inner()
    prompts: tuple[str, ...] = ("a", "b")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for all: making its schema takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def stage(tmp_path, monkeypatch, store):
    """A project in which this process runs the stage `train`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("DVC_STAGE", "train")
    Path("data").write_text(tmp_path.name)
    Path("dvc.yaml").write_text("stages: {train: {cmd: 'true', deps: [data], outs: [model]}}")
    Repo.init(no_scm=True)


def read(run) -> mlflow.entities.Run:
    return MlflowClient().get_run(run.info.run_id)


def test_a_run_holds_parameters_lineage_and_the_outs_that_it_made(stage):
    with stage_run(Settings()) as run:
        Path("model").write_text("weights")
        mlflow.log_metric("loss", 2.5)
    run = read(run)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train"
    assert run.data.params == {"seed": "3", "inner.rate": "0.5", "prompts.0": "a", "prompts.1": "b"}
    assert run.data.metrics["loss"] == 2.5
    tags = run.data.tags
    assert tags["threestage.seed"] == "3"
    assert tags["threestage.dvc.dep.data"] == hashlib.md5(Path("data").read_bytes()).hexdigest()
    assert tags["threestage.dvc.out.model"] == hashlib.md5(b"weights").hexdigest()


def test_artifacts_lie_in_mlartifacts_beside_the_database(stage, store):
    configure_tracking()
    location = mlflow.get_experiment_by_name("threestage").artifact_location
    assert location == str(Path(store.removeprefix("sqlite:///")).with_name("mlartifacts"))


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_block_that_does_not_end_leaves_its_status_and_the_same_key_goes_on_in_its_run(stage, error, status):
    key = fingerprint(inputs("train"))
    with pytest.raises(error), stage_run(Settings(), fingerprint=key) as first:
        raise error
    assert read(first).info.status == status
    with stage_run(Settings(), fingerprint=key) as second:
        pass
    with stage_run(Settings(), fingerprint=key) as third:
        pass
    assert second.info.run_id == first.info.run_id
    assert read(second).info.status == "FINISHED"
    assert third.info.run_id != first.info.run_id


def test_a_killed_process_leaves_a_run_that_its_own_workspace_alone_goes_on_with(stage, tmp_path_factory, monkeypatch):
    code = "import os\nfrom tasks.tracking import stage_run\nwith stage_run(fingerprint='k') as run:\n"
    code += "  print(run.info.run_id, flush=True)\n  os._exit(9)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (killed.returncode, killed.stderr) == (9, "")
    with stage_run(fingerprint="k") as again:
        assert again.info.run_id == killed.stdout.strip()
    MlflowClient().update_run(again.info.run_id, status="RUNNING")
    monkeypatch.delenv("DVC_STAGE")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with stage_run(fingerprint="k") as other:
        assert other.info.run_id != again.info.run_id


def test_datasets_are_inputs_with_the_md5_that_dvc_gives_them(stage):
    Path("emails").mkdir()
    pd.DataFrame({"body": ["hi", "ho"], "words": [1, 1]}).to_parquet("emails/train.parquet")
    Path("emails/validation.bin").write_bytes(bytes(10))
    with stage_run(
        datasets={"train": Path("emails/train.parquet"), "validation": Path("emails/validation.bin")}
    ) as run:
        pass
    inputs = {each.tags[0].value: each.dataset for each in read(run).inputs.dataset_inputs}
    assert inputs["train"].digest == hashlib.md5(Path("emails/train.parquet").read_bytes()).hexdigest()
    assert inputs["train"].profile == '{"num_rows": 2, "num_elements": 4}'
    assert inputs["validation"].digest == hashlib.md5(bytes(10)).hexdigest()
    assert {each.name for each in inputs.values()} == {"emails"}


def test_log_steps_keeps_every_step_and_leaves_out_what_was_not_measured(stage):
    rows = [{"step": step, "loss": 1 / (step + 1), "validation_loss": None if step % 2 else 0.5} for step in range(900)]
    with stage_run() as run:
        start = time.perf_counter()
        log_steps(run.info.run_id, rows)
        assert time.perf_counter() - start < 2
    history = MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(row["step"], row["loss"]) for row in rows]
    assert len(MlflowClient().get_metric_history(run.info.run_id, "validation_loss")) == 450


def test_rows_with_their_time_can_be_sent_again(stage):
    rows = [{"step": step, "timestamp": 1000 + step, "loss": 0.5} for step in range(1200)]
    with stage_run() as run:
        log_steps(run.info.run_id, rows[:700])
        log_steps(run.info.run_id, rows)
    history = MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(each.step, each.timestamp) for each in history] == [(row["step"], row["timestamp"]) for row in rows]
    assert read(run).data.metrics == {"loss": 0.5}


def test_the_console_stays_quiet(stage, capfd):
    with stage_run(Settings(), datasets={}):
        pass
    assert capfd.readouterr().err == ""
