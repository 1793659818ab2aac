import math
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


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_loss_stops_and_names_step_and_way_out(model, make_config, value):
    def loss(model: nn.Module, batch: int) -> Tensor:
        return model(torch.ones(1, 1)).sum() * (value if batch == 2 else 1.0)

    goal = Objective(loss, lambda: {"score": 0.0}, best="score")
    with pytest.raises(DivergedError, match=r"^step 3: loss \S+, gradient norm \S+: try a lower learning_rate than"):
        train(model, make_config(evaluate_every=99), goal)
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_loss_that_explodes_stops_and_every_step_is_reported(model, make_config):
    steps = []
    goal = with_losses([*[1.0] * 15, 100.0])
    config = make_config(steps=99, evaluate_every=99)
    message = r"^step 20: the loss has grown from 1 to 50\.5: try a lower learning_rate$"
    with pytest.raises(DivergedError, match=message):
        train(model, config, goal, report=lambda row, _: steps.append(row["step"]))
    assert steps == list(range(1, 21))


@pytest.mark.parametrize(
    ("every", "checkpoint"),
    [
        (5, "; the last checkpoint before that is of step 10"),  # of 10 and 15, which are kept
        (10, "; the last checkpoint before that is of step 10"),
        (7, "; the last checkpoint before that is of step 7"),
        (4, ""),  # of 12 and 16
        (99, ""),
    ],
)
def test_divergence_names_the_checkpoint_from_before_the_loss_grew(model, make_config, tmp_path, every, checkpoint):
    goal = with_losses([*[1.0] * 12, 100.0])
    config = make_config(steps=99, evaluate_every=99, checkpoint_every=every)
    message = rf"^step 20: the loss has grown from 1 to 80\.2: try a lower learning_rate{checkpoint}$"
    with pytest.raises(DivergedError, match=message):
        train(model, config, goal, checkpoints=Checkpoints(tmp_path))


def test_loss_explodes_when_it_loses_all_it_had_learned_and_that_was_much(model, make_config):
    goal = with_losses([*[9.0] * 10, *[2.0] * 10, 10.0])
    with pytest.raises(DivergedError, match=r"^step 30: the loss has grown from 2 to 10"):
        train(model, make_config(steps=30, evaluate_every=99), goal)


@pytest.mark.parametrize(("lowest", "last"), [(4.0, 10.0), (2.0, 8.0)])
def test_loss_that_grows_less_is_no_explosion(model, make_config, lowest, last):
    goal = with_losses([*[9.0] * 10, *[lowest] * 10, last])
    assert len(train(model, make_config(steps=30, evaluate_every=99), goal)) == 30


def test_explosion_is_found_where_its_step_was_interrupted(model, make_config, tmp_path):
    goal = with_losses([*[9.0] * 10, *[2.0] * 10, 10.0])
    config = make_config(steps=99, evaluate_every=30)
    checkpoints = Checkpoints(tmp_path)
    asked = iter([False] * 13 + [True])
    with pytest.raises(InterruptedError, match=r"^stopped after step 13"):
        train(model, config, goal, checkpoints=checkpoints, stop=lambda: next(asked))

    def interrupted() -> Row:
        raise InterruptedError

    with pytest.raises(InterruptedError, match=r"^stopped after step 30"):
        train(model, config, replace(goal, evaluate=interrupted), checkpoints=checkpoints)
    with pytest.raises(DivergedError, match=r"^step 30: the loss has grown from 2 to 10"):
        train(model, config, goal, checkpoints=checkpoints)


def test_weights_whose_evaluation_is_no_number_are_not_kept(model, make_config, tmp_path):
    scores = iter([2.0, math.nan])

    def loss(model: nn.Module, batch: int) -> Tensor:
        return model(torch.ones(1, 1)).square().sum()

    goal = Objective(loss, lambda: {"score": next(scores)}, best="score")
    with pytest.raises(DivergedError, match=r"^step 4: score nan: try a lower learning_rate; .* is of step 2$"):
        train(model, make_config(steps=4), goal, checkpoints=Checkpoints(tmp_path))
