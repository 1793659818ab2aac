from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import functional_call

from llm import from_scratch
from llm.config import GPTShape
from llm.model.attention import Context, GroupedQueryAttention, attention, causal

quick = settings(max_examples=40)
sizes = st.integers(1, 6)
seeds = st.integers(0, 2**16)
assert_close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)


def readable_attention(layer: GroupedQueryAttention, x_BTC: Tensor) -> Tensor:
    """The same by the layer of from_scratch, in which queries that share keys have a copy each."""
    n_head, kv_heads, _ = layer.heads
    readable = from_scratch.Attention(from_scratch.Config(1, n_head=n_head, n_embd=x_BTC.shape[-1]))
    weights = {name: torch.zeros_like(bias) for name, bias in readable.named_parameters() if name.endswith("bias")}
    weights |= {f"projection.{kind}": weight for kind, weight in layer.projection.named_parameters()}
    for kind, weight in layer.query_key_value.named_parameters():
        queries, *shared = weight.unflatten(0, (sum(layer.heads), -1)).split(layer.heads)
        copies = [part.repeat_interleave(n_head // kv_heads, dim=0) for part in shared]
        weights[f"query_key_value.{kind}"] = torch.cat([queries, *copies]).flatten(0, 1)
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
@given(batch=sizes, length=sizes, width=sizes, seed=seeds)
def test_a_position_gets_what_it_would_get_if_the_text_ended_there(batch, length, width, seed):
    torch.manual_seed(seed)
    q_BTD, k_BTD, v_BTD = torch.randn(3, batch, length, width)
    hidden_BTD = attention(q_BTD, k_BTD, v_BTD, causal(length))
    for end in range(1, length + 1):
        whole_BTD = attention(q_BTD[:, :end], k_BTD[:, :end], v_BTD[:, :end])
        assert_close(hidden_BTD[:, end - 1], whole_BTD[:, -1])
