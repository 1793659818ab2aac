import logging
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from llm.dataset import TokenWindows
from llm.device import Compute
from llm.objectives.language_model import objective
from llm.training.checkpoint import Checkpoints
from llm.training.loop import Report, train
from llm.training.objective import Objective, Row

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


class Trained(NamedTuple):
    """The result of a training."""

    history: list[Row]
    weights: dict[str, Tensor]


@pytest.fixture
def run(make_gpt, make_config, token_files) -> Callable[..., Trained]:
    """Train with dropout and accumulation."""

    def start(checkpoints: Checkpoints | None = None, report: Report = lambda row, seconds: None) -> Trained:
        gpt = make_gpt(context_length=64, dropout=0.2)
        config = make_config(
            steps=10, evaluate_every=4, checkpoint_every=3, gradient_accumulation=2, learning_rate=3e-2
        )
        goal = objective(
            gpt,
            config,
            TokenWindows(token_files, "train", 64),
            validation=TokenWindows(token_files, "validation", 64),
            compute=CPU,
            evaluation_batches=2,
        )
        history = train(gpt, config, goal, checkpoints=checkpoints, report=report)
        return Trained(history, {name: tensor.clone() for name, tensor in gpt.state_dict().items()})

    return start


def interrupt_at(step: int) -> Report:
    def report(row: Row, seconds: float) -> None:
        if row["step"] == step and seconds:
            raise KeyboardInterrupt

    return report


def assert_equal(trained: Trained, expected: Trained) -> None:
    """The histories and the weights are equal to the bit."""
    assert trained.history == expected.history
    torch.testing.assert_close(trained.weights, expected.weights, rtol=0, atol=0)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 9, 10])
def test_resume_after_an_interruption_gives_equal_weights(run, tmp_path, step):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints, interrupt_at(step))
    assert checkpoints.newest() == ((step - 1) // 3 * 3 or None)
    assert_equal(run(checkpoints), run())


def test_resume_after_several_interruptions_gives_equal_weights(run, tmp_path):
    for step in (4, 5, 8):
        with pytest.raises(KeyboardInterrupt):
            run(Checkpoints(tmp_path), interrupt_at(step))
    assert_equal(run(Checkpoints(tmp_path)), run())


def test_resume_of_a_finished_run_trains_nothing_and_reports_its_rows_again(run, tmp_path):
    first = run(Checkpoints(tmp_path))
    reports = []
    again = run(Checkpoints(tmp_path), lambda row, seconds: reports.append((row["step"], seconds)))
    assert_equal(again, first)
    assert reports == [(step, 0.0) for step in range(1, 11)]


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_corrupt_newest_checkpoint_is_skipped_with_a_warning(run, tmp_path, caplog, size):
    with pytest.raises(KeyboardInterrupt):
        run(Checkpoints(tmp_path), interrupt_at(8))
    newest = tmp_path / "step-000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:size])
    assert Checkpoints(tmp_path).load()[1]["step"] == 3
    assert f"{newest} cannot be read" in caplog.text
    assert_equal(run(Checkpoints(tmp_path)), run())


def test_corrupt_last_checkpoint_is_written_again(run, tmp_path):
    first = run(Checkpoints(tmp_path))
    newest = tmp_path / "step-000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:5000])
    assert_equal(run(Checkpoints(tmp_path)), first)
    assert Checkpoints(tmp_path).load()[1]["step"] == 10


def test_training_begins_anew_where_all_checkpoints_are_corrupt(run, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "step-000003.safetensors").write_bytes(b"corrupt")
    assert_equal(run(Checkpoints(tmp_path)), run())


def test_newest_two_checkpoints_are_kept_also_past_a_million_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.newest(), checkpoints.load()) == (None, None)
    for step in (5, 10, 999_999, 1_000_001):
        checkpoints.save(step, {"model": {"w.x": torch.tensor([float(step)])}}, [{"step": step}])
    names = [path.name for path in tmp_path.glob("step-*")]
    assert sorted(names) == ["step-1000001.safetensors", "step-999999.safetensors"]
    assert (checkpoints.newest(), checkpoints.newest(1_000_000), checkpoints.newest(10)) == (1_000_001, 999_999, None)
    groups, state = checkpoints.load()
    assert groups["model"]["w.x"].item() == 1_000_001
    assert state == {"history": [{"step": 1_000_001}], "step": 1_000_001}


def test_checkpoint_does_not_grow_with_the_history(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    history = [{"step": step, "train_loss": 1 / step} for step in range(101, 1000)]
    sizes = []
    for step in (110, 120, 999):
        groups = {"model": {"w": torch.ones(1)}}
        checkpoints.save(step, groups, history[: step - 100])
        sizes.append((tmp_path / f"step-{step:06}.safetensors").stat().st_size)
    assert max(sizes) < min(sizes) + 20  # digits
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 898, "each row once"
    assert Checkpoints(tmp_path).load()[1]["history"] == history


@pytest.mark.parametrize("lost", [0, 1, 200])
def test_resume_with_a_torn_history_gives_equal_weights(run, tmp_path, caplog, lost):
    with pytest.raises(KeyboardInterrupt):
        run(Checkpoints(tmp_path), interrupt_at(8))
    history = tmp_path / "history.jsonl"
    content = history.read_bytes()
    history.write_bytes(content[: len(content) - lost] if lost else content + b'{"step": 7, "train')
    assert_equal(run(Checkpoints(tmp_path)), run())
    assert ("history.jsonl cannot be read" in caplog.text) == (lost > 0)


def scored(scores: list[float | None]) -> Objective:
    """An objective whose evaluations have these scores; None interrupts one."""
    remaining = iter(scores)

    def loss(model: nn.Module, batch: int) -> Tensor:
        return model(torch.ones(1, 4)).square().mean()

    def evaluate() -> Row:
        score = next(remaining)
        if score is None:
            raise InterruptedError
        return {"score": score}

    return Objective(loss, evaluate, best="score", start_counts=True)


def test_resume_of_a_run_that_was_stopped_before_its_first_step(make_config, tmp_path):
    config = make_config(steps=4, evaluate_every=2)
    model = nn.Linear(4, 1)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(InterruptedError, match="stopped after step 0 of 4, with a checkpoint"):
        train(model, config, scored([None]), checkpoints=checkpoints)
    with pytest.raises(InterruptedError, match="stopped after step 2 of 4, with a checkpoint"):
        train(model, config, scored([3.0, None]), checkpoints=checkpoints)
    history = train(model, config, scored([2.0, 1.0]), checkpoints=checkpoints)
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4]
    assert [row.get("score") for row in history] == [3.0, None, 2.0, None, 1.0]


def test_stop_is_asked_before_each_step_and_saves_a_checkpoint(make_config, tmp_path):
    config = make_config(steps=4, evaluate_every=2)
    checkpoints = Checkpoints(tmp_path)
    answers = iter([False, False, False, True])
    with pytest.raises(InterruptedError, match="stopped after step 3 of 4, with a checkpoint"):
        train(nn.Linear(4, 1), config, scored([3.0, 2.0]), checkpoints=checkpoints, stop=lambda: next(answers))
    assert checkpoints.newest() == 3
