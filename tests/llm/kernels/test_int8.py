"""Layers that multiply 8-bit integers, against the product in double precision."""

import os
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from model_shapes import LLAMA
from processors import needs_compiler, needs_exact_sums
from torch import nn

from llm.config import LoRAConfig
from llm.kernels.processor import LARGEST, LARGEST_WITHOUT_VNNI, VARIABLE, possible
from llm.kernels.training.backend import Backend
from llm.kernels.training.int8 import FrozenInt8Linear
from llm.model.lora import add_lora
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
def test_lora_learns_beside_products_in_eight_bits_and_the_weights_stay_as_they_were(make_gpt):
    gpt = make_gpt(**LLAMA | {"bias": True}, n_embd=64)
    add_lora(gpt, LoRAConfig(rank=4, alpha=8, targets=("query_key_value", "projection", "gate", "expand")))
    before = deepcopy(gpt.state_dict())
    learner = with_backend(gpt, Backend(frozen_linear=FrozenInt8Linear), lambda: gpt(TOKENS))
    in_int8 = [module for module in learner.modules() if isinstance(module, FrozenInt8Linear)]
    assert len(in_int8) == 10
    with torch.no_grad():
        rounded = learner(TOKENS)
        assert 0 < error(rounded, gpt(TOKENS).double()) < 0.1
    assert torch.equal(learner(TOKENS), rounded)
    trained = [weight for weight in gpt.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(40):
        loss = nn.functional.cross_entropy(learner(TOKENS[:, :-1])[0], TOKENS[0, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    after = gpt.state_dict()
    assert list(after) == list(before)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name, weight in gpt.named_parameters() if weight.requires_grad
    }


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


POSSIBLE = [kind for kind in possible() if kind.frozen_int8]
SLOWEST_AND_FASTEST = {kind.name: kind for kind in (*POSSIBLE[:1], *POSSIBLE[-1:])}
LIMITS = [{VARIABLE: name} for name in SLOWEST_AND_FASTEST]


@needs_compiler
@pytest.mark.parametrize("variables", [*LIMITS, {"ONEDNN_MAX_CPU_ISA": "AVX2"}], ids=str)
def test_products_are_chosen_only_where_the_processor_multiplies_such_weights_exactly(variables):
    limits = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", VARIABLE)  # of this process
    environment = {name: value for name, value in os.environ.items() if name not in limits} | variables
    output = subprocess.check_output([sys.executable, "-c", OVERFLOW], env=environment, text=True)
    (largest, is_chosen), *products = [line.split() for line in output.splitlines()]
    exact = {number: is_exact for number, (is_exact, _) in zip(("64", "127"), products, strict=True)}
    assert is_chosen == exact.get(largest, "False")
    assert [float(error) < 0.01 for _, error in products] == [is_exact == "True" for is_exact, _ in products]
    if VARIABLE in variables:
        assert int(largest) == SLOWEST_AND_FASTEST[variables[VARIABLE]].frozen_int8
        assert is_chosen == "True"
