import json
import logging
import os
import re
import shutil
import signal
import time
from pathlib import Path
from uuid import UUID

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import flow
from projects import change_params
from real_servers import Runs
from safetensors.torch import load_file

from llm.device import Compute
from llm.errors import UserError
from llm.loaded_model import LoadedModel
from llm.training.checkpoint import Checkpoints
from llm.training.divergence import DivergedError
from llm.training.objective import Objective
from tasks.applications.foundation.train import Train
from tasks.params import load_training
from tasks.registry.tracking import log_steps, stage_run
from tasks.stages.lock import FINISHED, KEEP
from tasks.stages.process import state_folder
from tasks.training.fit import fit, training_run
from tasks.training.progress import KEPT
from tasks.training.report import publish
from tasks.training.setup import Throughput, Trained, TrainingSetup

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context_length": 64, "steps": 60, "batch_size": 2, "dropout": 0.1}
SMALL |= {"evaluate_every": 20, "checkpoint_every": 10, "evaluation_batches": 2}
PARAMS = Train(seed=1, learning_rate=3e-2, **SMALL)
REPORT = Path("reports/training/pretrain")
INPUTS = {"train": Path("data/processed/corpus/train.bin")}


@pytest.fixture
def stage(project_copy, token_files, mlflow_store, prefect_server_for_tests, monkeypatch):
    """A project in which this process runs the stage `pretrain` on the tiny text."""
    monkeypatch.chdir(project_copy)
    monkeypatch.setenv("DVC_STAGE", "pretrain")
    shutil.copytree(token_files, "data/processed/corpus")


@flow
def learn(stop=0, ask=0, explode=0):
    """The stage's flow, on a model and an objective of a line each; gives the steps that it trained.

    It is interrupted in step `stop`, asked to stop in step `ask`, and has no finite loss in step `explode`.
    """
    seen = []

    def prepare(params):
        torch.manual_seed(params.seed)
        model = torch.nn.Linear(4, 1)

        def loss(model, index):
            seen.append(index + 1)
            if index + 1 == stop:
                raise KeyboardInterrupt
            if index + 1 == ask:
                os.kill(os.getpid(), signal.SIGTERM)
            scale = float("nan") if index + 1 == explode else 1
            return (model(torch.ones(2, 4)) - index % 3).square().mean() * scale

        def evaluate():
            return {"validation_loss": model(torch.ones(1, 4)).square().item()}

        goal = Objective(loss, evaluate, "validation_loss")
        return TrainingSetup(LoadedModel(model, None), goal, compute=CPU, throughput=Throughput("tokens", 8, 30))

    with training_run(PARAMS, INPUTS) as checkpoints:
        fit(prepare, PARAMS, checkpoints)
    return seen


def steps_of(run, metric="train_loss"):
    return [point.step for point in MlflowClient().get_metric_history(run.info.run_id, metric)]


def artifacts_of(run, folder):
    return [file.path for file in MlflowClient().list_artifacts(run.info.run_id, folder)]


def folders():
    return sorted(path.name for path in state_folder("pretrain").glob("*/"))


def test_resume_goes_on_in_the_same_mlflow_run_with_each_step_once(stage, prefect_server_for_tests, monkeypatch):
    monkeypatch.setattr("tasks.training.progress.PATIENCE", None)  # Prefect may take as long as it likes
    with pytest.raises(KeyboardInterrupt):
        learn(stop=38)
    assert len(folders()) == 1
    assert learn() == list(range(31, 61))
    assert folders() == []  # a finished run needs no checkpoints
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["weights"] == run.data.params["trained_weights"] == "5"
    assert run.data.tags["threestage.dtype"] == "float32"
    assert steps_of(run) == list(range(1, 61))
    progress = Runs(prefect_server_for_tests).page(UUID(run.data.tags["threestage.prefect"]), "pretrain")
    assert progress == 100, "Prefect shows that it has come to its end"
    assert steps_of(run, "validation_loss") == [20, 40, 60]
    names = artifacts_of(run, "checkpoints")
    assert names[-1] == "checkpoints/step-000060.safetensors"
    assert len(names) <= KEPT
    weights = load_file(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/{names[-1]}"))
    assert weights.keys() == {"weight", "bias"}


def test_checkpoints_of_a_finished_training_stay_until_dvc_has_kept_what_it_made(stage, monkeypatch):
    monkeypatch.setenv(KEEP, "1")
    assert learn() == list(range(1, 61))
    (folder,) = folders()
    assert (state_folder("pretrain") / folder / FINISHED).exists()
    assert learn() == []  # as after a crash of dvc
    monkeypatch.delenv(KEEP)
    assert learn() == []
    assert folders() == []


@pytest.mark.parametrize("ask", [38, 60])
def test_resume_after_sigterm_also_behind_the_last_step(stage, monkeypatch, ask):
    monkeypatch.setattr("tasks.training.fit.leave_soon", lambda: None)  # it would end these tests
    with pytest.raises(InterruptedError, match=f"^stopped after step {ask} of 60, with a checkpoint$"):
        learn(ask=ask)
    assert learn() == list(range(ask + 1, 61))
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert steps_of(run) == list(range(1, 61))


def test_retry_of_what_mlflow_did_not_take_holds_up_no_step(stage, monkeypatch, caplog):
    gone = True
    sent = []

    def send(run_id, rows):
        if gone:
            raise MlflowException("nobody answers")
        sent.append(len(rows))
        log_steps(run_id, rows)

    monkeypatch.setattr("tasks.training.progress.log_steps", send)
    with pytest.raises(UserError, match=r"^MLflow did not take all of the curves; the same command goes on"):
        learn()
    assert "MLflow did not take what is new: nobody answers" in caplog.text
    assert len(folders()) == 1
    gone = False
    assert learn() == []  # it was trained already
    assert sum(sent) == 60
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FINISHED"
    assert steps_of(run) == list(range(1, 61))


def test_checkpoints_outlive_a_change_of_parameters_or_code(stage, caplog):
    caplog.set_level(logging.INFO)
    code = Path("llm/model/gpt.py")
    params = Path("params.yaml")
    original_code = code.read_text()
    original_params = params.read_text()
    with pytest.raises(KeyboardInterrupt):
        learn(stop=38)
    code.write_text(original_code + "\n")
    with pytest.raises(KeyboardInterrupt):
        learn(stop=25)
    assert re.search(r"starting afresh, as llm/model changed; \S+ at step 30 stays", caplog.text)
    change_params(Path(), {"foundation": {"train": {"learning_rate": 0.5}}})
    learn()
    assert "starting afresh, as foundation.train.learning_rate changed" in caplog.text
    assert len(folders()) == 2

    code.write_text(original_code)
    params.write_text(original_params)
    assert learn() == list(range(31, 61))  # the first goes on where it was


def test_training_removes_checkpoints_of_its_stage_that_are_older_than_a_month(stage):
    for days in (1, 29, 31):
        checkpoints = Checkpoints(state_folder("pretrain") / f"{days} days old")
        checkpoints.save(10, {"model": {"weight": torch.ones(1)}})
        then = time.time() - 86_400 * days
        os.utime(checkpoints.folder, (then, then))
    learn()
    assert folders() == ["1 days old", "29 days old"]


def test_training_from_other_weights_under_the_same_name_is_another_run(stage):
    @flow
    def folder_of(weights):
        identity = {"init_from.sha256": weights}
        with training_run(PARAMS, INPUTS, identity=identity) as checkpoints:
            return checkpoints.folder.name

    first = folder_of("a")
    assert folder_of("b") != first
    assert folder_of("a") == first


def outs():
    """The bytes of the files that `pretrain` writes, by their names."""
    paths = [*Path("models/foundation").iterdir(), *REPORT.iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def test_pretraining_twice_writes_the_same_bytes_and_what_it_says_is_true(stage):
    from flows.pretrain import pretrain

    train = SMALL | {"seed": 1, "learning_rate": 3e-2}
    change_params(Path(), {"foundation": {"train": train, "evaluate": {"sample_prompts": ["the cat", ""]}}})
    params = load_training("foundation")
    pretrain(params)
    first = outs()
    shutil.rmtree("models")
    shutil.rmtree("reports")
    pretrain(params)
    assert outs() == first
    assert set(first) == {"config.json", "model.safetensors", "tokenizer.json", "curves.csv", "metrics.json"}
    metrics = json.loads(first["metrics.json"])
    curves = pd.read_csv(REPORT / "curves.csv")
    assert curves["step"].tolist() == [20, 40, 60]
    assert metrics["validation_loss"] == curves["validation_loss"].min()
    run, other = mlflow.search_runs(output_format="list")
    assert run.data.metrics["final.validation_loss"] == metrics["validation_loss"]
    assert artifacts_of(run, "report") == ["report/curves.csv", "report/metrics.json"]
    sample = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/samples/step-000060.md")
    assert sample.startswith("- the cat")
    models = mlflow.search_logged_models(output_format="list")
    assert {model.source_run_id for model in models} == {run.info.run_id, other.info.run_id}
    assert (models[0].name, models[0].params["steps"]) == ("foundation", "60")


def test_publish_reports_the_best_step_and_the_means_around_it(stage, make_gpt, encoding):
    history = [{"step": step, "train_loss": 10.0 - step} for step in range(1, 7)]
    for step, f1 in {2: 0.25, 4: 0.75, 6: 0.5}.items():
        history[step - 1] |= {"validation_f1": f1, "validation_loss": 1.0}

    @flow
    def run():
        with stage_run():
            goal = Objective(None, None, "validation_f1", lower_is_better=False)
            loaded = LoadedModel(make_gpt(), encoding)
            setup = TrainingSetup(loaded, goal, compute=CPU, throughput=Throughput("tokens", 1))
            return publish("foundation", "language_model", trained=Trained(setup, history, metrics={}))

    metrics = run()
    assert metrics == {"train_loss": 6.5, "validation_f1": 0.75, "validation_loss": 1.0, "steps": 6, "best_step": 4}
    assert json.loads((REPORT / "metrics.json").read_text()) == metrics
    assert pd.read_csv(REPORT / "curves.csv")["train_loss"].tolist() == [8.5, 6.5, 4.5]


@pytest.mark.parametrize("explode", [1, 13])  # with nothing before, and behind a message to MLflow
def test_training_that_explodes_leaves_its_whole_curve_with_each_step_once(stage, explode):
    for _ in range(2):  # the second goes on in the same run, and comes as far
        with pytest.raises(DivergedError, match=f"^step {explode}: loss nan"):
            learn(explode=explode)
    (run,) = mlflow.search_runs(output_format="list")
    assert steps_of(run) == list(range(1, explode))
