import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from llm.training.loss import GROUP, IGNORE, ROWS, bits_per_byte, linear_cross_entropy


def made(tokens: int, width: int, vocabulary: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(tokens, width, generator=draw), torch.randn(vocabulary, width, generator=draw)
    targets = torch.randint(vocabulary, (tokens,), generator=draw)
    targets[torch.rand(tokens, generator=draw) < 0.2] = IGNORE
    return x.requires_grad_(), weight.requires_grad_(), targets


def whole(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """All logits at once, by torch's own function."""
    return F.cross_entropy(F.linear(x, weight).float(), targets, ignore_index=IGNORE, reduction="sum")


@settings(max_examples=30)
@given(
    st.integers(0, 2 * ROWS + 3) | st.integers(GROUP - 1, 2 * GROUP + 3),
    st.integers(1, 8),
    st.integers(2, 30),
    st.integers(0, 2**16),
)
def test_loss_and_gradients_equal_those_of_all_logits_at_once(tokens, width, vocabulary, seed):
    ours, theirs = made(tokens, width, vocabulary, seed), made(tokens, width, vocabulary, seed)
    (linear_cross_entropy(*ours) / 3).backward()
    (whole(*theirs) / 3).backward()
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)
    expected = whole(*theirs).item()
    assert linear_cross_entropy(*ours).item() == pytest.approx(expected, rel=1e-5, abs=1e-4)
    with torch.inference_mode():
        assert linear_cross_entropy(*ours).item() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_the_loss_by_hand_over_the_targets_that_count():
    x, weight = torch.tensor([[0.0], [math.log(3)], [9.0]]), torch.tensor([[1.0], [0.0]])
    assert linear_cross_entropy(x, weight, torch.tensor([0, 1, IGNORE])).item() == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("target", [-1, -99, -101, 2, 300])
def test_a_target_that_is_no_token_is_named(target, grad):
    x, weight = torch.ones(3, 1, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match=f"^target {target} is not one of the 2 tokens$"):
        linear_cross_entropy(x, weight, torch.tensor([1, IGNORE, target]))


def test_a_target_whose_probability_is_rounded_to_zero_has_a_loss_and_gradients():
    x, weight = torch.tensor([[400.0]], requires_grad=True), torch.tensor([[1.0], [0.0]], requires_grad=True)
    loss = linear_cross_entropy(x, weight, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(400)
    assert x.grad.item() == pytest.approx(1)
    assert weight.grad.flatten().tolist() == pytest.approx([400, -400])


def test_under_autocast_the_products_are_in_its_dtype_and_the_loss_in_float32():
    ours, theirs = made(ROWS + 9, 64, 100, 1), made(ROWS + 9, 64, 100, 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, expected = linear_cross_entropy(*ours), whole(*theirs)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    assert loss.item() != pytest.approx(whole(*theirs).item(), rel=1e-7)
    loss.backward()
    expected.backward()
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        assert (mine.grad - other.grad).norm() < 0.01 * other.grad.norm()


def test_bits_per_byte_by_hand():
    # 10 tokens at ln 16 nats are 40 bits; they stand for 20 bytes
    assert bits_per_byte(math.log(16), 10, 20) == pytest.approx(2.0)
    assert bits_per_byte(math.log(256), 1, 1) == pytest.approx(8.0)


def test_a_frozen_output_layer_gets_no_gradient_and_the_text_the_same():
    generator = torch.Generator().manual_seed(0)
    x_NC, weight_VC = torch.randn(5, 8, generator=generator), torch.randn(11, 8, generator=generator)
    targets_N, gradients = torch.arange(5), []
    for trained in (True, False):
        x, weight = x_NC.clone().requires_grad_(), weight_VC.clone().requires_grad_(trained)
        linear_cross_entropy(x, weight, targets_N).backward()
        assert (weight.grad is not None) == trained
        gradients.append(x.grad)
    assert torch.equal(*gradients)
