"""Attention by blocks of queries, against the formula."""

import pytest
import torch
from attention_oracle import by_formula, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import GPTConfig
from llm.kernels.training.blockwise import BLOCK, LONGEST, blockwise_attention, suits_blockwise
from llm.model import attention as layer
from llm.model.gpt import GPT


def heads_of(batch: int, heads: tuple[int, int], length: int, width: int, seed: int) -> list[torch.Tensor]:
    """Queries, keys, values and a gradient of what they hear, float64."""
    torch.manual_seed(seed)
    counts = (heads[0], heads[1], heads[1], heads[0])
    return [torch.randn(batch, count, length, width, dtype=torch.float64) for count in counts]


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (6, 2)]),
    st.one_of(st.integers(1, 3 * BLOCK), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])),
    st.sampled_from([2, 8]),
    st.integers(0, 2**16),
)
def test_it_is_the_formula_forward_and_backward(batch, heads, length, width, seed):
    *inputs, upstream_BHTD = heads_of(batch, heads, length, width, seed)
    expected = with_gradients(by_formula, inputs, upstream_BHTD)
    for ours, theirs in zip(with_gradients(blockwise_attention, inputs, upstream_BHTD), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_heads_may_lie_in_memory_as_they_come_from_one_product():
    torch.manual_seed(0)
    parts_BTHD = torch.randn(2, BLOCK + 5, 4, 8, dtype=torch.float64)
    inputs = parts_BTHD.transpose(1, 2).split((2, 1, 1), dim=1)
    upstream_BHTD = torch.randn(2, BLOCK + 5, 2, 8, dtype=torch.float64).transpose(1, 2)
    expected = with_gradients(by_formula, inputs, upstream_BHTD)
    for ours, theirs in zip(with_gradients(blockwise_attention, inputs, upstream_BHTD), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_in_bfloat16_it_is_as_near_as_a_few_roundings_allow():
    *inputs, upstream_BHTD = heads_of(2, (4, 2), 2 * BLOCK + 3, 64, seed=0)
    expected = with_gradients(by_formula, inputs, upstream_BHTD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(blockwise_attention, inputs, upstream_BHTD, torch.float32)
    assert [part.dtype for part in found] == [torch.bfloat16, torch.float32, torch.float32, torch.float32]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize(
    ("length", "dropout", "device", "suits"),
    [(LONGEST, 0.0, "cpu", True), (LONGEST + 1, 0.0, "cpu", False), (8, 0.1, "cpu", False), (8, 0.0, "meta", False)],
)
def test_it_is_for_a_cpu_without_dropout_where_its_weights_are_not_too_many(length, dropout, device, suits):
    assert suits_blockwise(torch.empty(1, 1, length, 2, device=device), dropout) == suits


@pytest.mark.parametrize("context_length", [LONGEST, LONGEST + 1])
def test_a_model_learns_by_it_and_answers_as_before(context_length, monkeypatch):
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(context_length=context_length, n_layer=2, n_head=2, n_embd=8, vocabulary_size=11))
    tokens_BT = torch.randint(11, (1, context_length))
    lengths = []
    real = layer.blockwise_attention
    monkeypatch.setattr(
        layer, "blockwise_attention", lambda q_BHTD, *rest: (lengths.append(q_BHTD.shape[2]), real(q_BHTD, *rest))[1]
    )
    learned_BTV = gpt(tokens_BT)
    assert lengths == [context_length] * 2 * (context_length <= LONGEST)
    with torch.no_grad():
        torch.testing.assert_close(gpt(tokens_BT), learned_BTV, atol=1e-5, rtol=1e-5)
    assert len(lengths) == 2 * (context_length <= LONGEST)
