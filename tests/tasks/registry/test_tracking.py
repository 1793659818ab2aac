import hashlib
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from dvc.repo import Repo
from mlflow import MlflowClient

from llm.config import Config
from llm.errors import UserError
from tasks.registry import server, tracking
from tasks.registry.record import read_record
from tasks.registry.tracking import configure_tracking, log_inputs, log_steps, made_by, namespace, parent_run, stage_run
from tasks.stages.hashes import Hashes, fingerprint, inputs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


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
    assert run.data.tags["threestage.seed"] == "3"
    assert read_record(run.info.run_id).hashes.outs == {"model": hashlib.md5(b"weights").hexdigest()}


def test_artifacts_lie_in_mlartifacts_beside_the_database(stage, store):
    configure_tracking()
    location = mlflow.get_experiment_by_name("threestage").artifact_location
    assert location == str(Path(store.removeprefix("sqlite:///")).with_name("mlartifacts"))


def test_a_store_moves_with_its_folder(stage, ready_store, tmp_path, monkeypatch):
    before, after = tmp_path / "before", tmp_path / "after, moved"
    before.mkdir()
    shutil.copy(ready_store, before / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{before}/mlflow.db")
    with stage_run(Settings()) as run:
        mlflow.log_text("hello", "said.txt")
    shutil.copytree(before, after)
    Path(run.info.artifact_uri, "said.txt").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{after}/mlflow.db")
    configure_tracking()
    assert mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/said.txt") == "hello"
    with stage_run(Settings()) as another:
        mlflow.log_text("here", "said.txt")
    assert Path(another.info.artifact_uri).is_relative_to(after)
    assert len(list(before.rglob("said.txt"))) == 0


def test_only_what_lay_in_the_moved_folder_is_told_to_the_store(stage, ready_store, tmp_path, monkeypatch):
    (folder := tmp_path / "moved" / "mlartifacts").mkdir(parents=True)
    shutil.copy(ready_store, store := folder.with_name("mlflow.db"))
    client = MlflowClient(f"sqlite:///{store}")
    for name, place in (("threestage", "/before/mlartifacts"), ("another", "/elsewhere/mlartifacts")):
        client.create_experiment(name, artifact_location=place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    configure_tracking()
    places = [client.get_experiment_by_name(name).artifact_location for name in ("threestage", "another")]
    assert places == [str(folder), "/elsewhere/mlartifacts"]


def test_mlflow_opens_the_experiment_as_trainings(stage):
    configure_tracking()
    assert mlflow.get_experiment_by_name("threestage").tags["mlflow.experimentKind"] == "custom_model_development"


def test_runs_of_a_retraining_hang_under_one_run_and_a_killed_one_is_closed(stage):
    killed = "import os\nfrom tasks.registry.tracking import parent_run\n"
    killed += "with parent_run('retrain', 'All of it.'):\n  os._exit(9)"
    assert subprocess.run([sys.executable, "-c", killed], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 9
    with parent_run("retrain", "All of it."), stage_run() as child:
        pass
    parent = MlflowClient().get_run(read(child).data.tags["mlflow.parentRunId"])
    assert (parent.info.run_name, parent.data.tags["mlflow.note.content"]) == ("retrain", "All of it.")
    assert parent.info.status == "FINISHED"
    with stage_run() as alone:
        pass
    assert "mlflow.parentRunId" not in read(alone).data.tags
    runs = mlflow.search_runs(filter_string="attributes.run_name = 'retrain'", output_format="list")
    assert sorted(run.info.status for run in runs) == ["FINISHED", "KILLED"]


def test_names_are_ones_own_on_a_server_that_others_use(monkeypatch):
    assert namespace() == "threestage"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert re.fullmatch(r"threestage\.\w+\.\w+", namespace())
    with monkeypatch.context() as nobody:
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            nobody.delenv(name, raising=False)
        nobody.setattr("pwd.getpwuid", {}.__getitem__)
        with pytest.raises(UserError, match="nobody knows who you are: set THREESTAGE_NAMESPACE"):
            namespace()
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "team")
    assert namespace() == "team"


def test_a_namespace_holds_no_dash_after_which_a_models_name_begins(monkeypatch):
    monkeypatch.setenv("THREESTAGE_NAMESPACE", "threestage-classifier")
    with pytest.raises(UserError, match=r"^THREESTAGE_NAMESPACE=threestage-classifier: only letters, digits, \. and _"):
        namespace()
    monkeypatch.delenv("THREESTAGE_NAMESPACE")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "anna-maria")
    assert namespace().startswith("threestage.anna_maria.")


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "it refuses (401); set MLFLOW_TRACKING_USERNAME"), (503, "it answers 503")]
)
def test_a_server_that_refuses_is_said_in_a_line(stage, monkeypatch, answering, status, reason):
    with answering(status) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        with pytest.raises(UserError, match=re.escape(f"MLFLOW_TRACKING_URI={url}: {reason}")):
            configure_tracking()


def test_a_server_that_is_down_is_said(stage, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI=http://127.0.0.1:9: nobody answers"):
        configure_tracking()


def test_a_server_that_listens_and_never_answers_is_said_after_the_time_that_it_has(stage, monkeypatch):
    assert server.ANSWERS_WITHIN < 10
    monkeypatch.setattr(server, "ANSWERS_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url := f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(UserError, match=f"^MLFLOW_TRACKING_URI={url}: nobody answers"):
            configure_tracking()


def test_a_deleted_experiment_is_said_in_a_line(stage, mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_store}")
    configure_tracking()
    MlflowClient().delete_experiment(mlflow.get_experiment_by_name("threestage").experiment_id)
    with pytest.raises(UserError, match="deleted") as caught:
        configure_tracking()
    assert "\n" not in str(caught.value)


def test_a_store_whose_files_only_a_server_reads_is_said_before_anything_is_done(stage, mlflow_store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_store}")
    MlflowClient(f"sqlite:///{mlflow_store}").create_experiment("threestage", artifact_location="mlflow-artifacts:/1")
    with pytest.raises(UserError, match="its files are behind an MLflow server; start that, and set MLFLOW_TRACKING"):
        configure_tracking()


def test_a_store_that_is_written_to_is_not_called_broken(stage, mlflow_store, tmp_path, monkeypatch):
    (tmp_path / "mlartifacts").mkdir()
    monkeypatch.setattr(tracking, "LOCKED_FOR", 0.1)
    with sqlite3.connect(mlflow_store) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"mlflow\.db: database is locked; try again when nobody else writes to it"):
            tracking._move_artifacts(mlflow_store, tmp_path / "mlartifacts", "threestage")


def test_a_file_that_is_no_store_is_named(stage, monkeypatch, tmp_path):
    (tmp_path / "broken.db").write_text("this is no database, but it is long enough to look at" * 9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/broken.db")
    with pytest.raises(UserError, match=r"broken\.db: not a store of MLflow's"):
        configure_tracking()


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
    code = "import os\nfrom tasks.registry.tracking import stage_run\nwith stage_run(fingerprint='k') as run:\n"
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


def test_a_split_in_shards_is_an_input_with_the_md5_of_all_of_them(stage):
    folder = Path("data/processed/corpus")
    Path("data").unlink()
    folder.mkdir(parents=True)
    for name, content in (("train.00001", b"abcd"), ("train.00002", b"ef"), ("test", b"gh")):
        (folder / f"{name}.bin").write_bytes(content)
    with stage_run(datasets={"train": folder / "train.00001.bin"}) as trained, mlflow.start_run(nested=True) as version:
        log_inputs(Hashes({}, {folder.as_posix(): ""}, {}), Hashes({}, {}, {}))
    train, test = (hashlib.md5(content).hexdigest() for content in (b"abcdef", b"gh"))
    assert [each.dataset.digest for each in read(trained).inputs.dataset_inputs] == [train]
    logged = {each.tags[0].value: each.dataset.digest for each in read(version).inputs.dataset_inputs}
    assert logged == {"train": train, "test": test}


def test_what_versions_are_compared_by_is_logged_by_names_that_they_share(stage):
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
    profiles = {each.tags[0].value: each.dataset.profile for each in run.inputs.dataset_inputs}
    assert profiles == {split: f'{{"num_rows": {n}, "num_elements": {n}}}' for split, n in (("train", 3), ("test", 2))}


def test_the_run_that_made_these_very_outs_is_found(stage):
    with stage_run(Settings()) as first:
        Path("model").write_text("weights")
    with stage_run(Settings()):
        Path("model").write_text("others")
    found = made_by("train", {"model": hashlib.md5(b"weights").hexdigest()})
    assert found.info.run_id == first.info.run_id
    assert made_by("train", {"model": "0" * 32}) is None
    assert made_by("test", {"model": hashlib.md5(b"weights").hexdigest()}) is None
    mlflow.set_experiment("another")  # whose bytes were pushed here
    assert made_by("train", {"model": hashlib.md5(b"weights").hexdigest()}).info.run_id == first.info.run_id


def test_log_steps_keeps_every_step_and_leaves_out_what_was_not_measured(stage):
    rows = [{"step": step, "loss": 1 / (step + 1), "validation_loss": None if step % 2 else 0.5} for step in range(900)]
    with stage_run() as run:
        log_steps(run.info.run_id, rows)
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
