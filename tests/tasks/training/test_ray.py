"""Real Ray workers on this machine."""

import errno
import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from llm.chat import Chat
from llm.config import GPTConfig, LoRAConfig, TrainConfig
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.errors import UserError
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.assistant import Assistant, Question, encode_examples, pack_sequences
from llm.objectives.assistant import objective as assistant_objective
from llm.objectives.classifier import Classifier, ClassifierConfig, email_text
from llm.objectives.classifier import objective as classifier_objective
from llm.objectives.classifier.selection import LabelledTexts
from llm.objectives.language_model import continuations, objective
from llm.tokenizer import load_tokenizer
from llm.training.checkpoint import Checkpoints
from llm.training.loop import DivergedError, train
from llm.training.workers import ALONE, Workers
from tasks.data.tokens import encode
from tasks.datasets.corpus import Params, read_stream
from tasks.stages.cluster import Cluster, map_in_order
from tasks.training.ray import train_on_ray
from tasks.training.setup import Throughput, TrainingSetup

pytestmark = pytest.mark.slow

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
CONFIG = TrainConfig(
    seed=1,
    steps=50,
    batch_size=8,
    optimizer="muon",
    learning_rate=2e-3,
    muon_learning_rate=2e-3,
    evaluate_every=25,
    checkpoint_every=10,
)
TEXT = "the cat sat on the mat the dog ate the hat a bird sang to the moon"
WORDS = TEXT.split()
SIZES = {"vocabulary_size": 300, "context_length": 32, "n_layer": 2, "n_head": 2, "n_embd": 32}

SPAM = ClassifierConfig(labels=("ham", "spam"), max_tokens=32)


def prepare_gpt(
    config: TrainConfig,
    data: Path,
    marker: Path | None,
    workers: Workers,
    full: bool = False,
    known: Path | None = None,
) -> TrainingSetup:
    """A small GPT on the tiny text; with a `marker`, the second worker is killed once, in the middle of step 25.

    With a `full` disk the first one fails there. Step 11 waits for the file `known`.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(data / "tokenizer.json")
    gpt = GPT(GPTConfig(**SIZES | {"vocabulary_size": encoding.n_vocab}))
    splits = (TokenWindows(data, split, 32) for split in ("train", "validation"))
    goal = objective(gpt, config, *splits, CPU, evaluation_batches=3, workers=workers)

    def loss(index: int) -> torch.Tensor:
        if marker and index == 25 * config.gradient_accumulation and workers.rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if full and index == 25 and workers.rank == 0:
            raise OSError(errno.ENOSPC, "step-000025.safetensors can't be written: No space left on device")
        while known and index == 10 and not known.exists():
            time.sleep(0.01)
        return goal.loss(index)

    return TrainingSetup(gpt, encoding, replace(goal, loss=loss), CPU, Throughput("tokens", 256))


def prepare_classifier(config: TrainConfig, data: Path, workers: Workers) -> TrainingSetup:
    """A classifier of words, on a foundation whose output layer is of its own and without use here."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(data / "tokenizer.json")
    model = Classifier(GPT(GPTConfig(**SIZES | {"vocabulary_size": encoding.n_vocab, "tied": False})), SPAM)
    texts = [email_text(word, " ".join(WORDS[: 1 + n])) for n, word in enumerate(WORDS)]
    tokens = encoding.encode_ordinary_batch(texts)
    emails = LabelledTexts(tokens, torch.tensor([n % 3 == 0 for n in range(len(WORDS))]).long())
    goal = classifier_objective(model, config, emails, emails, CPU, balanced=True, workers=workers)
    return TrainingSetup(model, encoding, goal, CPU, Throughput("emails", 8))


def prepare_assistant(config: TrainConfig, data: Path, workers: Workers) -> TrainingSetup:
    """An assistant that learns which word comes next, by LoRA."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    encoding = load_tokenizer(data / "tokenizer.json")
    model = Assistant(GPTConfig(**SIZES | {"vocabulary_size": encoding.n_vocab, "context_length": 96}), Chat())
    add_lora(model, LoRAConfig(rank=2, alpha=4))
    questions = [Question(word) for word in WORDS]
    rows = encode_examples(encoding, model.chat, questions, WORDS[1:] + WORDS[:1], 96)
    goal = assistant_objective(model, config, pack_sequences(rows, 96), rows, CPU, workers=workers)
    return TrainingSetup(model, encoding, goal, CPU, Throughput("tokens", 1))


def sample(setup: TrainingSetup) -> list[str]:
    """What people read at an evaluation."""
    gpt = setup.model.gpt if isinstance(setup.model, Classifier) else setup.model
    return continuations(gpt, setup.encoding, ("the cat",), tokens=8, seed=1)


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
def learn(token_files, tmp_path):
    """Train on two workers; gives the history, the weights and the rows that were reported."""

    def go(sharding, config=CONFIG, marker=None, stop_after=None, workers=2, prepare=None):
        checkpoints, rows = Checkpoints(tmp_path / sharding), []
        known, asked = tmp_path / "known" if stop_after else None, []

        def stop():
            if stop_after is None or len(rows) < stop_after:
                return False
            if asked:  # when the relay answers again it has heard of it
                known.touch()
            asked.append(True)
            return True

        train_on_ray(
            Cluster("local", workers, sharding),
            prepare or partial(prepare_gpt, config, token_files, marker, known=known),
            config,
            checkpoints,
            lambda row, seconds: rows.append(row),
            stop,
            sample,
        )
        groups, state = checkpoints.load()
        return state["history"], groups["best"], rows

    return go


@pytest.fixture(scope="module")
def alone(token_files):
    """The same training in this process alone."""

    def go(config=CONFIG):
        setup = prepare_gpt(config, token_files, None, ALONE)
        return train(setup.model, config, setup.objective), dict(setup.model.named_parameters())

    return go


def numbers(history, name):
    return [row[name] for row in history if name in row]


def check_close(learned, expected):
    """By their norms: rounding grows in 50 steps of Muon, at most to 0.8 % of a matrix as measured, and to a tenth of
    a single element."""
    assert torch.linalg.vector_norm(learned - expected) <= 0.02 * torch.linalg.vector_norm(expected)


def check_same(learned, expected, data):
    """50 steps of two workers, and of one."""
    (history, best, rows), (alone, weights) = learned, expected
    assert [row["step"] for row in rows] == list(range(1, 51))
    shown = [row.pop("samples", None) for row in rows]
    assert rows == history
    for name in ("train_loss", "validation_loss", "gradient_norm"):
        assert numbers(history, name) == pytest.approx(numbers(alone, name), abs=1e-4)
    assert best.keys() == weights.keys()
    for name, weight in weights.items():
        check_close(best[name], weight.detach())
    setup = prepare_gpt(CONFIG, data, None, ALONE)
    setup.model.eval().load_state_dict(best)
    evaluated = [row for row in history if "validation_loss" in row]
    chosen = min(evaluated, key=lambda row: row["validation_loss"])
    assert sample(setup) == shown[history.index(chosen)]  # drawn; those of one process may differ by rounding


def test_two_workers_that_are_stopped_and_lose_one_learn_what_one_learns(learn, alone, tmp_path, token_files):
    with pytest.raises(InterruptedError, match=r"stopped after step \d+ of 50, with a checkpoint"):
        learn("ddp", stop_after=3)
    assert 3 <= Checkpoints(tmp_path / "ddp").newest() < 50
    check_same(learn("ddp", marker=tmp_path / "killed"), alone(), token_files)
    assert (tmp_path / "killed").exists()


def test_two_workers_that_share_the_weights_and_lose_one_learn_what_one_learns(learn, alone, tmp_path, token_files):
    config = CONFIG.model_copy(update={"gradient_accumulation": 2})
    learned, expected = learn("fsdp", config, marker=tmp_path / "killed"), alone(config)
    check_same(learned, expected, token_files)
    assert (tmp_path / "killed").exists()

    checkpoints = Checkpoints(tmp_path / "fsdp")
    for part in (1, 2):
        (checkpoints.folder / f"step-000050.{part}-of-2.safetensors").unlink()
    assert checkpoints.newest() == 40
    setup = prepare_gpt(config, token_files, None, ALONE)  # one goes on from what two wrote
    history = train(setup.model, config, setup.objective, checkpoints=checkpoints)
    assert history[:40] == learned[0][:40]
    assert numbers(history, "train_loss") == pytest.approx(numbers(expected[0], "train_loss"), abs=1e-4)


@pytest.mark.parametrize(("prepare", "sharding"), [(prepare_classifier, "ddp"), (prepare_assistant, "fsdp")])
def test_two_workers_fine_tune_as_one_does(learn, token_files, prepare, sharding):
    config = CONFIG.model_copy(update={"optimizer": "adamw", "steps": 20, "batch_size": 4, "evaluate_every": 10})
    prepared = partial(prepare, config, token_files)
    history, best, _ = learn(sharding, config, prepare=prepared)
    setup = prepared(ALONE)
    alone = train(setup.model, config, setup.objective)
    for name in ("train_loss", "validation_loss", "validation_f1", "gradient_norm"):
        assert numbers(history, name) == pytest.approx(numbers(alone, name), abs=1e-4)
    for name, weight in best.items():
        check_close(weight, setup.model.get_parameter(name).detach())


def test_a_loss_that_explodes_is_not_tried_again(learn):
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "muon_learning_rate": 1e30})
    with pytest.raises(DivergedError, match=r"^step 2: loss .* try a lower learning_rate"):
        learn("ddp", config, workers=1)


def test_a_full_disk_that_one_worker_meets_ends_all(learn, token_files):
    with pytest.raises(OSError, match="No space left on device"):
        learn("ddp", prepare=partial(prepare_gpt, CONFIG, token_files, None, full=True))


def test_a_batch_that_the_workers_can_not_share_is_an_error(learn):
    with pytest.raises(UserError, match="batch_size 7 is no multiple of 2 workers"):
        learn("ddp", CONFIG.model_copy(update={"batch_size": 7}))


def test_more_workers_than_cores_are_an_error_and_not_an_endless_wait(learn):
    with pytest.raises(UserError, match=r"^\d+ workers need a core each; the cluster has \d+$"):
        learn("ddp", CONFIG.model_copy(update={"batch_size": 4096}), workers=4096)


def test_tasks_of_ray_cut_the_same_tokens_in_the_same_order(encoding, monkeypatch):
    texts = [f"the cat sat on mat {number} ." for number in range(2500)]
    parts = [texts[start : start + 100] for start in range(0, len(texts), 100)]
    here = [encode(encoding, part) for part in parts]
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    assert list(map_in_order(partial(encode, encoding), parts)) == here


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("THREESTAGE_RAY", "yes", "it is local, auto or ray://HOST:PORT"),
        ("THREESTAGE_WORKERS", "0", "it is a number from 1"),
        ("THREESTAGE_SHARDING", "zero", "it is ddp or fsdp"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch, variable, value, reason):
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"{variable}={value}: {reason}"):
        Cluster.asked_for()


def test_without_the_variable_there_is_no_ray(monkeypatch):
    monkeypatch.delenv("THREESTAGE_RAY", raising=False)
    assert Cluster.asked_for() is None
    assert list(map_in_order("".join, [["a", "b"], ["c"]])) == ["ab", "c"]


def test_tasks_of_ray_make_the_same_parts_of_a_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.datasets.corpus.FILES", 1)
    params = Params(seed=1, validation=0.1, test=0.1, near_duplicate=0.8)
    (tmp_path / "raw/notes").mkdir(parents=True)
    for number in range(5):
        (tmp_path / f"raw/notes/{number}.txt").write_text(f"Number {number} of five, and the cat sat on the mat .")
    here = read_stream(tmp_path / "raw", params, tmp_path / "here", str)
    monkeypatch.setenv("THREESTAGE_RAY", "local")
    there = read_stream(tmp_path / "raw", params, tmp_path / "ray", str)
    assert [path.read_bytes() for path in there.parts] == [path.read_bytes() for path in here.parts]
    assert len(here.parts) == 5
