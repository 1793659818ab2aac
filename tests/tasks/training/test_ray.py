"""Real Ray workers on this machine."""

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from prefect import flow

from llm.config import GPTConfig, TrainConfig
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.errors import UserError
from llm.formats.tokenizer_json import load_tokenizer
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.language_model import continuations, objective
from llm.training.checkpoint import Checkpoints
from llm.training.loop import train
from tasks.training.fit import fit, training_run
from tasks.training.ray import STOP, Cluster, train_on_ray
from tasks.training.setup import Throughput, Trained, TrainingSetup

pytestmark = pytest.mark.slow

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
DATA = Path("data/processed/corpus")
STEPS = {"steps": 12, "evaluate_every": 6, "checkpoint_every": 2}
CONFIG = TrainConfig(seed=1, batch_size=8, optimizer="muon", learning_rate=2e-3, muon_learning_rate=2e-3, **STEPS)
KILLED_AT, STOPPED_AT = 9, 17
"""Batches; two make a step."""


def prepare(params: TrainConfig) -> TrainingSetup:
    """A small GPT on the tiny text."""
    torch.manual_seed(params.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(DATA / "tokenizer.json")
    sizes = {"context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}
    gpt = GPT(GPTConfig(**sizes, vocabulary_size=encoding.n_vocab))
    train_windows, validation_windows = [TokenWindows(DATA, split, 32) for split in ("train", "validation")]
    goal = objective(gpt, params, train_windows, validation=validation_windows, compute=CPU, evaluation_batches=3)
    return TrainingSetup(LoadedModel(gpt, encoding), goal, compute=CPU, throughput=Throughput("tokens", 256))


def prepare_with_faults(params: TrainConfig, stage: int) -> TrainingSetup:
    """The same, but a worker is killed once, and one terminates the process `stage` and waits for its request."""
    setup = prepare(params)

    def loss(model: torch.nn.Module, index: int) -> torch.Tensor:
        killed = Path("killed")
        if index == KILLED_AT and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if index == STOPPED_AT:
            os.kill(stage, signal.SIGTERM)
            while not [*Path().glob(f".threestage/stages/pretrain/*/{STOP}")]:
                time.sleep(0.01)
        return setup.objective.loss(model, index)

    return replace(setup, objective=replace(setup.objective, loss=loss))


def sample(setup: TrainingSetup) -> list[str]:
    """What people read at an evaluation."""
    return continuations(setup.loaded, ("the cat",), tokens=8, seed=1)


@flow
def learn(prepare: Callable, params: TrainConfig) -> Trained:
    """A stage that trains."""
    with training_run(params, {"train": DATA / "train.bin"}) as checkpoints:
        return fit(prepare, params, checkpoints, samples=sample)


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all, as starting one takes seconds.

    Workers can't import tests: this module goes to them by value, as a stage's own, `__main__`, does.
    """
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"  # which is what the end of a training waits for
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with Cluster("local", 2).connected() as ray:
        assert signal.getsignal(signal.SIGTERM) == on_sigterm  # which Ray replaces by one that ends this process
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield


@pytest.fixture
def stage(project_copy, token_files, mlflow_store, prefect_api, monkeypatch):
    """A project in which this process runs the stage `pretrain` on the tiny text with two workers."""
    monkeypatch.chdir(project_copy)
    shutil.copytree(token_files, DATA)
    monkeypatch.setenv("DVC_STAGE", "pretrain")
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    monkeypatch.setenv("THREESTAGE_WORKERS", "2")


@pytest.mark.usefixtures("stage", "cluster")
def test_two_workers_that_lose_one_and_are_stopped_learn_what_one_process_learns(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tasks")
    monkeypatch.setattr("tasks.training.fit.leave_soon", lambda: None)  # which ends this process
    with pytest.raises(InterruptedError, match="stopped after step 9 of 12, with a checkpoint"):
        learn(partial(prepare_with_faults, stage=os.getpid()), CONFIG)
    assert Path("killed").exists()
    monkeypatch.delenv("THREESTAGE_RAY")  # one process goes on from the workers' checkpoint
    learned = learn(prepare, CONFIG)
    setup = prepare(CONFIG)
    expected = train(setup.loaded.model, CONFIG, setup.objective)
    assert [row["step"] for row in learned.history] == [row["step"] for row in expected] == [*range(1, 13)]
    (run,) = mlflow.search_runs(output_format="list")
    for name in ("train_loss", "validation_loss", "gradient_norm"):
        points = [(row["step"], pytest.approx(row[name], abs=1e-4)) for row in expected if name in row]
        logged = MlflowClient().get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in logged] == points
    for name, weight in learned.setup.loaded.model.named_parameters():
        # Rounding grows with the steps of Muon: by norm, to 0.8 % of a matrix in 50 of them as measured.
        expected_weight = setup.loaded.model.get_parameter(name)
        assert torch.linalg.vector_norm(weight - expected_weight) <= 0.02 * torch.linalg.vector_norm(expected_weight)
    samples = [record.getMessage() for record in caplog.records if record.name == "tasks.training.progress"]
    assert len([text for text in samples if text.startswith("  the cat")]) == 2


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("batch_size", "workers", "reason"), [(7, 2, "7 is no multiple of 2"), (4096, 4096, "4096")])
def test_workers_that_can_not_share_a_batch_or_have_no_core_are_refused(tmp_path, batch_size, workers, reason):
    with pytest.raises(UserError, match=reason):
        train_on_ray(
            Cluster("local", workers),
            prepare,
            CONFIG.model_copy(update={"batch_size": batch_size}),
            checkpoints=Checkpoints(tmp_path),
            report=lambda row, seconds: None,
            stop=lambda: False,
            samples=sample,
        )


@pytest.mark.parametrize(("variable", "value"), [("THREESTAGE_RAY", "yes"), ("THREESTAGE_WORKERS", "0")])
def test_invalid_variable_is_named(monkeypatch, variable, value):
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}={value}"):
        Cluster.asked_for()


def test_ray_is_off_without_the_variable(monkeypatch):
    monkeypatch.delenv("THREESTAGE_RAY", raising=False)
    assert Cluster.asked_for() is None
