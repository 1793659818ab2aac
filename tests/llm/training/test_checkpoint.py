import logging

import pytest
import torch

from llm.config import TrainConfig
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.objectives.language_model import objective
from llm.training.checkpoint import Checkpoints
from llm.training.loop import train
from llm.training.objective import Objective

CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture
def run(make_gpt, make_config, token_files, encoding):
    """Train with dropout, accumulation and samples; gives history and weights."""

    def go(checkpoints=None, report=lambda row, seconds: None, steps=10):
        gpt = make_gpt(context_length=64, dropout=0.2)
        config: TrainConfig = make_config(
            steps=steps, evaluate_every=4, checkpoint_every=3, gradient_accumulation=2, learning_rate=3e-2
        )
        splits = [TokenWindows(token_files, split, 64) for split in ("train", "validation")]
        goal = objective(gpt, config, splits[0], validation=splits[1], compute=CPU, evaluation_batches=2)
        history = train(gpt, config, goal, checkpoints=checkpoints, report=report)
        return history, {name: tensor.clone() for name, tensor in gpt.state_dict().items()}

    return go


def interrupt_at(step):
    def report(row, seconds):
        if row["step"] == step and seconds:
            raise KeyboardInterrupt

    return report


def equal(one, other) -> bool:
    return one[0] == other[0] and all(torch.equal(one[1][name], other[1][name]) for name in one[1] | other[1])


@pytest.mark.parametrize("step", [1, 3, 4, 5, 9, 10])
def test_an_interrupted_run_goes_on_and_ends_as_an_undisturbed_one(run, tmp_path, step):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(KeyboardInterrupt):
        run(checkpoints, interrupt_at(step))
    assert checkpoints.newest() == ((step - 1) // 3 * 3 or None)
    assert equal(run(checkpoints), run())


def test_several_interruptions_change_nothing_either(run, tmp_path):
    for step in (4, 5, 8):
        with pytest.raises(KeyboardInterrupt):
            run(Checkpoints(tmp_path), interrupt_at(step))
    assert equal(run(Checkpoints(tmp_path)), run())


def test_a_finished_run_is_not_trained_again_and_its_rows_are_reported_again(run, tmp_path):
    first = run(Checkpoints(tmp_path))
    heard = []
    again = run(Checkpoints(tmp_path), lambda row, seconds: heard.append((row["step"], seconds)))
    assert equal(first, again)
    assert heard == [(step, 0.0) for step in range(1, 11)]


@pytest.mark.parametrize("left", [0, 7, 5000])
def test_a_torn_newest_checkpoint_is_passed_over_with_a_warning(run, tmp_path, caplog, left):
    with pytest.raises(KeyboardInterrupt):
        run(Checkpoints(tmp_path), interrupt_at(8))
    newest = tmp_path / "step-000006.safetensors"
    newest.write_bytes(newest.read_bytes()[:left])
    assert Checkpoints(tmp_path).load()[1]["step"] == 3
    assert f"{newest} cannot be read" in caplog.text
    assert equal(run(Checkpoints(tmp_path)), run())


def test_a_torn_last_checkpoint_is_written_again(run, tmp_path):
    first = run(Checkpoints(tmp_path))
    newest = tmp_path / "step-000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:5000])
    assert equal(run(Checkpoints(tmp_path)), first)
    assert Checkpoints(tmp_path).load()[1]["step"] == 10


def test_with_all_checkpoints_torn_a_run_begins_anew(run, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "step-000003.safetensors").write_bytes(b"torn")
    assert equal(run(Checkpoints(tmp_path)), run())


def test_the_newest_two_are_kept_also_past_a_million_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.newest(), checkpoints.load()) == (None, None)
    for step in (5, 10, 999_999, 1_000_001):
        checkpoints.save(step, {"model": {"w.x": torch.tensor([float(step)])}}, {"history": [{"step": step}]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000001.safetensors", "step-999999.safetensors"]
    assert (checkpoints.newest(), checkpoints.newest(1_000_000), checkpoints.newest(10)) == (1_000_001, 999_999, None)
    groups, state = checkpoints.load()
    assert groups["model"]["w.x"].item() == 1_000_001
    assert state == {"history": [{"step": 1_000_001}], "step": 1_000_001}


def test_a_history_may_be_larger_than_the_header_that_safetensors_reads(tmp_path):
    checkpoints, history = Checkpoints(tmp_path), ["a" * 101_000_000]
    checkpoints.save(1, {"model": {"w": torch.ones(1)}}, {"history": history})
    assert checkpoints.load()[1]["history"] == history


def scored(gpt, scores):
    """What to learn, but the evaluations find these numbers; None interrupts one."""
    found = iter(scores)

    def evaluate():
        if (value := next(found)) is None:
            raise InterruptedError
        return {"score": value}

    return Objective(lambda model, index: model(torch.ones(1, 4)).square().mean(), evaluate, "score", start_counts=True)


def test_a_run_that_is_stopped_before_its_first_step_goes_on(make_config, tmp_path):
    config, model = make_config(steps=4, evaluate_every=2), torch.nn.Linear(4, 1)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(InterruptedError, match="stopped after step 0 of 4, with a checkpoint"):
        train(model, config, scored(model, [None]), checkpoints=checkpoints)
    with pytest.raises(InterruptedError, match="stopped after step 2 of 4, with a checkpoint"):
        train(model, config, scored(model, [3.0, None]), checkpoints=checkpoints)
    history = train(model, config, scored(model, [2.0, 1.0]), checkpoints=checkpoints)
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4]
    assert [row.get("score") for row in history] == [3.0, None, 2.0, None, 1.0]


def test_a_stop_is_asked_for_before_each_step(make_config, tmp_path):
    config, model = make_config(steps=4, evaluate_every=2), torch.nn.Linear(4, 1)
    asked = iter([False, False, False, True])
    with pytest.raises(InterruptedError, match="stopped after step 3 of 4, with a checkpoint"):
        train(
            model,
            config,
            scored(model, [3.0, 2.0]),
            checkpoints=Checkpoints(tmp_path),
            stop=lambda: next(asked),
        )
    assert Checkpoints(tmp_path).newest() == 3
