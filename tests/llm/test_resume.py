import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm.config import TrainConfig
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.pretrain import objective
from llm.resume import Checkpoints
from llm.train import train

ROOT = Path(__file__).parents[2]
CPU = Compute(torch.device("cpu"), torch.float32, "a test")


@pytest.fixture
def run(make_gpt, make_config, token_files, encoding):
    """Train with dropout, accumulation and samples; gives history and weights."""

    def go(checkpoints=None, report=lambda row, seconds: None, steps=10):
        gpt = make_gpt(context_length=64, dropout=0.2)
        config: TrainConfig = make_config(
            steps=steps, evaluate_every=4, checkpoint_every=3, gradient_accumulation=2, learning_rate=3e-2
        )
        splits = (TokenWindows(token_files, split, 64) for split in ("train", "validation"))
        goal = objective(gpt, encoding, config, *splits, CPU, evaluation_batches=2, prompts=("the cat",))
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
    assert checkpoints.newest() == (step - 1) // 3 * 3
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


def test_with_all_checkpoints_torn_a_run_begins_anew(run, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "step-000003.safetensors").write_bytes(b"torn")
    assert equal(run(Checkpoints(tmp_path)), run())


def test_the_newest_two_are_kept_also_past_a_million_steps(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.newest(), checkpoints.load()) == (0, None)
    for step in (5, 10, 999_999, 1_000_001):
        checkpoints.save(step, {"model": {"w.x": torch.tensor([float(step)])}}, {"history": [{"step": step}]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1000001.safetensors", "step-999999.safetensors"]
    assert checkpoints.newest() == 1_000_001
    groups, state = checkpoints.load()
    assert groups["model"]["w.x"].item() == 1_000_001
    assert state == {"history": [{"step": 1_000_001}], "step": 1_000_001}


KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from safetensors.torch import save_file
from llm.config import TrainConfig
from llm.resume import Checkpoints
from llm.train import Objective, train

torch.set_num_threads(1)
config = TrainConfig(seed=1, steps=60, batch_size=1, learning_rate=0.01, evaluate_every=5, checkpoint_every=1)

def learn(checkpoints, out):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(32, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 32)]
    model = torch.nn.Sequential(*layers)
    data = torch.randn(200, 32, generator=torch.Generator().manual_seed(1))
    loss = lambda index: (model(data[index]) - data[index].roll(1)).square().mean()
    goal = Objective(loss, lambda: {"score": (model(data) - data.roll(1, 1)).square().mean().item()}, "score")
    history = train(model, config, goal, checkpoints=checkpoints)
    save_file(model.state_dict(), out + ".safetensors")
    Path(out + ".json").write_text(json.dumps(history))

random.seed(int(sys.argv[1]))
checkpoints, reached = Checkpoints(Path("checkpoints")), []
for kill_after in sorted(random.sample(range(1, 50), 3)):
    child = os.fork()
    if not child:
        learn(checkpoints, "never")
        os._exit(0)
    while checkpoints.newest() < kill_after:
        time.sleep(0.001)
    time.sleep(random.random() / 100)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    reached.append(checkpoints.newest())
learn(checkpoints, "killed")
learn(None, "undisturbed")
print(json.dumps(reached))
"""


def test_a_run_killed_at_random_moments_gives_the_weights_of_an_undisturbed_one(tmp_path):
    command = [sys.executable, "-c", KILLED, str(int.from_bytes(os.urandom(4)))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (command[-1], done.stderr)
    reached = json.loads(done.stdout)
    assert 0 < reached[0] <= reached[1] <= reached[2] < 60
    assert json.loads((tmp_path / "killed.json").read_text()) == json.loads((tmp_path / "undisturbed.json").read_text())
    killed, undisturbed = (load_file(tmp_path / f"{name}.safetensors") for name in ("killed", "undisturbed"))
    assert all(torch.equal(killed[name], undisturbed[name]) for name in killed | undisturbed)
