import math
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from llm.config import GPTShape
from llm.model.attention import (
    CausalAttention,
    Context,
    GroupedQueryAttention,
    MultiHeadAttention,
    SelfAttention,
    attention,
    causal,
)

quick = settings(max_examples=40)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)
assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)


class Layers(NamedTuple):
    """The model's layer, and the readable one with the same weights: queries that share keys get a copy each."""

    fast: GroupedQueryAttention
    readable: MultiHeadAttention


def make_layers(shape: GPTShape) -> Layers:
    fast = GroupedQueryAttention(shape, layer=0).eval()
    readable = MultiHeadAttention(shape.n_embd, shape.n_head, bias=shape.bias).eval()
    readable.projection.load_state_dict(fast.projection.state_dict())
    queries_a_key = shape.n_head // shape.kv_heads
    for kind in ("weight", "bias") if shape.bias else ("weight",):
        parts = getattr(fast.query_key_value, kind).detach().unflatten(0, (-1, shape.head_width))
        queries, keys, values = parts.split([shape.n_head, shape.kv_heads, shape.kv_heads])
        for number, head in enumerate(readable.heads):
            getattr(head.query, kind).data.copy_(queries[number])
            getattr(head.key, kind).data.copy_(keys[number // queries_a_key])
            getattr(head.value, kind).data.copy_(values[number // queries_a_key])
    return Layers(fast, readable)


def fused_gradient(readable: MultiHeadAttention, kv_heads: int) -> Tensor:
    """The gradient of `query_key_value.weight`: where queries share keys, the sum over their copies."""
    queries = torch.cat([head.query.weight.grad for head in readable.heads])
    keys = torch.stack([head.key.weight.grad for head in readable.heads])
    values = torch.stack([head.value.weight.grad for head in readable.heads])
    shared = [part.unflatten(0, (kv_heads, -1)).sum(1).flatten(0, 1) for part in (keys, values)]
    return torch.cat([queries, *shared])


@quick
@given(
    batch=sizes,
    length=sizes,
    kv_heads=st.integers(1, 3),
    queries_a_key=st.integers(1, 3),
    width=sizes,
    bias=st.booleans(),
    seed=seeds,
)
def test_attention_layer_equals_the_readable_one_forward_and_backward(
    batch, length, kv_heads, queries_a_key, width, bias, seed
):
    torch.manual_seed(seed)
    heads = kv_heads * queries_a_key
    shape = GPTShape(context_length=8, n_layer=1, n_head=heads, n_kv_head=kv_heads, n_embd=heads * width, bias=bias)
    layers = make_layers(shape)
    x_BTC = torch.randn(batch, length, shape.n_embd, requires_grad=True)
    copy_BTC = x_BTC.detach().clone().requires_grad_()
    y_BTC = layers.fast(x_BTC, Context())
    expected_BTC = layers.readable(copy_BTC)
    assert_close(y_BTC, expected_BTC)
    upstream_BTC = torch.randn_like(x_BTC)
    y_BTC.backward(upstream_BTC)
    expected_BTC.backward(upstream_BTC)
    assert_close(x_BTC.grad, copy_BTC.grad)
    assert_close(layers.fast.projection.weight.grad, layers.readable.projection.weight.grad)
    assert_close(layers.fast.query_key_value.weight.grad, fused_gradient(layers.readable, kv_heads))


@quick
@given(batch=sizes, length=sizes, width=sizes, head_width=sizes, seed=seeds)
def test_self_attention_with_the_future_hidden_is_causal_attention(batch, length, width, head_width, seed):
    torch.manual_seed(seed)
    whole = SelfAttention(width, head_width)
    hidden = CausalAttention(width, head_width)
    hidden.load_state_dict(whole.state_dict())
    x_BTC = torch.randn(batch, length, width)
    assert_close(hidden(x_BTC)[:, -1], whole(x_BTC)[:, -1])  # the last token sees all
    assert_close(hidden(x_BTC, torch.ones(length, length, dtype=torch.bool)), whole(x_BTC))
    for end in range(1, length):
        assert_close(hidden(x_BTC)[:, end - 1], whole(x_BTC[:, :end])[:, -1])


def test_dropout_of_causal_attention_drops_a_share_of_the_weights_and_scales_up_the_others():
    torch.manual_seed(0)
    head = CausalAttention(4, 1, dropout=0.25)
    torch.nn.init.zeros_(head.query.weight)
    torch.nn.init.zeros_(head.query.bias)  # equal scores, so each weight is 1 / t
    torch.nn.init.zeros_(head.value.weight)
    torch.nn.init.ones_(head.value.bias)
    x_BTC = torch.randn(2000, 8, 4)
    remaining = head.train()(x_BTC)[:, -1] * 8 * 0.75  # how many of eight weights
    assert_close(remaining.round(), remaining, atol=1e-4)
    assert remaining.mean().item() == pytest.approx(6, abs=0.1)
    assert_close(head.eval()(x_BTC), torch.ones(2000, 8, 1))


@quick
@given(batch=sizes, queries=sizes, keys=sizes, heads=st.integers(1, 4), width=sizes, seed=seeds)
def test_formula_equals_torchs_kernel_for_any_numbers_of_queries_and_keys(batch, queries, keys, heads, width, seed):
    torch.manual_seed(seed)
    q_BHTD = torch.randn(batch, heads, queries, width)
    k_BHSD = torch.randn(batch, heads, keys, width)
    v_BHSD = torch.randn(batch, heads, keys, width)
    visible_TS = torch.rand(queries, keys) < 0.5
    visible_TS[torch.arange(queries), torch.randint(keys, (queries,))] = True
    expected = F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=visible_TS)
    y_BHTD = attention(q_BHTD, k_BHSD, v_BHSD, visible_TS=visible_TS)
    torch.testing.assert_close(y_BHTD, expected, atol=1e-6, rtol=1e-5)


def test_formula_by_hand():
    q_TD = torch.tensor([[2.0, 0.0]])
    k_SD = torch.tensor([[0.0, 5.0], [2**0.5 / 2, 1.0], [9.0, 9.0]])
    v_SD = torch.tensor([[1.0], [3.0], [100.0]])
    visible_TS = torch.tensor([[True, True, False]])
    # scores 0 and 2 * sqrt(1/2) / sqrt(2) = 1; the third is unseen
    y_TD = attention(q_TD, k_SD, v_SD, visible_TS=visible_TS)
    assert y_TD.item() == pytest.approx((1 + 3 * math.e) / (1 + math.e))


def test_causal_mask_shows_a_position_itself_and_what_was_before():
    assert causal(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
