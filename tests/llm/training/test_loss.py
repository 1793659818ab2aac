import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processors import needs_registers
from torch.nn import functional as F

from llm.training.loss import GROUP, IGNORE, ROWS, bits_per_byte, linear_cross_entropy

either_precision = pytest.mark.parametrize("in_int8", [False, True])


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


@needs_registers
@either_precision
@settings(max_examples=25)
@given(
    st.integers(1, 2 * 264 + 3) | st.sampled_from([264, 265, 270]),
    st.sampled_from([64, 192]),
    st.integers(2, 700) | st.sampled_from([64, 512, 513, 576]),
    st.integers(0, 2**16),
)
def test_in_c_loss_and_gradients_are_those_of_all_logits_in_double_precision(in_int8, tokens, width, vocabulary, seed):
    x, weight, targets = made(tokens, width, vocabulary, seed)
    x, weight = ((part / 4).detach().bfloat16().float().requires_grad_() for part in (x, weight))
    loss = linear_cross_entropy(x, weight, targets, in_c=True, logits_in_int8=in_int8)
    loss.backward()
    exact = [part.detach().double().requires_grad_() for part in (x, weight)]
    expected = F.cross_entropy(F.linear(*exact), targets, ignore_index=IGNORE, reduction="sum")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3, abs=0.1)
    bound = 0.02 if in_int8 else 0.01
    for mine, other in zip((x, weight), exact, strict=True):
        assert (mine.grad - other.grad).norm() < bound * other.grad.norm() + 1e-6
    assert torch.equal(x.grad[targets == IGNORE], torch.zeros_like(x.grad[targets == IGNORE]))


@needs_registers
@either_precision
def test_in_c_bits_do_not_depend_on_a_few_threads_and_dtypes_are_those_of_the_inputs(in_int8):
    x, weight, targets = made(300, 64, 130, 0)
    found = []
    for threads in (1, 2, 3, 4, 7):
        torch.set_num_threads(threads)
        try:
            x.grad = weight.grad = None
            loss = linear_cross_entropy(x, weight, targets, in_c=True, logits_in_int8=in_int8)
            loss.backward()
            found.append([loss.detach(), x.grad, weight.grad])
        finally:
            torch.set_num_threads(1)
    *few, many = found
    assert all(torch.equal(*pair) for other in few for pair in zip(few[0], other, strict=True))
    for ours, theirs in zip(many, few[0], strict=True):  # of more threads than slices
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    low = [part.detach().bfloat16().requires_grad_() for part in (x, weight)]
    loss = linear_cross_entropy(*low, targets, in_c=True)
    loss.backward()
    assert [loss.dtype, *(part.grad.dtype for part in low)] == [torch.float32, torch.bfloat16, torch.bfloat16]


@needs_registers
@either_precision
def test_in_c_what_is_no_number_makes_the_loss_none_and_a_frozen_layer_gets_no_gradient(in_int8):
    x, weight, targets = made(20, 64, 100, 0)
    broken = weight.detach().clone()
    broken[99, 3] = float("nan")  # the target of none
    targets = targets.clamp(max=98)
    how = {"in_c": True, "logits_in_int8": in_int8}
    assert linear_cross_entropy(x, broken, targets, **how).isnan()
    linear_cross_entropy(x, weight.detach(), targets, **how).backward()
    frozen = x.grad.clone()
    x.grad = None
    linear_cross_entropy(x, weight, targets, **how).backward()
    assert torch.equal(frozen, x.grad)


@needs_registers
def test_in_c_nothing_counts_where_there_is_nothing_and_evaluation_is_as_before():
    x, weight, targets = made(9, 64, 50, 0)
    none = linear_cross_entropy(x[:0], weight, targets[:0], in_c=True)
    none.backward()
    assert none.item() == 0
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    with torch.no_grad():
        both = [linear_cross_entropy(x, weight, targets, in_c=in_c) for in_c in (False, True)]
    assert torch.equal(*both)


@needs_registers
@either_precision
def test_in_c_a_large_logit_is_as_sure_as_it_is_and_targets_may_be_of_any_integer(in_int8):
    x, weight = torch.zeros(1, 64), torch.zeros(2, 64)
    x[0, 0], weight[0, 0] = 32908.0, 1.0  # which bfloat16 rounds up
    x.requires_grad_()
    for dtype in (torch.int64, torch.int32):
        x.grad = None
        targets = torch.tensor([0], dtype=dtype)
        loss = linear_cross_entropy(x, weight, targets, in_c=True, logits_in_int8=in_int8)
        loss.backward()
        assert loss.item() == 0
        assert torch.equal(x.grad, torch.zeros(1, 64))


@needs_registers
@either_precision
@pytest.mark.parametrize("margin", [8, 12, 16])
def test_in_c_gradients_are_right_where_the_model_is_sure(in_int8, margin):
    draw = torch.Generator().manual_seed(0)
    weight, targets = torch.randn(70, 128, generator=draw) / 8, torch.arange(40)
    x = weight[targets] * margin * 0.5
    x, weight = (part.bfloat16().float().requires_grad_() for part in (x, weight))
    exact = [part.detach().double().requires_grad_() for part in (x, weight)]
    linear_cross_entropy(x, weight, targets, in_c=True, logits_in_int8=in_int8).backward()
    F.cross_entropy(F.linear(*exact), targets, reduction="sum").backward()
    assert exact[0].grad.norm(dim=1).mean() < 0.1  # of 2 where it is not sure
    for mine, other in zip((x, weight), exact, strict=True):
        assert (mine.grad - other.grad).norm() < (0.03 if in_int8 else 0.01) * other.grad.norm()


@needs_registers
@either_precision
@pytest.mark.parametrize("first", [1000.0, 0.0])
def test_in_c_a_target_far_below_the_largest_logit_or_off_by_rounding_has_a_loss_and_gradients(in_int8, first):
    x, weight = torch.full((7, 64), 3.9), torch.zeros(2, 64)  # eight bits of 1000 have no 3.9
    x[0, 0], weight[0, 1:] = first, 1.0
    targets = torch.tensor([0, 0, 1, 1, IGNORE, 0, 1])
    x.requires_grad_(), weight.requires_grad_()
    loss = linear_cross_entropy(x, weight, targets, in_c=True, logits_in_int8=in_int8)
    loss.backward()
    sure = math.log(2) if in_int8 and first else 0
    assert loss.item() == pytest.approx(3 * 63 * 3.9 + sure, rel=0.01)
    assert x.grad[2, 1:].tolist() == pytest.approx([1.0] * 63)
    assert weight.grad.isfinite().all()
    assert torch.equal(x.grad[4], torch.zeros(64))


def test_a_stream_of_a_width_that_c_can_not_read_is_refused():
    x, weight = torch.zeros(3, 96, requires_grad=True), torch.zeros(8, 96)
    with pytest.raises(ValueError, match="a stream is 96 wide, no multiple of 64"):
        linear_cross_entropy(x, weight, torch.tensor([0, 1, 2]), in_c=True)
