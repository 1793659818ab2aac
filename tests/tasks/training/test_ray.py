"""Real Ray workers on this machine."""

import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from projects import change_params

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
from tasks.training.ray import STOP, Cluster, divide_batches, train_on_ray
from tasks.training.setup import Throughput, TrainingSetup

pytestmark = pytest.mark.slow

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
SIZES = {"vocabulary_size": 300, "context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}
CONFIG = TrainConfig(
    seed=1,
    steps=20,
    batch_size=8,
    optimizer="muon",
    learning_rate=2e-3,
    muon_learning_rate=2e-3,
    evaluate_every=10,
    checkpoint_every=5,
)


def prepare(params: TrainConfig, data: Path) -> TrainingSetup:
    """A small GPT with dropout on the tiny text."""
    torch.manual_seed(params.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(data / "tokenizer.json")
    gpt = GPT(GPTConfig(**SIZES | {"vocabulary_size": encoding.n_vocab, "dropout": 0.1}))
    train_windows, validation_windows = [TokenWindows(data, split, 32) for split in ("train", "validation")]
    goal = objective(gpt, params, train_windows, validation=validation_windows, compute=CPU, evaluation_batches=3)
    return TrainingSetup(LoadedModel(gpt, encoding), goal, compute=CPU, throughput=Throughput("tokens", 256))


def prepare_with_faults(params: TrainConfig, data: Path) -> TrainingSetup:
    """The same, but who computes batch 12 waits until it is asked to stop, and who computes batch 25 is killed once."""
    setup = prepare(params, data)
    killed = data.parent / "killed"

    def loss(model: torch.nn.Module, index: int) -> torch.Tensor:
        if index == 25 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        while index == 12 and not (data.parent / "asked").exists():
            time.sleep(0.01)
        return setup.objective.loss(model, index)

    return replace(setup, objective=replace(setup.objective, loss=loss))


def sample(setup: TrainingSetup) -> list[str]:
    """What people read at an evaluation."""
    return continuations(setup.loaded, ("the cat",), tokens=8, seed=1)


@pytest.fixture(scope="module", autouse=True)
def _ray():
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
def data(tmp_path, token_files):
    shutil.copytree(token_files, tmp_path / "data")
    return tmp_path / "data"


def learn(data: Path, *, config=CONFIG, stop_after: int | None = None, workers: int = 2) -> list[dict]:
    """Train on two workers; the rows that they report."""
    rows = []

    def stop() -> bool:
        if (data.parent / "checkpoints" / STOP).exists():
            (data.parent / "asked").touch()
        return stop_after is not None and len(rows) >= stop_after

    train_on_ray(
        Cluster("local", workers),
        partial(prepare_with_faults, data=data),
        config,
        checkpoints=Checkpoints(data.parent / "checkpoints"),
        report=lambda row, seconds: rows.append(row),
        stop=stop,
        samples=sample,
    )
    return rows


def test_two_workers_that_are_stopped_and_lose_one_learn_what_one_process_learns(data, tmp_path):
    with pytest.raises(InterruptedError, match=r"stopped after step \d+ of 20, with a checkpoint"):
        learn(data, stop_after=3)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert 3 <= checkpoints.newest() < 20
    rows = learn(data)
    assert (tmp_path / "killed").exists()
    params = divide_batches(CONFIG, 2)
    setup = prepare(params, data)
    expected = train(setup.loaded.model, params, setup.objective)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for name in ("train_loss", "validation_loss", "gradient_norm"):
        values = [row[name] for row in rows if name in row]
        assert values == pytest.approx([row[name] for row in expected if name in row], abs=1e-4)
    groups, state = checkpoints.load()
    assert state["step"] == 20
    for name, weight in groups["best"].items():
        # Rounding grows with the steps of Muon: by norm, to 0.8 % of a matrix in 50 of them as measured.
        learned = setup.loaded.model.get_parameter(name).detach()
        assert torch.linalg.vector_norm(weight - learned) <= 0.02 * torch.linalg.vector_norm(learned)
    assert [row["step"] for row in rows if row.get("samples")] == [10, 20]


def test_stage_on_ray_trains_and_logs_its_curve(
    project_copy, token_files, mlflow_store, prefect_api, command_line, monkeypatch
):
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context_length": 64, "batch_size": 2}
    short = {"steps": 8, "evaluate_every": 4, "checkpoint_every": 4, "evaluation_batches": 1, "dropout": 0.0}
    change_params(project_copy, {"foundation": {"train": shape | short}})
    shutil.copytree(token_files, project_copy / "data/processed/corpus")
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    monkeypatch.setenv("THREESTAGE_WORKERS", "2")
    code, _, error = command_line(project_copy, "flows.pretrain")
    assert code == 0, error
    assert "2 workers on Ray at local" in (project_copy / ".threestage/stages/pretrain/log").read_text()
    curves = pd.read_csv(project_copy / "reports/training/pretrain/curves.csv")
    assert curves["step"].tolist() == [4, 8]
    assert curves["validation_loss"].is_monotonic_decreasing


@pytest.mark.parametrize(("batch_size", "workers", "reason"), [(7, 2, "7 is no multiple of 2"), (4096, 4096, "4096")])
def test_workers_that_can_not_share_a_batch_or_have_no_core_are_refused(data, batch_size, workers, reason):
    config = CONFIG.model_copy(update={"batch_size": batch_size})
    with pytest.raises(UserError, match=reason):
        learn(data, config=config, workers=workers)


@pytest.mark.parametrize(("variable", "value"), [("THREESTAGE_RAY", "yes"), ("THREESTAGE_WORKERS", "0")])
def test_invalid_variable_is_named(monkeypatch, variable, value):
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}={value}"):
        Cluster.asked_for()


def test_ray_is_off_without_the_variable(monkeypatch):
    monkeypatch.delenv("THREESTAGE_RAY", raising=False)
    assert Cluster.asked_for() is None
