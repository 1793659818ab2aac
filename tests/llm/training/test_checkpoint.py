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


@pytest.fixture(scope="module")
def run(make_gpt, make_config, token_files) -> Callable[..., Trained]:
    """Train with dropout, accumulation and both optimisers, until a step is interrupted."""

    def start(checkpoints: Checkpoints | None = None, interrupted: int = 0, report: Report = lambda *_: None):
        gpt = make_gpt(dropout=0.2)
        options = {"gradient_accumulation": 2, "optimizer": "muon", "muon_learning_rate": 0.02}
        config = make_config(steps=10, evaluate_every=4, checkpoint_every=3, **options)
        train_windows, validation = [TokenWindows(token_files, split, 32) for split in ("train", "validation")]
        goal = objective(gpt, config, train_windows, validation=validation, compute=CPU, evaluation_batches=2)

        def interrupting(row: Row, seconds: float) -> None:
            report(row, seconds)
            if row["step"] == interrupted and seconds:
                raise KeyboardInterrupt

        history = train(gpt, config, goal, checkpoints=checkpoints, report=interrupting)
        return Trained(history, {name: tensor.clone() for name, tensor in gpt.state_dict().items()})

    return start


@pytest.fixture(scope="module")
def straight(run) -> Trained:
    return run()


def assert_equal(trained: Trained, expected: Trained) -> None:
    """The histories and the weights are equal to the bit."""
    assert trained.history == expected.history
    torch.testing.assert_close(trained.weights, expected.weights, rtol=0, atol=0)


@pytest.mark.parametrize("steps", [(1,), (3,), (4, 5, 8), (10,)])
def test_resume_after_interruptions_gives_equal_weights(run, straight, tmp_path, steps):
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            run(Checkpoints(tmp_path), step)
        assert Checkpoints(tmp_path).newest() == ((step - 1) // 3 * 3 or None)
    assert_equal(run(Checkpoints(tmp_path)), straight)


def test_resume_of_a_finished_run_trains_nothing_and_reports_its_rows_again(run, straight, tmp_path):
    run(Checkpoints(tmp_path))
    reports = []
    again = run(Checkpoints(tmp_path), report=lambda row, seconds: reports.append((row["step"], seconds)))
    assert_equal(again, straight)
    assert reports == [(step, 0.0) for step in range(1, 11)]


@pytest.mark.parametrize(
    ("name", "change", "resumed"),
    [
        ("step-000006.safetensors", lambda content: b"", 3),
        ("step-000006.safetensors", lambda content: content[:5000], 3),
        ("step-000006.safetensors", lambda content: content[:50_000] + b"?" + content[50_001:], 3),
        ("history.jsonl", lambda content: content[:-1], 3),
        ("history.jsonl", lambda content: content[:9], None),
        ("history.jsonl", lambda content: content + b'{"step": 7, "train', 6),
    ],
)
def test_resume_skips_corrupt_checkpoints_with_a_warning(run, straight, tmp_path, caplog, name, change, resumed):
    with pytest.raises(KeyboardInterrupt):
        run(Checkpoints(tmp_path), 8)
    file = tmp_path / name
    file.write_bytes(change(file.read_bytes()))
    checkpoint = Checkpoints(tmp_path).load()
    assert (checkpoint and checkpoint[1]["step"]) == resumed
    assert (f"{file} cannot be read" in caplog.text) == (resumed != 6)
    assert_equal(run(Checkpoints(tmp_path)), straight)
    assert Checkpoints(tmp_path).load()[1]["step"] == 10


def test_newest_two_checkpoints_are_kept_also_past_a_million_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (5, 999_999, 1_000_001):
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
        checkpoints.save(step, {"model": {"w": torch.ones(1)}}, history[: step - 100])
        sizes.append((tmp_path / f"step-{step:06}.safetensors").stat().st_size)
    assert max(sizes) < min(sizes) + 20  # digits
    assert Checkpoints(tmp_path).load()[1]["history"] == history


def test_stop_or_an_interrupted_evaluation_saves_a_checkpoint_also_before_the_first_step(make_config, tmp_path):
    config = make_config(steps=4, evaluate_every=2)
    model = nn.Linear(4, 1)
    scores = iter([None, 3.0, None, 2.0, 1.0])  # None interrupts an evaluation
    answers = iter([False, True])

    def evaluate() -> Row:
        score = next(scores)
        if score is None:
            raise InterruptedError
        return {"score": score}

    def loss(model: nn.Module, batch: int) -> Tensor:
        return model(torch.ones(1, 4)).square().mean()

    goal = Objective(loss, evaluate, best="score", start_counts=True)
    for step in (0, 2):
        with pytest.raises(InterruptedError, match=f"stopped after step {step} of 4, with a checkpoint"):
            train(model, config, goal, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(InterruptedError, match="stopped after step 3 of 4, with a checkpoint"):
        train(model, config, goal, checkpoints=Checkpoints(tmp_path), stop=lambda: next(answers))
    history = train(model, config, goal, checkpoints=Checkpoints(tmp_path))
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4]
    assert [row.get("score") for row in history] == [3.0, None, 2.0, None, 1.0]
