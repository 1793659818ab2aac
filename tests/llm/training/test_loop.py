from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.model.gpt import GPT
from llm.objectives.language_model import objective
from llm.training.loop import train
from llm.training.objective import Objective, Row

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture
def learn_text(token_files):
    def make(gpt: GPT, config: TrainConfig) -> Objective:
        train_windows, validation = [TokenWindows(token_files, split, 32) for split in ("train", "validation")]
        return objective(gpt, config, train_windows, validation=validation, compute=CPU, evaluation_batches=2)

    return make


def test_loss_falls_and_every_step_is_reported_once_with_its_seconds_and_samples(make_gpt, make_config, learn_text):
    gpt = make_gpt()
    config = make_config(steps=50, evaluate_every=20)
    reports = []
    goal = replace(learn_text(gpt, config), samples=lambda: ["the cat sat"])
    history = train(gpt, config, goal, report=lambda row, seconds: reports.append((row, seconds)))
    assert [row["step"] for row in history] == list(range(1, 51))
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    evaluated = [row for row in history if "validation_bits_per_byte" in row]
    assert [row["step"] for row in evaluated] == [20, 40, 50]
    assert evaluated[-1]["validation_loss"] < evaluated[0]["validation_loss"]
    for row, (reported, seconds) in zip(history, reports, strict=True):
        assert reported == row | ({"samples": ["the cat sat"]} if row in evaluated else {})
        assert min(seconds, row["learning_rate"], row["gradient_norm"]) > 0


def test_every_batch_has_random_numbers_of_its_own_which_the_seed_decides(make_config):
    drawn: list[float] = []

    def loss(model: nn.Module, batch: int) -> Tensor:
        drawn.append(torch.rand(()).item())
        return model(torch.ones(1, 1)).sum()

    for seed in (1, 1, 2):
        config = make_config(steps=3, gradient_accumulation=2, seed=seed)
        train(nn.Linear(1, 1), config, Objective(loss, lambda: {"score": 0.0}, best="score"))
    assert drawn[:6] == drawn[6:12]
    assert len({*drawn}) == 12


@pytest.mark.parametrize(
    ("options", "evaluations", "kept"),
    [
        ({"best": "score"}, [{"score": score} for score in (5.0, 4.0, 1.0, 6.0, 1.0, 6.0)], 2),
        ({"best": "score", "lower_is_better": False}, [{"score": score} for score in (5.0, 4.0, 6.0, 1.0, 6.0)], 2),
        ({"best": "f1", "tie": "loss"}, [{"f1": 0.0, "loss": loss} for loss in (5.0, 3.0, 4.0, 3.0)], 1),
        ({"best": "score", "start_counts": True}, [{"score": score} for score in (1.0, 4.0, 6.0)], 0),
    ],
)
def test_best_weights_are_kept_the_earliest_of_equals(make_config, options, evaluations, kept):
    model = nn.Linear(1, 1)
    seen: list[Tensor] = []

    def evaluate() -> Row:
        seen.append(model.weight.detach().clone())
        return evaluations[len(seen) - 1]

    goal = Objective(lambda model, batch: model(torch.ones(1, 1)).sum(), evaluate, **options)
    steps = len(evaluations) - goal.start_counts
    train(model, make_config(steps=steps, evaluate_every=1), goal)
    assert torch.equal(model.weight, seen[kept])
    assert not torch.equal(seen[kept], seen[-1])


def test_gradient_is_clipped(make_config):
    model = nn.Linear(2, 1, bias=False)
    gradients = []
    model.weight.register_post_accumulate_grad_hook(lambda weight: gradients.append(weight.grad))
    goal = Objective(lambda model, batch: model(torch.tensor([[30.0, 40.0]])).sum(), dict, best="score")
    (row,) = train(model, make_config(steps=1, gradient_clip=0.5), replace(goal, evaluate=lambda: {"score": 0.0}))
    assert row["gradient_norm"] == pytest.approx(50.0)
    # zero_grad() lets go of the tensor that the hook saw; clipping changed it in place before
    assert gradients[0].norm().item() == pytest.approx(0.5, rel=1e-4)
