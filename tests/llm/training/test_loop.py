from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.device import Compute
from llm.model.gpt import GPT
from llm.objectives.language_model import objective, text_loss
from llm.training.loop import train
from llm.training.objective import Objective, Row

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


def make_objective(gpt: GPT, config: TrainConfig, folder) -> Objective:
    """Learn the tiny text."""
    train_windows = TokenWindows(folder, "train", gpt.config.context_length)
    validation_windows = TokenWindows(folder, "validation", gpt.config.context_length)
    return objective(gpt, config, train_windows, validation=validation_windows, compute=CPU, evaluation_batches=2)


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()]).clone()


class Run(NamedTuple):
    """A training of a small GPT."""

    before: Tensor
    history: list[Row]
    after: Tensor


@pytest.fixture
def run(make_gpt, make_config, token_files) -> Callable[..., Run]:
    def start(context_length: int = 16, dropout: float = 0.0, **values: float) -> Run:
        gpt = make_gpt(context_length=context_length, dropout=dropout)
        config = make_config(**values)
        before = weights_of(gpt)
        history = train(gpt, config, make_objective(gpt, config, token_files))
        return Run(before, history, weights_of(gpt))

    return start


class ScoredModel:
    """A tiny model whose evaluations give these metrics; it keeps the weights that each evaluation saw."""

    def __init__(self, evaluations: Iterable[Row]) -> None:
        self.model = nn.Linear(1, 1)
        self.evaluations = iter(evaluations)
        self.seen: list[Tensor] = []

    def loss(self, model: nn.Module, batch: int) -> Tensor:
        return model(torch.ones(1, 1)).sum()

    def evaluate(self) -> Row:
        self.seen.append(weights_of(self.model))
        return next(self.evaluations)


def test_loss_falls_and_every_step_has_a_row(run):
    history = run(steps=60, evaluate_every=20).history
    assert [row["step"] for row in history] == list(range(1, 61))
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    evaluated = [row for row in history if "validation_loss" in row]
    assert [row["step"] for row in evaluated] == [20, 40, 60]
    assert evaluated[-1]["validation_loss"] < evaluated[0]["validation_loss"]
    assert all(row["gradient_norm"] > 0 for row in history)
    assert all(row["learning_rate"] > 0 for row in history)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "gradient_accumulation": 2}])
def test_trainings_from_one_seed_give_the_same_bits(run, options):
    first = run(**options)
    second = run(**options)
    assert first.history == second.history
    assert torch.equal(first.after, second.after)
    assert not torch.equal(first.before, first.after)


def test_seed_decides_the_order(run):
    assert not torch.equal(run(seed=1).after, run(seed=2).after)


def test_half_batches_make_the_update_of_a_whole_one(make_config):
    rows = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))

    def learn(**sizes: int) -> Run:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        config = make_config(steps=6, **sizes)
        order = BatchSampler(len(rows), config.batch_size, config.seed)

        def loss(model: nn.Module, batch: int) -> Tensor:
            part = rows[order[batch]]
            return (model(part[:, :4]) - part[:, 4:]).square().mean()

        before = weights_of(model)
        history = train(model, config, Objective(loss, lambda: {"score": 0.0}, "score"))
        return Run(before, history, weights_of(model))

    halves = learn(batch_size=4, gradient_accumulation=2)
    whole = learn(batch_size=8)
    assert (halves.after - whole.after).abs().max() < 1e-6
    for half_row, whole_row in zip(halves.history, whole.history, strict=True):
        assert half_row == pytest.approx(whole_row, rel=1e-6)


def test_last_step_is_always_evaluated(run):
    history = run(steps=5, evaluate_every=3).history
    assert [row["step"] for row in history if "validation_loss" in row] == [3, 5]


@pytest.mark.parametrize(("lower_is_better", "kept"), [(True, 3), (False, 4)])
def test_best_weights_are_kept_the_earliest_of_equals(make_config, lower_is_better, kept):
    scored = ScoredModel({"score": score} for score in (5.0, 4.0, 1.0, 6.0, 1.0, 6.0))
    goal = Objective(scored.loss, scored.evaluate, best="score", lower_is_better=lower_is_better)
    train(scored.model, make_config(steps=6, evaluate_every=1), goal)
    assert torch.equal(weights_of(scored.model), scored.seen[kept - 1])
    assert not torch.equal(scored.seen[kept - 1], scored.seen[-1])


def test_ties_in_the_best_metric_are_broken_by_the_smaller_value_of_another(make_config):
    scored = ScoredModel({"f1": 0.0, "loss": loss} for loss in (5.0, 3.0, 4.0, 3.0))
    goal = Objective(scored.loss, scored.evaluate, best="f1", lower_is_better=False, tie="loss")
    train(scored.model, make_config(steps=4, evaluate_every=1), goal)
    assert torch.equal(weights_of(scored.model), scored.seen[1])


def test_gradient_is_clipped(make_config):
    model = nn.Linear(2, 1, bias=False)
    gradients = []
    model.weight.register_post_accumulate_grad_hook(lambda weight: gradients.append(weight.grad))

    def loss(model: nn.Module, batch: int) -> Tensor:
        return model(torch.tensor([[30.0, 40.0]])).sum()

    goal = Objective(loss, lambda: {"score": 0.0}, best="score")
    (row,) = train(model, make_config(steps=1, gradient_clip=0.5), goal)
    assert row["gradient_norm"] == pytest.approx(50.0)
    # zero_grad() lets go of the tensor that the hook saw; clipping changed it in place before
    assert gradients[0].norm().item() == pytest.approx(0.5, rel=1e-4)


def test_report_gets_each_step_once_with_its_seconds_and_samples(make_gpt, make_config, token_files):
    gpt = make_gpt(context_length=64)
    config = make_config()
    goal = replace(make_objective(gpt, config, token_files), samples=lambda: ["the cat sat"])
    reports = []
    history = train(gpt, config, goal, report=lambda row, seconds: reports.append((row, seconds)))
    assert len(reports) == len(history)
    for row, (reported, seconds) in zip(history, reports, strict=True):
        samples = {"samples": ["the cat sat"]} if "validation_loss" in row else {}
        assert reported == row | samples
        assert seconds > 0
    assert history[-1]["validation_bits_per_byte"] > 0


def test_loss_of_a_text_is_the_mean_over_its_tokens(make_gpt, token_files):
    gpt = make_gpt(context_length=16)
    windows = TokenWindows(token_files, "test", 16)
    losses = []
    for row in range(len(windows)):
        tokens = torch.tensor(windows.tokens[row * 16 : row * 16 + 17].astype("int64"))
        log_p = gpt(tokens[None, :-1])[0].log_softmax(dim=-1)
        losses += [-log_p[position, target].item() for position, target in enumerate(tokens[1:])]
    batches = [windows.evaluation_batches(99, 1)[0], torch.arange(1, len(windows)).numpy()]  # of unequal sizes
    loss = text_loss(gpt, windows, batches, compute=CPU)
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
