"""A training with compiled blocks: near that of eager ones, and the same bytes in every process."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.config import GPTConfig, LoRAConfig, TrainConfig
from llm.device import Compute
from llm.kernels.processor import LARGEST, processor
from llm.kernels.training.backend import Backend
from llm.kernels.training.compiled import CompiledBlock
from llm.kernels.training.cross_entropy import linear_cross_entropy_in_c
from llm.kernels.training.flash import flash_attention
from llm.kernels.training.int8 import FrozenInt8Linear
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.language_model import window_loss
from llm.training.backend import build_training_model
from llm.training.checkpoint import Checkpoints
from llm.training.loop import train
from llm.training.objective import Objective, Row
from tests.model_shapes import LLAMA
from tests.processors import needs_compiler  # also in processes of its own

pytestmark = [pytest.mark.slow, needs_compiler]
EAGER = Compute(torch.device("cpu"), torch.bfloat16, "a test")
CONFIG = TrainConfig(seed=1, steps=20, batch_size=2, learning_rate=1e-2, evaluate_every=20, checkpoint_every=10)


def compiled() -> Compute:
    """Compiled blocks, with all other kernels that this processor has: compiling takes long, so they come together."""
    backend = Backend(fallback=Backend(), name="compiled")
    if "avx512_bf16" in processor().needs:
        backend = replace(backend, attention=flash_attention, cross_entropy=linear_cross_entropy_in_c)
    frozen = FrozenInt8Linear if processor().frozen_int8 == LARGEST else None
    return replace(EAGER, backend=replace(backend, block=CompiledBlock, frozen_linear=frozen))


def make() -> tuple[GPT, Objective]:
    """A small model of Llama's form with LoRA beside a frozen body, and tokens to learn."""
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(context_length=64, n_layer=2, n_embd=64, n_head=1, vocabulary_size=50, **LLAMA))
    add_lora(gpt, LoRAConfig(rank=4, alpha=8, targets=("query_key_value", "projection", "gate", "expand")))
    tokens_NT = torch.randint(50, (4, 2, 33))

    def loss(model: GPT, index: int) -> torch.Tensor:
        tokens_BT = tokens_NT[index % 4]
        with EAGER.autocast():
            return window_loss(model, tokens_BT[:, :-1], tokens_BT[:, 1:], cross_entropy=model.backend.cross_entropy)

    def evaluate() -> Row:
        return {"validation_loss": loss(gpt, 0).item()}

    return gpt, Objective(loss, evaluate, best="validation_loss")


def learn(compute: Compute, folder: Path) -> tuple[torch.Tensor, str]:
    """The losses of a training, and the hash of its weights; the model that is evaluated stays eager, to the bit."""
    gpt, goal = make()
    with torch.inference_mode():
        before = goal.evaluate()
    training_model, used = build_training_model(gpt, goal, compute)
    assert used == compute
    with torch.inference_mode():
        assert goal.evaluate() == before
    assert all(weight.grad is None for weight in gpt.parameters())
    history = train(gpt, CONFIG, goal, training_model=training_model, checkpoints=Checkpoints(folder))
    weights = [weight.detach().contiguous().view(torch.uint8) for weight in gpt.parameters()]
    digest = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in weights)).hexdigest()
    return torch.tensor([row["train_loss"] for row in history]), digest


def compare(folder: Path) -> str:
    """The hash of what compiled blocks learned, with losses near those of eager ones."""
    eager, _ = learn(EAGER, folder / "eager")
    fast, digest = learn(compiled(), folder / "compiled")
    assert not torch.equal(eager, fast)
    rounding = 0.05 if processor().frozen_int8 == LARGEST else 0.01  # of 3.9; bfloat16 has 8 bits
    assert (eager - fast).abs().max() < rounding
    assert eager[0] > eager[-1]
    return digest


def resume(folder: Path) -> str:
    """The hash of what compiled blocks learned that go on from the checkpoint of step 10."""
    *_, last = sorted((folder / "compiled").glob("*.safetensors"))
    last.unlink()
    assert Checkpoints(folder / "compiled").newest() == 10
    _, digest = learn(compiled(), folder / "compiled")
    return digest


def test_compiled_blocks_learn_as_eager_ones_and_resume_in_another_process_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # of both

    def in_a_process(function: str) -> str:  # as what other tests import may be in the compiler's way
        code = f"""import pathlib, runpy, sys
sys.stdout.write(runpy.run_path({__file__!r})[{function!r}](pathlib.Path({str(tmp_path)!r})))"""
        return subprocess.run([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, check=True).stdout

    expected = in_a_process("compare")
    assert len(expected) == 64
    assert in_a_process("resume") == expected
