"""Layers that multiply 8-bit integers, against the product in double precision."""

import os
import subprocess
import sys

import pytest
import torch
from processors import needs_compiler, needs_exact_sums
from torch import nn

from llm.config import LoRAConfig
from llm.kernels.processor import KINDS, LARGEST, LARGEST_WITHOUT_VNNI, VARIABLE, possible
from llm.kernels.training.backend import Backend
from llm.kernels.training.int8 import FrozenInt8Linear
from llm.model.lora import LoRALinear, add_lora, merge_lora
from llm.training.backend import with_backend

TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6]])


def plain(bias: bool = False) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(96, 64, bias=bias)


def error(tensor: torch.Tensor, exact: torch.Tensor) -> float:
    """How far one tensor is from another, as a share of it."""
    return ((tensor.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("largest", [pytest.param(LARGEST, marks=needs_exact_sums), LARGEST_WITHOUT_VNNI])
def test_integers_are_multiplied_exactly_in_both_directions(largest, dtype):
    frozen = plain()
    weight_OI = torch.randint(1 - largest, largest, frozen.weight.shape).float()
    weight_OI.fill_diagonal_(largest)
    weight_OI[:, 64:] = weight_OI[:, :32]  # so that each input and each output has the largest weight
    frozen.weight.data = weight_OI
    x_NI = torch.randint(-126, 127, (10, 96)).float()
    x_NI[:, 5] = 127
    x_NI.requires_grad_()
    layer = FrozenInt8Linear(frozen, torch.full((96,), float(largest)), largest=largest, dtype=dtype)
    y_NO = layer(x_NI)
    assert y_NO.dtype == dtype
    torch.testing.assert_close(y_NO, (x_NI @ weight_OI.T).to(dtype), rtol=1e-6, atol=1e-2)
    upstream_NO = torch.randint(-126, 127, y_NO.shape).to(dtype)
    upstream_NO[:, 7] = 127
    y_NO.backward(upstream_NO)
    torch.testing.assert_close(x_NI.grad, upstream_NO.float() @ weight_OI, rtol=1e-6, atol=1e-2)


@needs_exact_sums
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_within_1_5_percent_and_gradients_within_3_of_double_precision(bias):
    x_BTI, upstream_BTO = torch.randn(4, 25, 96), torch.randn(4, 25, 64)
    x_BTI[..., 3] *= 30  # a few inputs of trained models are large
    layer = FrozenInt8Linear(plain(bias), x_BTI.flatten(0, 1).abs().amax(0))
    exact, x, exact_x = plain(bias).double(), x_BTI.clone().requires_grad_(), x_BTI.double().requires_grad_()
    y_BTO, exact_BTO = layer(x), exact(exact_x)
    y_BTO.backward(upstream_BTO.bfloat16())
    exact_BTO.backward(upstream_BTO.double())
    assert (y_BTO.dtype, x.grad.dtype) == (torch.bfloat16, torch.float32)
    assert error(y_BTO, exact_BTO) < 0.015
    assert error(x.grad, exact_x.grad) < 0.03


@needs_exact_sums
def test_gradients_far_below_the_largest_are_right_on_average():
    frozen = plain()
    frozen.weight.data[20, 1:] = 0  # the largest gradient of an output is for the first input alone
    upstream_O = torch.full((64,), 1e-3).index_fill(0, torch.tensor([20]), 1.0)  # of which 8 bits have steps of 8e-3
    x_NI = torch.zeros(4000, 96, requires_grad=True)
    torch.manual_seed(1)
    FrozenInt8Linear(frozen, torch.ones(96))(x_NI).backward(upstream_O.expand(4000, 64).bfloat16())
    exact_I = (upstream_O.bfloat16().double() @ frozen.weight.double())[1:]
    assert error(x_NI.grad[0, 1:], exact_I) > 0.5
    assert error(x_NI.grad[:, 1:].double().mean(0), exact_I) < 0.05


@needs_exact_sums
def test_large_input_does_not_cost_the_others_their_digits_and_a_silent_one_may_speak_up():
    frozen = plain()
    frozen.weight.data[:, 3] = 0.001  # the large one counts little
    frozen.weight.data[11] = 0
    x_NI = torch.randn(100, 96)
    x_NI[:, 3] *= 100
    exact_NO = frozen(x_NI).double()
    largest_I = x_NI.abs().amax(0)
    even = FrozenInt8Linear(frozen, largest_I)(x_NI)
    unsmoothed = FrozenInt8Linear(frozen, frozen.weight.abs().amax(0))(x_NI)  # every factor is 1
    silent = FrozenInt8Linear(frozen, largest_I.index_fill(0, torch.arange(40, 96), 0.0))(x_NI)
    assert error(even, exact_NO) < 0.02
    assert error(unsmoothed, exact_NO) > 0.2
    assert error(silent, exact_NO) < 0.05
    assert not even[:, 11].any()
    assert not FrozenInt8Linear(frozen, torch.zeros(96))(torch.zeros(2, 96)).any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_stays_in_its_token(value):
    x_NI = torch.randn(3, 96, requires_grad=True)
    layer = FrozenInt8Linear(plain(), torch.ones(96))
    y_NO = layer(x_NI.detach().index_fill(0, torch.tensor([1]), value))
    assert y_NO.isfinite().all(dim=1).tolist() == [True, False, True]
    upstream_NO = torch.ones(3, 64, dtype=torch.bfloat16)
    upstream_NO[2, 5] = value
    layer(x_NI).backward(upstream_NO)
    assert x_NI.grad.isfinite().all(dim=1).tolist() == [True, True, False]


@needs_exact_sums
def test_products_are_the_same_with_and_without_gradients():
    layer, x_NI = plain(), torch.randn(3, 96)
    in_int8 = FrozenInt8Linear(layer, torch.ones(96))
    with torch.no_grad():
        y_NO = in_int8(x_NI)
    assert torch.equal(in_int8(x_NI), y_NO)
    assert not torch.equal(layer(x_NI), y_NO)


@needs_exact_sums
def test_lora_learns_beside_products_in_eight_bits_and_is_merged_into_the_weights_as_they_were(make_gpt):
    gpt = make_gpt(positions="rotary", norm="rms", mlp="swiglu", bias=True, n_embd=64)
    add_lora(gpt, LoRAConfig(rank=4, alpha=8, targets=("query_key_value", "projection", "gate", "expand")))
    names = list(gpt.state_dict())
    with torch.inference_mode():
        before = gpt(TOKENS)
    learner = with_backend(gpt, Backend(frozen_linear=FrozenInt8Linear), lambda: gpt(TOKENS))
    layers = [module for module in gpt.modules() if isinstance(module, LoRALinear)]
    frozen = [module.frozen.weight.clone() for module in layers]
    in_int8 = [module.frozen for module in learner.modules() if isinstance(module, LoRALinear)]
    assert [layer.weight_OI.dtype for layer in in_int8] == len(layers) * [torch.int8]
    assert list(gpt.state_dict()) == names
    with torch.no_grad():
        assert torch.equal(gpt(TOKENS), before)
        rounded = learner(TOKENS)
    assert 0 < error(rounded, before.double()) < 0.1
    assert torch.equal(learner(TOKENS), rounded)
    trained = [weight for weight in gpt.parameters() if weight.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(40):
        loss = nn.functional.cross_entropy(learner(TOKENS[:, :-1])[0], TOKENS[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 1 < losses[0]
    assert all(torch.equal(module.frozen.weight, weight) for module, weight in zip(layers, frozen, strict=True))
    with torch.inference_mode():
        learned = gpt(TOKENS)
        merge_lora(gpt)
        torch.testing.assert_close(gpt(TOKENS), learned, atol=1e-4, rtol=1e-4)


OVERFLOW = """
import sys
import llm
import torch
from torch import nn
from llm.config import GPTConfig
from llm.device import choose_compute
from llm.kernels.processor import processor
from llm.kernels.training.choose import WORTH_INT8, choose_backend
from llm.kernels.training.int8 import FrozenInt8Linear, sums_are_exact
torch.manual_seed(1)
layer, x = nn.Linear(512, 64), torch.ones(8, 512)  # the sums of inputs that are alike overflow first
layer.weight.data.abs_()
exact = layer(x).double()
shape = GPTConfig(context_length=8, n_layer=1, n_embd=64, n_head=1, vocabulary_size=9)
backend = choose_backend(choose_compute(), shape, int(WORTH_INT8), lora=True).backend
print(processor().frozen_int8, backend.frozen_linear is not None)
for largest in (64, 127):
    rounded = FrozenInt8Linear(layer, torch.ones(512), largest, torch.float32)(x)
    print(sums_are_exact(largest), ((rounded - exact).norm() / exact.norm()).item())
"""


def overflow(**variables: str) -> list[list[str]]:
    """What a process with these variables alone says of its processor and of its products."""
    limits = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", VARIABLE)  # of this process
    environment = {name: value for name, value in os.environ.items() if name not in limits} | variables
    output = subprocess.check_output([sys.executable, "-c", OVERFLOW], env=environment, text=True)
    return [line.split() for line in output.splitlines()]


@needs_compiler
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.frozen_int8], ids=lambda kind: kind.name)
def test_weights_are_as_large_as_the_kind_of_processor_multiplies_exactly(kind):
    if kind not in possible():
        with pytest.raises(subprocess.CalledProcessError):
            overflow(**{VARIABLE: kind.name})
        return
    (largest, is_chosen), *products = overflow(**{VARIABLE: kind.name})
    assert (int(largest), is_chosen) == (kind.frozen_int8, "True")
    expected = [True, kind.frozen_int8 == LARGEST]  # weights up to 64, and up to 127
    assert [is_exact == "True" for is_exact, _ in products] == expected
    assert [float(error) < 0.01 for _, error in products] == expected


@needs_compiler
@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE", "AVX2_VNNI"])
def test_overflowing_products_are_not_chosen_whatever_keeps_torch_from_exact_ones(limit):
    (largest, is_chosen), *products = overflow(ONEDNN_MAX_CPU_ISA=limit)
    exact = {number: is_exact for number, (is_exact, _) in zip(("64", "127"), products, strict=True)}
    assert is_chosen == exact.get(largest, "False")
    assert [float(error) < 0.01 for _, error in products] == [is_exact == "True" for is_exact, _ in products]
