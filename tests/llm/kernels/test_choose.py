"""Which backend a training gets, and the model that learns by it."""

from dataclasses import replace

import pytest
import torch
from processors import be, needs_compiler, needs_exact_sums
from torch import nn

from llm.config import GPTConfig, LoRAConfig
from llm.device import Compute
from llm.errors import UserError
from llm.kernels.processor import KINDS, VARIABLE, processor
from llm.kernels.training import choose
from llm.kernels.training.backend import TORCH, Backend
from llm.kernels.training.choose import WORTH, WORTH_C, WORTH_INT8, choose_backend
from llm.kernels.training.compiled import CompiledBlock, cpp_compiler
from llm.kernels.training.cross_entropy import linear_cross_entropy_in_c
from llm.kernels.training.flash import flash_attention
from llm.kernels.training.int8 import FrozenInt8Linear
from llm.kernels.training.muon import muon_in_c
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.training.backend import build_training_model
from llm.training.objective import Objective

CPU = Compute(torch.device("cpu"), torch.float32, "a test")
LOW = Compute(torch.device("cpu"), torch.bfloat16, "a test")
NAMES = [kind.name for kind in KINDS]


def chosen(values: float, compute: Compute = LOW, *, width: int = 64, heads: int = 1, dropout: float = 0.0, **options):
    """The choice for a model of one block through which so many values pass."""
    shape = GPTConfig(context_length=8, n_layer=1, n_embd=width, n_head=heads, vocabulary_size=9, dropout=dropout)
    return choose_backend(compute, shape, int(values / width) + 1, **options)


@pytest.mark.parametrize(
    ("values", "options", "device", "reason"),
    [
        (0.9 * WORTH, {}, "cpu", "it is short, 0.90 of 1 billion values pass through them"),
        (1.1 * WORTH, {"filled": 0.6}, "cpu", "lengths vary, and 40% of batches of one shape were padding"),
        (1.1 * WORTH, {}, "meta", "they are compiled on a CPU alone"),
    ],
)
def test_blocks_stay_eager_where_the_compiler_does_not_pay(values, options, device, reason):
    compute = chosen(values, replace(CPU, device=torch.device(device)), **options)
    assert (compute.backend, compute.backend_reason) == (TORCH, reason)
    assert str(compute).endswith(f"threads: a test; blocks eager: {reason}")


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_blocks_stay_eager_without_a_compiler(monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    monkeypatch.setattr(choose, "cpp_compiler", cpp_compiler.__wrapped__)
    compute = chosen(WORTH, CPU)
    assert compute.backend == TORCH
    assert compute.backend_reason.startswith("there is no C++ compiler")


def test_kind_that_this_processor_can_not_be_is_refused(monkeypatch):
    monkeypatch.setenv(VARIABLE, "abacus")
    with pytest.raises(UserError, match="abacus: this processor"):
        processor()


@pytest.fixture
def built(monkeypatch) -> None:
    """All kernels in C are there, which some machines can't build: these tests choose, and compute nothing by them."""
    for load in ("load_flash", "load_cross_entropy", "load_muon"):
        monkeypatch.setattr(choose, load, object)


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ({"width": 128, "heads": 2}, "eager, in C: attention, loss"),
        ({"width": 192, "heads": 3, "from_scratch": True}, "eager, in C: attention, loss, Muon"),
        ({"width": 128, "heads": 4}, "eager, in C: loss"),
        ({"width": 128, "heads": 2, "dropout": 0.1}, "eager, in C: loss"),
        ({"width": 128, "heads": 2, "predicts_tokens": False}, "eager, in C: attention"),
        ({"width": 96, "from_scratch": True}, "eager"),
    ],
)
def test_kernels_in_c_are_chosen_where_they_suit_the_shape(monkeypatch, shape, name):
    be(monkeypatch, "avx512-bf16")
    backend = chosen(WORTH_C, **shape).backend
    assert backend.name == name
    assert (backend.attention == flash_attention) == ("attention" in name)
    assert (backend.cross_entropy == linear_cross_entropy_in_c) == ("loss" in name)
    assert (backend.muon_update == muon_in_c) == ("Muon" in name)
    assert chosen(WORTH_C, CPU, **shape).backend == chosen(WORTH_C / 2, **shape).backend == TORCH


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("packed", [True, False])
def test_kernels_in_c_are_chosen_by_the_kind_of_processor(monkeypatch, kind, packed):
    row = be(monkeypatch, kind)
    compute = replace(CPU, dtype=row.dtype)
    backend = chosen(WORTH_C, compute, width=128, heads=2, from_scratch=True, packed=packed).backend
    expected = {"avx512-bf16": "eager, in C: attention, loss, Muon", "amx": "eager, in C: attention"}
    assert backend.name == ("eager" if kind == "amx" and not packed else expected.get(kind, "eager"))


@pytest.mark.parametrize(
    ("lacking", "name"),
    [
        ("load_flash", "eager, in C: loss, Muon"),
        ("load_cross_entropy", "eager, in C: attention, Muon"),
        ("load_muon", "eager, in C: attention, loss"),
    ],
)
@pytest.mark.usefixtures("built")
def test_kernels_that_gcc_can_not_build_are_left_to_torch(monkeypatch, lacking, name):
    be(monkeypatch, "avx512-bf16")
    monkeypatch.setattr(choose, lacking, lambda: None)
    assert chosen(WORTH_C, width=128, heads=2, from_scratch=True).backend.name == name


FREEZES = {"avx512-bf16": 127, "avx512-vnni": 127, "avx512": 64, "avx2-vnni": 127, "avx2": 64}


@needs_compiler
@pytest.mark.parametrize(
    ("values", "options", "freezes"),
    [
        (WORTH, {"from_scratch": True}, False),
        (WORTH_INT8, {"lora": True}, True),
        (WORTH_INT8 / 2, {"lora": True}, False),
        (WORTH_INT8, {}, False),
    ],
)
@pytest.mark.parametrize("kind", NAMES)
def test_long_training_is_compiled_and_multiplies_in_8_bits_where_that_is_fast(
    monkeypatch, values, options, freezes, kind
):
    compute = replace(CPU, dtype=be(monkeypatch, kind).dtype)
    monkeypatch.setattr(choose, "sums_are_exact", lambda largest: True)  # as they are on that kind
    backend = chosen(values, compute, **options).backend
    freezes = freezes and kind in FREEZES
    assert (backend.frozen_linear is not None) == freezes
    if freezes:
        layer = backend.frozen_linear(nn.Linear(64, 64), torch.ones(64))
        assert layer.weight_OI.abs().max() == FREEZES[kind]
        assert layer(torch.randn(2, 64)).dtype == compute.dtype
    assert backend.compiles
    assert backend.in_int8 == freezes
    assert (", products in 8 bits" in backend.name) == backend.in_int8
    assert backend.fallback == chosen(values, compute, filled=0.0, **options).backend


@needs_exact_sums
def test_fallback_learns_in_float_where_the_compiler_fails_and_the_reason_is_logged(caplog):
    gpt = GPT(GPTConfig(context_length=8, n_layer=2, n_embd=64, n_head=1, vocabulary_size=9))
    add_lora(gpt, LoRAConfig(rank=4, alpha=8, targets=("query_key_value", "projection", "expand")))
    tokens_BT = torch.tensor([[1, 2, 3]])
    learning = []

    def in_int8(model: nn.Module) -> int:
        return sum(isinstance(module, FrozenInt8Linear) for module in model.modules())

    def fails(model: GPT, index: int) -> torch.Tensor:
        if model is not gpt:
            learning.append(in_int8(model))
            raise torch._dynamo.exc.TorchDynamoException("cannot write\nmore of it")
        return gpt(tokens_BT).sum()

    fallback = Backend(name="a fallback")
    backend = Backend(block=CompiledBlock, fallback=fallback, frozen_linear=FrozenInt8Linear, name="compiled")
    training_model, used = build_training_model(gpt, Objective(fails, dict, "loss"), replace(LOW, backend=backend))
    assert (used.backend, used.backend_reason) == (fallback, "the compiler failed: cannot write")
    assert "the blocks can't be compiled: cannot write" in caplog.text
    assert (learning, in_int8(training_model), in_int8(gpt)) == ([8], 0, 0)
    assert (training_model.backend, gpt.backend) == (fallback, TORCH)
    weights = dict(gpt.named_parameters())
    assert all(weight is weights[name] for name, weight in training_model.named_parameters())
