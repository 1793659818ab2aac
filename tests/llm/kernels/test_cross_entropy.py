"""Output layer and cross-entropy in one, by torch and in C, against all logits at once in double precision."""

from typing import NamedTuple

import pytest
import torch
from processors import needs_registers, threads
from torch import Tensor
from torch.nn import functional as F

from llm.kernels.training.cross_entropy import (
    GROUP,
    ROWS,
    linear_cross_entropy_in_c,
    linear_cross_entropy_with_gradients,
)
from llm.training.loss import linear_cross_entropy

TORCH_KERNELS = [
    pytest.param(linear_cross_entropy, torch.bfloat16, 0.01, id="plain-autocast"),
    pytest.param(linear_cross_entropy_with_gradients, torch.float32, 1e-4, id="with-gradients"),
    pytest.param(linear_cross_entropy_with_gradients, torch.bfloat16, 0.01, id="with-gradients-autocast"),
]
KERNELS = [*TORCH_KERNELS, pytest.param(linear_cross_entropy_in_c, torch.bfloat16, 0.01, marks=needs_registers, id="c")]
TOKENS = (0, 1, 7, ROWS, 264, 265, 531, GROUP - 1, GROUP + 1, 2 * GROUP + 3)  # around pieces of 256, 264 and 1,024
VOCABULARIES = (2, 63, 64, 65, 512, 513, 577)  # around pieces of 64 and 512
SHAPES = [
    *((tokens, 64, 100) for tokens in TOKENS),
    *((40, 64, vocabulary) for vocabulary in VOCABULARIES),
    (300, 192, 700),
]


class Case(NamedTuple):
    """What a loss is computed from."""

    x_NC: Tensor
    weight_VC: Tensor
    targets_N: Tensor


def as_leaf(tensor: Tensor) -> Tensor:
    """The tensor in values that bfloat16 holds exactly."""
    return tensor.bfloat16().float().requires_grad_()


def make_case(tokens: int, width: int, vocabulary: int) -> Case:
    """A stream, weights and targets, at random."""
    draw = torch.Generator().manual_seed(0)
    x_NC = as_leaf(torch.randn(tokens, width, generator=draw) / 4)
    weight_VC = as_leaf(torch.randn(vocabulary, width, generator=draw) / 4)
    return Case(x_NC, weight_VC, torch.randint(vocabulary, (tokens,), generator=draw))


def exact(case: Case) -> tuple[float, Tensor, Tensor]:
    """The loss and its two gradients from all logits at once."""
    x_NC = case.x_NC.detach().double().requires_grad_()
    weight_VC = case.weight_VC.detach().double().requires_grad_()
    loss = F.cross_entropy(F.linear(x_NC, weight_VC), case.targets_N, reduction="sum")
    loss.backward()
    return loss.item(), x_NC.grad, weight_VC.grad


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradients_are_those_of_all_logits_at_once(kernel, dtype, bound, shape):
    case = make_case(*shape)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = kernel(*case)
        (loss / 3).backward()
        with torch.no_grad():
            assert torch.equal(kernel(*case), loss)
    expected, dx_NC, dweight_VC = exact(case)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=bound / 5, abs=10 * bound)
    assert (3 * case.x_NC.grad - dx_NC).norm() <= bound * dx_NC.norm() + 1e-6
    assert (3 * case.weight_VC.grad - dweight_VC).norm() <= bound * dweight_VC.norm() + 1e-6


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
def test_frozen_output_layer_gets_no_gradient_and_the_stream_the_same(kernel, dtype, bound):
    case = make_case(20, 64, 100)
    kernel(*case).backward()
    learned_dx_NC = case.x_NC.grad
    case.x_NC.grad = None
    kernel(case.x_NC, case.weight_VC.detach(), case.targets_N).backward()
    assert torch.equal(case.x_NC.grad, learned_dx_NC)


@pytest.mark.parametrize("kernel", [linear_cross_entropy_with_gradients, linear_cross_entropy_in_c])
@pytest.mark.parametrize("target", [-1, -100, 100, 300])
def test_target_that_is_no_token_is_named(kernel, target):
    case = make_case(3, 64, 100)
    case.targets_N[2] = target
    with pytest.raises(ValueError, match=f"^target {target} is not one of the 100 tokens$"):
        kernel(*case)


@needs_registers
def test_bits_in_c_are_the_same_for_a_few_threads_and_gradients_have_the_dtypes_of_the_inputs():
    def learn(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
        case = make_case(300, 64, 130)
        x_NC = case.x_NC.detach().to(dtype).requires_grad_()
        weight_VC = case.weight_VC.detach().to(dtype).requires_grad_()
        with threads(count):
            loss = linear_cross_entropy_in_c(x_NC, weight_VC, case.targets_N.int())
            loss.backward()
        assert x_NC.grad.dtype == weight_VC.grad.dtype == dtype
        return loss.detach(), x_NC.grad, weight_VC.grad

    learn(1, torch.bfloat16)
    expected = learn(1)
    for count in (2, 3, 4):
        torch.testing.assert_close(learn(count), expected, rtol=0, atol=0)
    more_than_slices = 7
    torch.testing.assert_close(learn(more_than_slices), expected, rtol=1e-2, atol=1e-2)


@needs_registers
def test_nan_makes_the_loss_in_c_nan():
    case = make_case(20, 64, 100)
    weight_VC = case.weight_VC.detach().clone()
    weight_VC[99, 3] = float("nan")
    assert linear_cross_entropy_in_c(case.x_NC, weight_VC, case.targets_N.clamp(max=98)).isnan()


@needs_registers
@pytest.mark.parametrize("margin", [8, 16])
def test_gradients_in_c_are_right_where_the_model_is_sure(margin):
    weight_VC = torch.randn(70, 128, generator=torch.Generator().manual_seed(0)) / 8
    case = Case(as_leaf(weight_VC[:40] * margin / 2), as_leaf(weight_VC), torch.arange(40))
    linear_cross_entropy_in_c(*case).backward()
    _, dx_NC, dweight_VC = exact(case)
    assert dx_NC.norm(dim=1).mean() < 0.1  # of 2 where it is not sure
    assert (case.x_NC.grad - dx_NC).norm() < 0.01 * dx_NC.norm()
    assert (case.weight_VC.grad - dweight_VC).norm() < 0.01 * dweight_VC.norm()


@pytest.mark.parametrize(
    "kernel",
    [linear_cross_entropy_with_gradients, pytest.param(linear_cross_entropy_in_c, marks=needs_registers, id="c")],
)
@pytest.mark.parametrize("first", [32908.0, 1000.0, 0.0])  # bfloat16 rounds the first one up
def test_target_far_below_the_largest_logit_or_off_by_rounding_has_a_loss_and_gradients(kernel, first):
    x_NC = torch.full((7, 64), 3.9)
    x_NC[0, 0] = first
    weight_VC = torch.zeros(2, 64)
    weight_VC[0, 0] = 1.0
    weight_VC[1, 1:] = 1.0
    case = Case(x_NC.requires_grad_(), weight_VC.requires_grad_(), torch.tensor([0, 1, 0, 1, 1, 0, 1]))
    loss = kernel(*case)
    loss.backward()
    expected, *_ = exact(case)
    assert loss.item() == pytest.approx(expected, rel=0.01)
    assert case.x_NC.grad.isfinite().all()
    assert case.weight_VC.grad.isfinite().all()


@needs_registers
def test_stream_of_another_width_is_refused_in_c():
    with pytest.raises(ValueError, match="a stream is 96 wide, no multiple of 64"):
        linear_cross_entropy_in_c(torch.zeros(3, 96), torch.zeros(8, 96), torch.tensor([0, 1, 2]))
