import math
from functools import partial

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
from llm.model.key_value_cache import KeyValueCache

quick = settings(max_examples=40)
sizes = st.integers(1, 6)
close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)


def fast_and_readable(
    heads: int, groups: int, width: int, bias: bool = True
) -> tuple[GroupedQueryAttention, MultiHeadAttention]:
    """The model's layer, and the readable one with the same weights: queries that share keys get a copy each."""
    shape = GPTShape(
        context_length=8, n_layer=1, n_head=heads * groups, n_kv_head=heads, n_embd=heads * groups * width, bias=bias
    )
    fast = GroupedQueryAttention(shape, layer=0).eval()
    readable = MultiHeadAttention(shape.n_embd, shape.n_head, bias).eval()
    readable.projection.load_state_dict(fast.projection.state_dict())
    for kind in ("weight", "bias") if bias else ("weight",):
        parts = getattr(fast.query_key_value, kind).detach().unflatten(0, (-1, width))
        queries, keys, values = parts.split([heads * groups, heads, heads])
        for number, head in enumerate(readable.heads):
            getattr(head.query, kind).data.copy_(queries[number])
            getattr(head.key, kind).data.copy_(keys[number // groups])
            getattr(head.value, kind).data.copy_(values[number // groups])
    return fast, readable


def fused_gradient(readable: MultiHeadAttention, heads: int, groups: int) -> torch.Tensor:
    """The gradient of `query_key_value.weight`: where queries share keys, the sum over their copies."""
    queries = [head.query.weight.grad for head in readable.heads]
    shared = [
        torch.stack([getattr(head, name).weight.grad for head in readable.heads[n * groups : (n + 1) * groups]]).sum(0)
        for name in ("key", "value")
        for n in range(heads)
    ]
    return torch.cat([*queries, *shared])


@quick
@given(sizes, sizes, st.integers(1, 3), st.integers(1, 3), sizes, st.booleans(), st.integers(0, 2**16))
def test_the_models_layer_equals_the_readable_one_forward_and_backward(batch, length, heads, groups, width, bias, seed):
    torch.manual_seed(seed)
    fast, readable = fast_and_readable(heads, groups, width, bias)
    x_BTC = torch.randn(batch, length, heads * groups * width)
    ours, theirs = x_BTC.clone().requires_grad_(), x_BTC.clone().requires_grad_()
    y_BTC, expected_BTC = fast(ours, Context()), readable(theirs)
    close(y_BTC, expected_BTC)
    upstream = torch.randn_like(x_BTC)
    y_BTC.backward(upstream)
    expected_BTC.backward(upstream)
    close(ours.grad, theirs.grad)
    close(fast.projection.weight.grad, readable.projection.weight.grad)
    close(fast.query_key_value.weight.grad, fused_gradient(readable, heads, groups))


@quick
@given(sizes, sizes, sizes, sizes, st.integers(0, 2**16))
def test_self_attention_with_the_future_hidden_is_causal_attention(batch, length, width, head_width, seed):
    torch.manual_seed(seed)
    whole, hidden = SelfAttention(width, head_width), CausalAttention(width, head_width)
    hidden.load_state_dict(whole.state_dict())
    x_BTC = torch.randn(batch, length, width)
    close(hidden(x_BTC)[:, -1], whole(x_BTC)[:, -1])  # the last token sees all
    close(hidden(x_BTC, torch.ones(length, length, dtype=torch.bool)), whole(x_BTC))
    for end in range(1, length):
        close(hidden(x_BTC)[:, end - 1], whole(x_BTC[:, :end])[:, -1])


def test_in_training_causal_attention_drops_a_share_of_the_weights_and_scales_up_the_rest():
    torch.manual_seed(0)
    head = CausalAttention(4, 1, dropout=0.25)
    torch.nn.init.zeros_(head.query.weight)
    torch.nn.init.zeros_(head.query.bias)  # equal scores, so each weight is 1 / t
    torch.nn.init.zeros_(head.value.weight)
    torch.nn.init.ones_(head.value.bias)
    x_BTC = torch.randn(2000, 8, 4)
    kept = head.train()(x_BTC)[:, -1] * 8 * 0.75  # how many of eight weights remained
    close(kept.round(), kept, atol=1e-4)
    assert kept.mean().item() == pytest.approx(6, abs=0.1)
    close(head.eval()(x_BTC), torch.ones(2000, 8, 1))


@quick
@given(sizes, sizes, sizes, st.integers(1, 4), sizes, st.integers(0, 2**16))
def test_the_formula_equals_the_fast_kernel_where_others_are_asked_than_ask(batch, asking, asked, heads, width, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, length, width) for length in (asking, asked, asked))
    visible = torch.rand(asking, asked) < 0.5
    visible[torch.arange(asking), torch.randint(asked, (asking,))] = True
    fast = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    torch.testing.assert_close(attention(q, k, v, visible), fast, atol=1e-6, rtol=1e-5)


def test_the_formula_by_hand():
    q, k = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0], [2**0.5 / 2, 1.0], [9.0, 9.0]])
    v, visible = torch.tensor([[1.0], [3.0], [100.0]]), torch.tensor([[True, True, False]])
    # scores 0 and 2 * sqrt(1/2) / sqrt(2) = 1; the third is unseen
    assert attention(q, k, v, visible).item() == pytest.approx((1 + 3 * math.e) / (1 + math.e))


def test_the_causal_mask_shows_a_position_itself_and_what_was_before():
    assert causal(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_each_row_of_the_cache_fills_up_at_its_own_positions():
    shape = GPTShape(context_length=6, n_layer=2, n_head=2, n_embd=4)
    cache = KeyValueCache(shape, 2, torch.device("cpu"), torch.float32)
    k_BHTD, v_BHTD = torch.arange(16.0).view(2, 2, 2, 2), -torch.arange(16.0).view(2, 2, 2, 2)
    keys, values = cache.write(1, torch.tensor([[0, 1], [3, 4]]), k_BHTD, v_BHTD, end=5)
    assert keys.shape == (2, 2, 5, 2)
    assert torch.equal(keys[0, :, :2], k_BHTD[0])
    assert torch.equal(keys[1, :, 3:5], k_BHTD[1])
    assert torch.equal(values, -keys)
    assert keys[0, :, 2:].count_nonzero() == keys[1, :, :3].count_nonzero() == cache.keys_LBKSD[0].count_nonzero() == 0


def test_rows_of_the_cache_share_its_memory_and_can_move():
    shape = GPTShape(context_length=6, n_layer=2, n_head=2, n_kv_head=1, n_embd=4)
    cache = KeyValueCache(shape, 3, torch.device("cpu"), torch.float32)
    assert cache.keys_LBKSD.shape == (2, 3, 1, 6, 2)
    cache.rows(2, 3).write(0, torch.tensor([[0, 1]]), torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0), end=2)
    assert cache.keys_LBKSD[0, 2, :, :2].eq(1).all()
    cache.move(2, 0, 2)
    assert cache.keys_LBKSD[0, 0, :, :2].eq(1).all()
    assert cache.values_LBKSD[0, 0, :, :2].eq(2).all()
    assert cache.keys_LBKSD.sum() == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_is_zero_and_takes_memory_for_what_was_written_alone(dtype):
    shape = GPTShape(context_length=4096, n_layer=4, n_head=8, n_embd=512)
    before = psutil.Process().memory_info().rss
    cache = KeyValueCache(shape, 32, torch.device("cpu"), dtype)
    taken = cache.keys_LBKSD.nbytes
    cache.keys_LBKSD[:, :2, :, :64] = 1
    assert psutil.Process().memory_info().rss - before < taken / 10
    assert cache.keys_LBKSD.shape == (4, 32, 8, 4096, 64)
    assert cache.keys_LBKSD.dtype == dtype
    assert cache.values_LBKSD[:, 5, :, ::512].count_nonzero() == 0
