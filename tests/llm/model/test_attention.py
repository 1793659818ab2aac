from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

from llm.config import GPTShape
from llm.model.attention import (
    CausalAttention,
    Context,
    GroupedQueryAttention,
    MultiHeadAttention,
    SelfAttention,
)

quick = settings(max_examples=40)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)
assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)


def readable_attention(layer: GroupedQueryAttention, x_BTC: Tensor) -> Tensor:
    """The same by the readable layer, in which queries that share keys have a copy each."""
    n_head, kv_heads, _ = layer.heads
    has_bias = layer.projection.bias is not None
    readable = MultiHeadAttention(x_BTC.shape[-1], n_head, bias=has_bias)
    weights = {f"projection.{kind}": weight for kind, weight in layer.projection.named_parameters()}
    for kind, weight in layer.query_key_value.named_parameters():
        queries, keys, values = weight.unflatten(0, (sum(layer.heads), -1)).split(layer.heads)
        for number in range(n_head):
            shared = number // (n_head // kv_heads)
            weights[f"heads.{number}.query.{kind}"] = queries[number]
            weights[f"heads.{number}.key.{kind}"] = keys[shared]
            weights[f"heads.{number}.value.{kind}"] = values[shared]
    return functional_call(readable, weights, x_BTC, strict=True)


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
    layer = GroupedQueryAttention(shape, layer=0)
    x_BTC = torch.randn(batch, length, shape.n_embd, requires_grad=True)
    y_BTC = layer(x_BTC, Context())
    expected_BTC = readable_attention(layer, x_BTC)
    assert_close(y_BTC, expected_BTC)
    inputs = [x_BTC, *layer.parameters()]
    upstream_BTC = torch.randn_like(x_BTC)
    gradients = torch.autograd.grad(y_BTC, inputs, upstream_BTC)
    assert_close(gradients, torch.autograd.grad(expected_BTC, inputs, upstream_BTC))


@quick
@given(batch=sizes, length=sizes, width=sizes, head_width=sizes, seed=seeds)
def test_self_attention_with_the_future_hidden_is_causal_attention(batch, length, width, head_width, seed):
    torch.manual_seed(seed)
    whole = SelfAttention(width, head_width)
    hidden = CausalAttention(width, head_width)
    hidden.load_state_dict(whole.state_dict())
    x_BTC = torch.randn(batch, length, width)
    assert_close(hidden(x_BTC, torch.ones(length, length, dtype=torch.bool)), whole(x_BTC))
    for end in range(1, length + 1):
        assert_close(hidden(x_BTC)[:, end - 1], whole(x_BTC[:, :end])[:, -1])


def test_dropout_of_causal_attention_drops_a_share_of_the_weights_in_training_alone():
    head = CausalAttention(4, 1, dropout=0.25)
    torch.nn.init.zeros_(head.value.weight)
    torch.nn.init.ones_(head.value.bias)
    x_BTC = torch.randn(2000, 8, 4)
    dropped = head.train()(x_BTC)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert_close(head.eval()(x_BTC), torch.ones(2000, 8, 1))
