import math
from dataclasses import replace

import pytest
import torch

from llm.dataset import BatchSampler, TokenWindows
from llm.device import Compute
from llm.objectives.language_model import objective, text_loss
from llm.training.checkpoint import Checkpoints
from llm.training.divergence import LOWER, DivergedError
from llm.training.loop import train
from llm.training.objective import Objective

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture
def goal(token_files):
    """What to learn: the tiny text."""

    def make(gpt, config):
        splits = [TokenWindows(token_files, split, gpt.config.context_length) for split in ("train", "validation")]
        return objective(gpt, config, splits[0], validation=splits[1], compute=CPU, evaluation_batches=2)

    return make


def weights(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()]).clone()


@pytest.fixture
def run(make_gpt, make_config, goal):
    def go(context_length=16, dropout=0.0, **values):
        gpt, config = make_gpt(context_length=context_length, dropout=dropout), make_config(**values)
        return weights(gpt), train(gpt, config, goal(gpt, config)), weights(gpt)

    return go


def test_the_loss_falls_and_every_step_has_a_row(run):
    _, history, _ = run(steps=60, evaluate_every=20)
    assert [row["step"] for row in history] == list(range(1, 61))
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    evaluated = [row for row in history if "validation_loss" in row]
    assert [row["step"] for row in evaluated] == [20, 40, 60]
    assert evaluated[-1]["validation_loss"] < evaluated[0]["validation_loss"]
    assert all(row["gradient_norm"] > 0 and row["learning_rate"] > 0 for row in history)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "gradient_accumulation": 2}])
def test_two_runs_give_the_same_bits(run, options):
    first, second = run(**options), run(**options)
    assert first[1] == second[1]
    assert torch.equal(first[2], second[2])
    assert not torch.equal(first[0], first[2])


def test_another_seed_sees_another_order(run):
    assert not torch.equal(run(seed=1)[2], run(seed=2)[2])


def test_two_half_batches_make_the_update_of_a_whole_one(make_config):
    rows = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))

    def learn(**sizes):
        torch.manual_seed(0)
        model, config = torch.nn.Linear(4, 1), make_config(steps=6, **sizes)
        order = BatchSampler(len(rows), config.batch_size, config.seed)

        def loss(model, index):
            part = rows[order[index]]
            return (model(part[:, :4]) - part[:, 4:]).square().mean()

        return train(model, config, Objective(loss, lambda: {"score": 0.0}, "score")), weights(model)

    halves, summed = learn(batch_size=4, gradient_accumulation=2)
    wholes, whole = learn(batch_size=8)
    assert (summed - whole).abs().max() < 1e-6
    for half, row in zip(halves, wholes, strict=True):
        assert half == pytest.approx(row, rel=1e-6)


def test_two_half_batches_have_loss_and_gradient_of_a_whole_one_in_a_gpt(run):
    # one step alone: where a gradient is 0 but for rounding, as that of the keys' bias, Adam makes a whole step of it
    (half,), (whole,) = run(steps=1, batch_size=4, gradient_accumulation=2)[1], run(steps=1, batch_size=8)[1]
    for name in ("train_loss", "gradient_norm"):
        assert half[name] == pytest.approx(whole[name], rel=1e-5)


def test_the_last_step_is_always_evaluated(run):
    _, history, _ = run(steps=5, evaluate_every=3)
    assert [row["step"] for row in history if "validation_loss" in row] == [3, 5]


@pytest.mark.parametrize(("lower_is_better", "kept"), [(True, 3), (False, 4)])
def test_the_best_weights_are_kept_the_earliest_of_equals(make_config, lower_is_better, kept):
    model = torch.nn.Linear(1, 1)
    found, seen = iter([5.0, 4.0, 1.0, 6.0, 1.0, 6.0]), {}

    def evaluate():
        seen[len(seen) + 1] = weights(model)
        return {"score": next(found)}

    goal = Objective(lambda model, _: model(torch.ones(1, 1)).sum(), evaluate, "score", lower_is_better)
    train(model, make_config(steps=6, evaluate_every=1), goal)
    assert torch.equal(weights(model), seen[kept])
    assert not torch.equal(seen[kept], seen[6])


def test_of_equals_those_with_the_least_of_another_metric_are_kept_where_one_is_named(make_config):
    model = torch.nn.Linear(1, 1)
    found, seen = iter([(0.0, 5.0), (0.0, 3.0), (0.0, 4.0), (0.0, 3.0)]), {}

    def evaluate():
        seen[len(seen) + 1] = weights(model)
        return dict(zip(("f1", "loss"), next(found), strict=True))

    goal = Objective(lambda model, _: model(torch.ones(1, 1)).sum(), evaluate, "f1", lower_is_better=False, tie="loss")
    train(model, make_config(steps=4, evaluate_every=1), goal)
    assert torch.equal(weights(model), seen[2])


def test_the_gradient_is_clipped(make_config):
    model = torch.nn.Linear(2, 1, bias=False)
    seen = []
    model.weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad))
    goal = Objective(lambda model, _: model(torch.tensor([[30.0, 40.0]])).sum(), lambda: {"score": 0.0}, "score")
    (row,) = train(model, make_config(steps=1, gradient_clip=0.5), goal)
    assert row["gradient_norm"] == pytest.approx(50.0)
    # zero_grad() lets go of the tensor that the hook saw; clipping changed it in place before
    assert seen[0].norm().item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_and_names_step_and_way_out(make_config, value):
    model = torch.nn.Linear(1, 1)

    def loss(model, index):
        return model(torch.ones(1, 1)).sum() * (value if index == 2 else 1.0)

    goal = Objective(loss, lambda: {"score": 0.0}, "score")
    with pytest.raises(DivergedError, match=r"^step 3: loss \S+, gradient norm \S+: try a lower learning_rate than"):
        train(model, make_config(evaluate_every=99), goal)
    assert weights(model).isfinite().all()


def test_report_hears_each_step_once_with_its_seconds(make_gpt, make_config, goal):
    gpt, config, heard = make_gpt(context_length=64), make_config(), []
    shown = replace(goal(gpt, config), samples=lambda: ["the cat sat"])
    history = train(gpt, config, shown, report=lambda row, seconds: heard.append((row, seconds)))
    assert [row.pop("samples", None) for row, _ in heard] == [
        ["the cat sat"] if "validation_loss" in row else None for row in history
    ]
    assert [row for row, _ in heard] == history
    assert all(seconds > 0 for _, seconds in heard)
    assert history[-1]["validation_bits_per_byte"] > 0


def test_the_loss_of_a_text_is_the_mean_over_its_tokens(make_gpt, token_files):
    gpt = make_gpt(context_length=16)
    windows = TokenWindows(token_files, "test", 16)
    alone = []
    for row in range(len(windows)):
        tokens = torch.tensor(windows.tokens[row * 16 : row * 16 + 17].astype("int64"))
        chances = gpt(tokens[None, :-1])[0].log_softmax(dim=-1)
        alone += [-chances[position, target].item() for position, target in enumerate(tokens[1:])]
    batches = [windows.evaluation_batches(99, 1)[0], torch.arange(1, len(windows)).numpy()]  # of unequal sizes
    assert text_loss(gpt, windows, batches, compute=CPU) == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def scores(model, found):
    values = iter(found)
    return Objective(lambda model, _: model(torch.ones(1, 1)).square().sum(), lambda: {"score": next(values)}, "score")


@pytest.mark.parametrize(("patience", "steps"), [(1, 3), (2, 6), (None, 7)])
def test_training_ends_after_so_many_evaluations_without_a_better_one(make_config, patience, steps):
    model = torch.nn.Linear(1, 1)
    goal = scores(model, [3.0, 2.0, 2.5, 1.5, 1.5, 1.6, 1.4])
    history = train(model, make_config(steps=7, evaluate_every=1, patience=patience), goal)
    assert len(history) == steps


def test_a_loss_that_explodes_stops_and_every_step_is_reported(make_config):
    model, steps = torch.nn.Linear(1, 1), []

    def loss(model, index):
        return model(torch.ones(1, 1)).sum() * 0 + (1.0 if index < 15 else 100.0)

    goal = Objective(loss, lambda: {"score": 0.0}, "score")
    with pytest.raises(
        DivergedError, match=r"^step 20: the loss has grown from 1 to 50\.5: try a lower learning_rate$"
    ):
        train(model, make_config(steps=99, evaluate_every=99), goal, report=lambda row, _: steps.append(row["step"]))
    assert steps == list(range(1, 21))


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (5, "; the last checkpoint before that is of step 10"),  # of 10 and 15, which are kept
        (10, "; the last checkpoint before that is of step 10"),
        (7, "; the last checkpoint before that is of step 7"),
        (4, ""),  # of 12 and 16
        (99, ""),
    ],
)
def test_a_checkpoint_is_named_that_is_from_before_the_loss_grew(make_config, tmp_path, every, said):
    model = torch.nn.Linear(1, 1)

    def loss(model, index):
        return model(torch.ones(1, 1)).sum() * 0 + (1.0 if index < 12 else 100.0)

    goal = Objective(loss, lambda: {"score": 0.0}, "score")
    config = make_config(steps=99, evaluate_every=99, checkpoint_every=every)
    with pytest.raises(DivergedError, match=rf"^step 20: the loss has grown from 1 to 80\.2: {LOWER}{said}$"):
        train(model, config, goal, checkpoints=Checkpoints(tmp_path))


@pytest.mark.parametrize(("losses", "explodes"), [((9, 2, 10), True), ((9, 4, 10), False), ((9, 2, 8), False)])
def test_a_loss_explodes_when_it_loses_all_it_had_learnt_and_that_was_much(make_config, losses, explodes):
    model = torch.nn.Linear(1, 1)

    def loss(model, index):
        return model(torch.ones(1, 1)).sum() * 0 + float(losses[index // 10])

    goal = Objective(loss, lambda: {"score": 0.0}, "score")
    config = make_config(steps=30, evaluate_every=99)
    if explodes:
        with pytest.raises(DivergedError, match=r"^step 30: the loss has grown from 2 to 10"):
            train(model, config, goal)
    else:
        assert len(train(model, config, goal)) == 30


def test_weights_whose_evaluation_is_no_number_are_not_kept(make_config, tmp_path):
    model, found = torch.nn.Linear(1, 1), iter([2.0, math.nan])
    goal = Objective(lambda model, _: model(torch.ones(1, 1)).square().sum(), lambda: {"score": next(found)}, "score")
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(DivergedError, match=r"^step 4: score nan: try a lower learning_rate; .* is of step 2$"):
        train(model, make_config(steps=4), goal, checkpoints=checkpoints)
