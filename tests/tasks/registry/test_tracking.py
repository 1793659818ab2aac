import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient
from prefect.exceptions import TerminationSignal

from llm.config import Config
from llm.errors import UserError
from tasks.registry.parent_run import PARENT_OF, close_left_runs, parent_run
from tasks.registry.record import read_record
from tasks.registry.store import configure_tracking
from tasks.registry.tracking import PARENT_RUN, log_inputs, log_steps, made_by, stage_run
from tasks.stages.hashes import Hashes, fingerprint, inputs
from tasks.stages.lock import workspace

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
    Path("dvc.yaml").write_text("stages: {train: {cmd: 'true', deps: [data], outs: [model]}}")
    Repo.init(no_scm=True)


def read(run) -> mlflow.entities.Run:
    return MlflowClient().get_run(run.info.run_id)


def test_stage_run_holds_parameters_and_outs_and_is_found_by_its_outs(stage, store, capfd):
    with stage_run(Settings()) as run:
        Path("model").write_text("weights")
        mlflow.log_metric("loss", 2.5)
    assert capfd.readouterr().err == ""
    first = read(run)
    assert first.info.status == "FINISHED"
    assert first.info.run_name == "train"
    assert first.data.params == {"seed": "3", "inner.rate": "0.5", "prompts.0": "a", "prompts.1": "b"}
    assert first.data.metrics["loss"] == 2.5
    assert first.data.tags["threestage.seed"] == "3"
    outs = {"model": hashlib.md5(b"weights").hexdigest()}
    assert read_record(run.info.run_id).hashes.outs == outs
    with stage_run(Settings()):
        Path("model").write_text("others")
    assert made_by("train", outs).info.run_id == run.info.run_id
    assert made_by("train", {"model": "0" * 32}) is None
    assert made_by("test", outs) is None
    experiment = mlflow.get_experiment_by_name("threestage")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"  # opens as trainings
    assert experiment.artifact_location == str(Path(store.removeprefix("sqlite:///")).with_name("mlartifacts"))
    mlflow.set_experiment("another")  # whose bytes were pushed here
    assert made_by("train", outs).info.run_id == run.info.run_id


def test_store_moves_with_its_folder_and_leaves_other_artifacts(stage, ready_store, tmp_path, monkeypatch):
    before = tmp_path / "before"
    after = tmp_path / "after, moved"
    before.mkdir()
    shutil.copy(ready_store, before / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{before}/mlflow.db")
    with stage_run(Settings()) as run:
        mlflow.log_text("hello", "said.txt")
    MlflowClient().create_experiment("another", artifact_location="/elsewhere/mlartifacts")
    shutil.copytree(before, after)
    Path(run.info.artifact_uri, "said.txt").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{after}/mlflow.db")
    configure_tracking()
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/said.txt") == "hello"
    with stage_run(Settings()) as another:
        mlflow.log_text("here", "said.txt")
    assert Path(another.info.artifact_uri).is_relative_to(after)
    assert len(list(before.rglob("said.txt"))) == 0
    assert mlflow.get_experiment_by_name("another").artifact_location == "/elsewhere/mlartifacts"


KILLED = """
import os
from tasks.registry.parent_run import parent_run
from tasks.registry.tracking import stage_run
with parent_run("retrain", "All of it."), stage_run(fingerprint="k") as run:
    print(os.environ["THREESTAGE_PARENT_RUN"], run.info.run_id, flush=True)
    os._exit(9)
"""


def statuses(*runs: str) -> list[str]:
    return [MlflowClient().get_run(run).info.status for run in runs]


def open_run(**tags: str) -> str:
    """A run that a killed process left open."""
    experiment = mlflow.get_experiment_by_name("threestage").experiment_id
    return MlflowClient().create_run(experiment, tags=tags).info.run_id


def test_stage_run_ends_a_killed_run_of_its_stage_and_resumes_the_training_of_its_own_workspace(
    stage, tmp_path_factory, monkeypatch
):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (9, "")
    parent, killed = ended.stdout.split()
    configure_tracking()
    tags = {"threestage.stage": "train", "threestage.workspace": "another machine:/project"}
    others = open_run(**tags)
    assert statuses(parent, killed, others) == ["RUNNING"] * 3
    with stage_run():  # of other parameters
        assert statuses(killed, others) == ["KILLED", "RUNNING"]
    with stage_run(fingerprint="k") as again:
        assert again.info.run_id == killed
    close_left_runs()
    assert statuses(parent, killed, others) == ["KILLED", "FINISHED", "RUNNING"]
    with pytest.raises(RuntimeError), stage_run(fingerprint="k") as unfinished:
        raise RuntimeError
    monkeypatch.delenv("DVC_STAGE")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with stage_run(fingerprint="k") as elsewhere:
        assert elsewhere.info.run_id != unfinished.info.run_id
    assert "mlflow.parentRunId" not in read(elsewhere).data.tags


def test_close_left_runs_ends_the_runs_below_a_killed_retrain_of_this_folder(stage):
    configure_tracking()
    parents = [open_run(**{PARENT_OF: folder}) for folder in (workspace(), "another machine:/project")]
    children = [open_run(**{"mlflow.parentRunId": parent}) for parent in parents]
    close_left_runs()
    assert statuses(*parents, *children) == ["KILLED", "RUNNING", "KILLED", "RUNNING"]


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (UserError("2 failed"), "FAILED"), (TerminationSignal(15), "KILLED")]
)
def test_parent_run_status_says_how_the_retrain_ended_and_no_run_below_it_stays_open(stage, error, status):
    with suppress(type(error) if error else ()), parent_run("retrain", "All of it."):
        parent = os.environ[PARENT_RUN]
        with stage_run() as child:
            pass
        killed = open_run(**{"mlflow.parentRunId": parent})
        if error:
            raise error
    assert PARENT_RUN not in os.environ
    assert statuses(parent, child.info.run_id, killed) == [status, "FINISHED", "KILLED"]
    run = MlflowClient().get_run(parent)
    assert (run.info.run_name, run.data.tags["mlflow.note.content"]) == ("retrain", "All of it.")
    assert read(child).data.tags["mlflow.parentRunId"] == parent


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_stage_run_resumes_an_interrupted_or_failed_run_of_the_same_fingerprint(stage, error, status):
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


# ---- what is logged


def test_stage_run_logs_datasets_with_the_md5_that_dvc_gives_them(stage):
    Path("emails").mkdir()
    pd.DataFrame({"body": ["hi", "ho"], "words": [1, 1]}).to_parquet("emails/train.parquet")
    Path("emails/validation.bin").write_bytes(bytes(10))
    datasets = {"train": Path("emails/train.parquet"), "validation": Path("emails/validation.bin")}
    with stage_run(datasets=datasets) as run:
        pass
    datasets = {logged.tags[0].value: logged.dataset for logged in read(run).inputs.dataset_inputs}
    assert datasets["train"].digest == hashlib.md5(Path("emails/train.parquet").read_bytes()).hexdigest()
    assert datasets["train"].profile == '{"num_rows": 2, "num_elements": 4}'
    assert datasets["validation"].digest == hashlib.md5(bytes(10)).hexdigest()
    assert {dataset.name for dataset in datasets.values()} == {"emails"}


def test_log_inputs_gives_all_versions_the_same_names(stage):
    Path("data").unlink()
    Path("data/processed/emails").mkdir(parents=True)
    for split, rows in (("train", 3), ("test", 2)):
        pd.DataFrame({"body": ["hi"] * rows}).to_parquet(f"data/processed/emails/{split}.parquet")
    Path("data/processed/emails/meta.json").write_text("{}")
    train = {"steps": 900, "lora": {"rank": 4}, **{f"k{number}": number for number in range(200)}}
    training = Hashes({"applications.mail.train": train, "torch": "2.13.0"}, {"data/processed/emails": "d1.dir"}, {})
    configure_tracking()
    with mlflow.start_run() as run:
        log_inputs(training, Hashes({"applications.mail.evaluate": {"batch_size": 8}}, {}, {}))
    run = read(run)
    named = {"train.steps": "900", "train.lora.rank": "4", "evaluate.batch_size": "8", "libraries.torch": "2.13.0"}
    assert run.data.params == named | {f"train.k{number}": str(number) for number in range(200)}
    profiles = {logged.tags[0].value: logged.dataset.profile for logged in run.inputs.dataset_inputs}
    assert profiles == {split: f'{{"num_rows": {n}, "num_elements": {n}}}' for split, n in (("train", 3), ("test", 2))}


def test_log_steps_keeps_measured_values_and_can_be_repeated(stage):
    rows: list[dict[str, float | None]] = []
    for step in range(1200):
        validation = None if step % 2 else 0.5
        rows.append({"step": step, "timestamp": 1000 + step, "loss": 1 / (step + 1), "validation": validation})
    with stage_run() as run:
        log_steps(run.info.run_id, rows[:700])
        log_steps(run.info.run_id, rows)
    steps = MlflowClient().get_metric_history(run.info.run_id, "loss")
    logged = [(metric.step, metric.timestamp, metric.value) for metric in steps]
    assert logged == [(row["step"], row["timestamp"], row["loss"]) for row in rows]
    assert len(MlflowClient().get_metric_history(run.info.run_id, "validation")) == 600
