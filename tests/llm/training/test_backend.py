"""Errors while compiled blocks are built: those of the compiler have a fallback, all others are passed on."""

import pytest
import torch

from llm.config import GPTConfig
from llm.device import Compute
from llm.kernels.training.backend import Backend
from llm.kernels.training.compiled import CompiledBlock
from llm.model.gpt import GPT
from llm.training.backend import build_training_model
from llm.training.objective import Objective

COMPILED = Backend(block=CompiledBlock, fallback=Backend(name="a fallback"), name="compiled")
CPU = Compute(torch.device("cpu"), torch.float32, "a test", backend=COMPILED)


@pytest.fixture
def gpt() -> GPT:
    return GPT(GPTConfig(context_length=8, n_layer=1, n_embd=16, n_head=1, vocabulary_size=9))


def test_error_of_the_first_loss_is_passed_on(gpt, caplog):
    def loss(model: GPT, index: int) -> torch.Tensor:
        raise ValueError("row 17: label 'smap'")

    with pytest.raises(ValueError, match=r"^row 17: label 'smap'$"):
        build_training_model(gpt, Objective(loss, dict, "loss"), CPU)
    assert caplog.text == ""


@pytest.mark.slow
def test_fallback_learns_where_the_compiler_of_torch_fails(gpt, monkeypatch, tmp_path):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))

    def loss(model: GPT, index: int) -> torch.Tensor:
        return model(torch.tensor([[1, 2, 3]])).sum()

    _, compute = build_training_model(gpt, Objective(loss, dict, "loss"), CPU)
    assert compute.backend.name == "a fallback"
    assert compute.backend_reason.startswith("the compiler failed: InvalidCxxCompiler: No working C++ compiler found")
