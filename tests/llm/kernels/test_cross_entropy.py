"""Output layer and cross-entropy in one, by torch and in C, against all logits at once in double precision."""

import math

import pytest
import torch
from processors import needs_registers
from torch.nn import functional as F

from llm.kernels.training.cross_entropy import (
    GROUP,
    IGNORE,
    ROWS,
    linear_cross_entropy,
    linear_cross_entropy_in_c,
    linear_cross_entropy_with_gradients,
)
from llm.objectives.language_model import bits_per_byte

KERNELS = [
    pytest.param(linear_cross_entropy, torch.float32, 1e-4, id="torch"),
    pytest.param(linear_cross_entropy, torch.bfloat16, 0.01, id="torch-autocast"),
    pytest.param(linear_cross_entropy_with_gradients, torch.float32, 1e-4, id="with-gradients"),
    pytest.param(linear_cross_entropy_with_gradients, torch.bfloat16, 0.01, id="with-gradients-autocast"),
    pytest.param(linear_cross_entropy_in_c, torch.bfloat16, 0.01, marks=needs_registers, id="c"),
]
SHAPES = [  # tokens, width, vocabulary: around pieces of 256, 264 and 1,024 tokens and 64 and 512 of the vocabulary
    *((tokens, 64, 100) for tokens in (0, 1, 7, ROWS, 264, 265, 531, GROUP - 1, GROUP + 1, 2 * GROUP + 3)),
    *((40, 64, vocabulary) for vocabulary in (2, 63, 64, 65, 512, 513, 577)),
    (300, 192, 700),
]


def made(tokens, width, vocabulary):
    """A stream, weights and targets that bfloat16 holds exactly."""
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(count, width, generator=draw) / 4 for count in (tokens, vocabulary))
    targets = torch.randint(vocabulary, (tokens,), generator=draw)
    targets[torch.rand(tokens, generator=draw) < 0.2] = IGNORE
    return *(part.bfloat16().float().requires_grad_() for part in (x, weight)), targets


def exact(x, weight, targets):
    """The loss and its gradients from all logits at once."""
    leaves = [part.detach().double().requires_grad_() for part in (x, weight)]
    loss = F.cross_entropy(F.linear(*leaves), targets, ignore_index=IGNORE, reduction="sum")
    loss.backward()
    return loss.item(), *(leaf.grad for leaf in leaves)


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradients_are_those_of_all_logits_at_once(kernel, dtype, bound, shape):
    x, weight, targets = made(*shape)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = kernel(x, weight, targets)
        (loss / 3).backward()
        with torch.no_grad():
            assert torch.equal(kernel(x, weight, targets), loss)
    expected, *gradients = exact(x, weight, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=bound / 5, abs=10 * bound)
    for leaf, gradient in zip((x, weight), gradients, strict=True):
        assert (3 * leaf.grad - gradient).norm() <= bound * gradient.norm() + 1e-6
    assert not x.grad[targets == IGNORE].any()


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
def test_a_frozen_output_layer_gets_no_gradient_and_the_stream_the_same(kernel, dtype, bound):
    x, weight, targets = made(20, 64, 100)
    gradients = []
    for output in (weight, weight.detach()):
        x.grad = None
        kernel(x, output, targets).backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
@pytest.mark.parametrize("target", [-1, -99, -101, 100, 300])
def test_a_target_that_is_no_token_is_named(kernel, dtype, bound, target):
    x, weight, targets = made(3, 64, 100)
    targets[2] = target
    with pytest.raises(ValueError, match=f"^target {target} is not one of the 100 tokens$"):
        kernel(x, weight, targets)


def test_the_loss_by_hand_over_the_targets_that_count():
    x, weight = torch.tensor([[0.0], [math.log(3)], [9.0]]), torch.tensor([[1.0], [0.0]])
    assert linear_cross_entropy(x, weight, torch.tensor([0, 1, IGNORE])).item() == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize("kernel", [linear_cross_entropy, linear_cross_entropy_with_gradients])
def test_a_target_whose_probability_is_rounded_to_zero_has_a_loss_and_gradients(kernel):
    x, weight = torch.tensor([[400.0]], requires_grad=True), torch.tensor([[1.0], [0.0]], requires_grad=True)
    loss = kernel(x, weight, torch.tensor([1]))
    loss.backward()
    assert [loss.item(), x.grad.item(), *weight.grad.flatten().tolist()] == pytest.approx([400, 1, 400, -400])


def test_bits_per_byte_by_hand():
    # 10 tokens at ln 16 nats are 40 bits; they stand for 20 bytes
    assert bits_per_byte(math.log(16), 10, 20) == pytest.approx(2.0)
    assert bits_per_byte(math.log(256), 1, 1) == pytest.approx(8.0)


@needs_registers
def test_in_c_bits_do_not_depend_on_a_few_threads_and_gradients_have_the_dtypes_of_the_inputs():
    x, weight, targets = made(300, 64, 130)
    found = []
    for threads in (1, 2, 3, 4, 7):
        torch.set_num_threads(threads)
        try:
            x.grad = weight.grad = None
            loss = linear_cross_entropy_in_c(x, weight, targets)
            loss.backward()
            found.append([loss.detach(), x.grad, weight.grad])
        finally:
            torch.set_num_threads(1)
    *few, many = found
    assert all(torch.equal(*pair) for other in few for pair in zip(few[0], other, strict=True))
    for ours, theirs in zip(many, few[0], strict=True):  # of more threads than slices
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    low = [part.detach().bfloat16().requires_grad_() for part in (x, weight)]
    linear_cross_entropy_in_c(*low, targets.int()).backward()
    assert {part.grad.dtype for part in low} == {torch.bfloat16}


@needs_registers
def test_in_c_a_nan_makes_the_loss_nan():
    x, weight, targets = made(20, 64, 100)
    broken = weight.detach().clone()
    broken[99, 3] = float("nan")
    assert linear_cross_entropy_in_c(x, broken, targets.clamp(max=98)).isnan()


@needs_registers
@pytest.mark.parametrize("margin", [8, 12, 16])
def test_in_c_gradients_are_right_where_the_model_is_sure(margin):
    draw = torch.Generator().manual_seed(0)
    weight, targets = torch.randn(70, 128, generator=draw) / 8, torch.arange(40)
    x = weight[targets] * margin * 0.5
    x, weight = (part.bfloat16().float().requires_grad_() for part in (x, weight))
    linear_cross_entropy_in_c(x, weight, targets).backward()
    _, *gradients = exact(x, weight, targets)
    assert gradients[0].norm(dim=1).mean() < 0.1  # of 2 where it is not sure
    for leaf, gradient in zip((x, weight), gradients, strict=True):
        assert (leaf.grad - gradient).norm() < 0.01 * gradient.norm()


@needs_registers
@pytest.mark.parametrize("first", [32908.0, 1000.0, 0.0])  # bfloat16 rounds the first one up
def test_in_c_a_target_far_below_the_largest_logit_or_off_by_rounding_has_a_loss_and_gradients(first):
    x, weight = torch.full((7, 64), 3.9), torch.zeros(2, 64)
    x[0, 0], weight[0, 0], weight[1, 1:] = first, 1.0, 1.0
    x, weight, targets = x.requires_grad_(), weight.requires_grad_(), torch.tensor([0, 1, 0, 1, IGNORE, 0, 1])
    loss = linear_cross_entropy_in_c(x, weight, targets)
    loss.backward()
    expected, *_ = exact(x, weight, targets)
    assert loss.item() == pytest.approx(expected, rel=0.01)
    assert all(part.grad.isfinite().all() for part in (x, weight))
    assert not x.grad[4].any()


@needs_registers
def test_in_c_a_stream_of_another_width_is_refused():
    x, weight = torch.zeros(3, 96, requires_grad=True), torch.zeros(8, 96)
    with pytest.raises(ValueError, match="a stream is 96 wide, no multiple of 64"):
        linear_cross_entropy_in_c(x, weight, torch.tensor([0, 1, 2]))
