"""Real Ray workers on this machine."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from projects import change_params

from llm.chat import Chat
from llm.config import GPTConfig, LoRAConfig, TrainConfig
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.errors import UserError
from llm.formats.tokenizer_json import load_tokenizer
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.assistant import Assistant, Question, encode_examples, pack_sequences
from llm.objectives.assistant import objective as assistant_objective
from llm.objectives.classifier import Classifier, ClassifierConfig, LabelledTexts, email_text, read_texts
from llm.objectives.classifier import objective as classifier_objective
from llm.objectives.language_model import continuations, objective
from llm.training.checkpoint import Checkpoints
from llm.training.loop import train
from llm.training.workers import ALONE, Workers
from tasks.training.ray import train_on_ray
from tasks.training.ray_cluster import Cluster
from tasks.training.setup import Throughput, TrainingSetup

pytestmark = pytest.mark.slow

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
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
TEXT = "the cat sat on the mat the dog ate the hat a bird sang to the moon"
WORDS = TEXT.split()
SIZES = {"vocabulary_size": 300, "context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}

SPAM = ClassifierConfig(labels=("ham", "spam"), max_tokens=32)


def prepare_gpt(config: TrainConfig, data: Path, workers: Workers) -> TrainingSetup:
    """A small GPT on the tiny text."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(data / "tokenizer.json")
    gpt = GPT(GPTConfig(**SIZES | {"vocabulary_size": encoding.n_vocab}))
    splits = [TokenWindows(data, split, 32) for split in ("train", "validation")]
    goal = objective(gpt, config, splits[0], validation=splits[1], compute=CPU, evaluation_batches=3, workers=workers)
    return TrainingSetup(LoadedModel(gpt, encoding), goal, compute=CPU, throughput=Throughput("tokens", 256))


def prepare_classifier(config: TrainConfig, data: Path, workers: Workers) -> TrainingSetup:
    """A classifier of words, on a foundation whose output layer is of its own and without use here."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(data / "tokenizer.json")
    model = Classifier(GPT(GPTConfig(**SIZES | {"vocabulary_size": encoding.n_vocab, "tied": False})), SPAM)
    texts = [email_text(word, " ".join(WORDS[: 1 + n])) for n, word in enumerate(WORDS)]
    labels = torch.tensor([n % 3 == 0 for n in range(len(WORDS))]).long()
    emails = LabelledTexts(texts, labels, list(range(len(WORDS))))
    emails = read_texts(LoadedModel(model, encoding), emails)
    goal = classifier_objective(model, config, emails, validation=emails, compute=CPU, workers=workers)
    return TrainingSetup(LoadedModel(model, encoding), goal, compute=CPU, throughput=Throughput("emails", 8))


def prepare_assistant(config: TrainConfig, data: Path, workers: Workers) -> TrainingSetup:
    """An assistant that learns which word comes next, by LoRA."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(data / "tokenizer.json")
    model = Assistant(GPTConfig(**SIZES | {"vocabulary_size": encoding.n_vocab, "context_length": 96}), Chat())
    add_lora(model, LoRAConfig(rank=2, alpha=4))
    questions = [Question(word) for word in WORDS]
    rows = encode_examples(encoding, model.chat, questions, outputs=WORDS[1:] + WORDS[:1], longest=96)
    goal = assistant_objective(model, config, pack_sequences(rows, 96), validation=rows, compute=CPU, workers=workers)
    return TrainingSetup(LoadedModel(model, encoding), goal, compute=CPU, throughput=Throughput("tokens", 1))


def sample(setup: TrainingSetup) -> list[str]:
    """What people read at an evaluation."""
    gpt = setup.loaded.model.gpt if isinstance(setup.loaded.model, Classifier) else setup.loaded.model
    return continuations(LoadedModel(gpt, setup.loaded.encoding), ("the cat",), tokens=8, seed=1)


def disturbed(
    prepare: Callable[[Workers], TrainingSetup], step: int, workers: Workers, *, kill=None, relayed=None
) -> TrainingSetup:
    """What `prepare` makes, but `step` is disturbed.

    With a file `kill` the second worker is killed in it, once. It waits for the file `relayed`.
    """
    setup = prepare(workers)

    def loss(model: torch.nn.Module, index: int) -> torch.Tensor:
        if index == step:
            if kill and workers.rank == 1 and not kill.exists():
                kill.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            while relayed and not relayed.exists():
                time.sleep(0.01)
        return setup.objective.loss(model, index)

    return replace(setup, objective=replace(setup.objective, loss=loss))


@pytest.fixture(scope="module", autouse=True)
def _ray():
    """One cluster for all, as starting one takes seconds.

    Workers can't import tests: this module goes to them by value, as a stage's own, `__main__`, does.
    """
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"  # which is what the end of a training waits for
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with Cluster("local", 2, "ddp").connected() as ray:
        assert signal.getsignal(signal.SIGTERM) == on_sigterm  # which Ray replaces by one that ends this process
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield


@pytest.fixture
def learn(tmp_path):
    """Train on two workers; gives the history, the weights and the samples of each reported step."""

    def go(sharding, config, prepare, stop_after=None, relayed=None, workers=2):
        checkpoints, rows = Checkpoints(tmp_path / sharding), []
        asked = []

        def stop():
            if stop_after is None or len(rows) < stop_after:
                return False
            if asked:  # when the relay answers again it has heard of it
                relayed.touch()
            asked.append(True)
            return True

        def report(row, seconds):
            rows.append(row)

        cluster = Cluster("local", workers, sharding)
        train_on_ray(cluster, prepare, config, checkpoints=checkpoints, report=report, stop=stop, samples=sample)
        groups, state = checkpoints.load()
        shown = [row.pop("samples", None) for row in rows]
        assert rows == state["history"]
        return state["history"], groups["best"], shown

    return go


def numbers(history, name):
    return [row[name] for row in history if name in row]


def check_close(learned, expected):
    """By their norms: rounding grows with the steps of Muon, in 50 at most to 0.8 % of a matrix as measured, and to a
    tenth of a single element."""
    assert torch.linalg.vector_norm(learned - expected) <= 0.02 * torch.linalg.vector_norm(expected)


def check_same(history, best, *, setup, alone):
    """What two workers learned, and what one learned in `setup`."""
    assert [row["step"] for row in history] == [row["step"] for row in alone]
    for name in ("train_loss", "validation_loss", "validation_f1", "gradient_norm"):
        assert numbers(history, name) == pytest.approx(numbers(alone, name), abs=1e-4)
    for name, weight in best.items():
        check_close(weight, setup.loaded.model.get_parameter(name).detach())


def test_resume_by_one_worker_after_two_were_stopped_learns_what_one_learns(learn, tmp_path, token_files):
    config = CONFIG.model_copy(update={"optimizer": "adamw", "batch_size": 4})
    prepare, relayed = partial(prepare_classifier, config, token_files), tmp_path / "relayed"
    with pytest.raises(InterruptedError, match=r"stopped after step \d+ of 20, with a checkpoint"):
        learn("ddp", config, partial(disturbed, prepare, 10, relayed=relayed), stop_after=3, relayed=relayed)
    checkpoints = Checkpoints(tmp_path / "ddp")
    assert 3 <= checkpoints.newest() < 20
    setup = prepare(ALONE)
    history = train(setup.loaded.model, config, setup.objective, checkpoints=checkpoints)
    best = checkpoints.load()[0]["best"]
    setup = prepare(ALONE)
    alone = train(setup.loaded.model, config, setup.objective)
    check_same(history, best, setup=setup, alone=alone)


def test_sharded_workers_that_lose_one_learn_what_one_learns(learn, tmp_path, token_files):
    config = CONFIG.model_copy(update={"gradient_accumulation": 2})
    prepare, killed = partial(prepare_gpt, config, token_files), tmp_path / "killed"
    history, best, shown = learn("fsdp", config, partial(disturbed, prepare, 30, kill=killed))
    assert killed.exists()
    setup = prepare(ALONE)
    alone = train(setup.loaded.model, config, setup.objective)
    check_same(history, best, setup=setup, alone=alone)
    setup.loaded.model.eval().load_state_dict(best)
    evaluated = [row for row in history if "validation_loss" in row]
    chosen = min(evaluated, key=lambda row: row["validation_loss"])
    assert sample(setup) == shown[history.index(chosen)]  # drawn; those of one process may differ by rounding

    checkpoints = Checkpoints(tmp_path / "fsdp")
    for part in (1, 2):
        (checkpoints.folder / f"step-000020.{part}-of-2.safetensors").unlink()
    assert checkpoints.newest() == 15
    setup = prepare(ALONE)  # one goes on from what two wrote
    again = train(setup.loaded.model, config, setup.objective, checkpoints=checkpoints)
    assert again[:15] == history[:15]
    assert numbers(again, "train_loss") == pytest.approx(numbers(alone, "train_loss"), abs=1e-4)


def test_sharded_workers_fine_tune_by_lora_as_one_does(learn, token_files):
    config = CONFIG.model_copy(update={"optimizer": "adamw", "batch_size": 4})
    prepare = partial(prepare_assistant, config, token_files)
    history, best, _ = learn("fsdp", config, prepare)
    setup = prepare(ALONE)
    alone = train(setup.loaded.model, config, setup.objective)
    check_same(history, best, setup=setup, alone=alone)


def test_stage_on_ray_learns_the_same_loss(
    project_copy, token_files, mlflow_store, prefect_api, command_line, monkeypatch
):
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "context_length": 64, "batch_size": 2}
    short = {"steps": 8, "evaluate_every": 4, "checkpoint_every": 4, "evaluation_batches": 1, "dropout": 0.0}
    change_params(project_copy, {"foundation": {"train": shape | short}})
    shutil.copytree(token_files, project_copy / "data/processed/corpus")
    curves = project_copy / "reports/training/pretrain/curves.csv"
    losses = []
    for workers in ("", "2"):
        monkeypatch.setenv("THREESTAGE_RAY", "local" if workers else "")
        monkeypatch.setenv("THREESTAGE_WORKERS", workers or "1")
        code, _, error = command_line(project_copy, "flows.pretrain")
        assert code == 0, error
        losses.append(pd.read_csv(curves)[["train_loss", "validation_loss"]].to_numpy())
    assert losses[1] == pytest.approx(losses[0], rel=2e-3), "it computes in bfloat16 where the processor has it"
    assert "2 workers, ddp, on Ray at local" in (project_copy / ".threestage/stages/pretrain/log").read_text()


def test_batch_that_workers_can_not_share_is_refused(learn):
    with pytest.raises(UserError, match="batch_size 7 is no multiple of 2 workers"):
        learn("ddp", CONFIG.model_copy(update={"batch_size": 7}), None)


def test_workers_without_a_core_are_refused_and_not_waited_for(learn):
    with pytest.raises(UserError, match=r"^\d+ workers need a core each; the cluster has \d+$"):
        learn("ddp", CONFIG.model_copy(update={"batch_size": 4096}), None, workers=4096)


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("THREESTAGE_RAY", "yes", "it is local, auto or ray://HOST:PORT"),
        ("THREESTAGE_WORKERS", "0", "it is a number from 1"),
        ("THREESTAGE_SHARDING", "zero", "it is ddp or fsdp"),
    ],
)
def test_wrong_variable_is_named(monkeypatch, variable, value, reason):
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}={value}: {reason}"):
        Cluster.asked_for()


def test_ray_is_off_without_the_variable(monkeypatch):
    monkeypatch.delenv("THREESTAGE_RAY", raising=False)
    assert Cluster.asked_for() is None
