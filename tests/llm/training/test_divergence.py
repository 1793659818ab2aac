import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from llm.training.checkpoint import Checkpoints
from llm.training.divergence import DivergedError
from llm.training.loop import train
from llm.training.objective import Objective, Row


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(1, 1)


def with_losses(losses: list[float]) -> Objective:
    """An objective whose batches have these losses, and all later ones the last of them."""

    def loss(model: nn.Module, batch: int) -> Tensor:
        return model(torch.ones(1, 1)).sum() * 0 + losses[min(batch, len(losses) - 1)]

    return Objective(loss, lambda: {"score": 0.0}, best="score")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda loss: loss * math.nan, "loss nan"),
        (lambda loss: loss.exp() * math.inf, "loss inf"),
        (lambda loss: (loss * 0).sqrt(), "gradient_norm nan"),
    ],
)
def test_nan_loss_or_gradient_stops_before_the_update(model, make_config, spoil, reason):
    def loss(model: nn.Module, batch: int) -> Tensor:
        y = model(torch.ones(1, 1)).sum()
        return spoil(y) if batch == 2 else y

    with pytest.raises(DivergedError, match=f"^step 3: {reason}: "):
        train(model, make_config(evaluate_every=99), Objective(loss, lambda: {"score": 0.0}, best="score"))
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_evaluation_that_is_nan_keeps_no_weights_and_names_the_checkpoint_before(model, make_config, tmp_path):
    scores = iter([2.0, math.nan])
    goal = replace(with_losses([1.0]), evaluate=lambda: {"score": next(scores)})
    with pytest.raises(DivergedError, match=r"^step 4: score nan: .* of step 2$"):
        train(model, make_config(steps=4), goal, checkpoints=Checkpoints(tmp_path))


@pytest.mark.parametrize(
    ("losses", "every", "message"),
    [
        ([*[1.0] * 12, 100.0], 5, r"from 1 to 80\.2: .* of step 10$"),  # of 10 and 15, which are kept
        ([*[1.0] * 12, 100.0], 4, r"from 1 to 80\.2: [a-z_ ]+$"),  # of 12 and 16
        ([*[9.0] * 10, *[4.0] * 10, 10.0], 99, None),
        ([*[9.0] * 10, *[2.0] * 10, 8.0], 99, None),
    ],
)
def test_loss_that_explodes_stops_and_names_the_checkpoint_from_before(
    model, make_config, tmp_path, losses, every, message
):
    steps = []
    config = make_config(steps=30, evaluate_every=99, checkpoint_every=every)
    with pytest.raises(DivergedError, match=rf"^step 20: .* {message}") if message else nullcontext():
        train(
            model,
            config,
            with_losses(losses),
            checkpoints=Checkpoints(tmp_path),
            report=lambda row, _: steps.append(row),
        )
    assert len(steps) == (20 if message else 30)


def test_explosion_is_found_in_a_resumed_training_whose_last_step_was_interrupted(model, make_config, tmp_path):
    goal = with_losses([*[9.0] * 10, *[2.0] * 10, 10.0])
    config = make_config(steps=99, evaluate_every=30)

    def interrupted() -> Row:
        raise InterruptedError

    with pytest.raises(InterruptedError, match=r"^stopped after step 30"):
        train(model, config, replace(goal, evaluate=interrupted), checkpoints=Checkpoints(tmp_path))
    with pytest.raises(DivergedError, match=r"^step 30: .* from 2 to 10: "):
        train(model, config, goal, checkpoints=Checkpoints(tmp_path))
