import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.attention import CausalSelfAttention, KeyValueCache, attention, causal
from llm.config import GPTShape

quick = settings(max_examples=40, deadline=None)
sizes = st.integers(1, 6)


def layer(heads: int, width: int) -> CausalSelfAttention:
    shape = GPTShape(context_length=8, n_layer=1, n_head=heads, n_embd=heads * width)
    return CausalSelfAttention(shape, layer=0).eval()


def written_out(module: CausalSelfAttention, x_BTC: torch.Tensor, visible_BTS: torch.Tensor) -> torch.Tensor:
    """The layer head by head, from the formula."""
    width = x_BTC.shape[-1] // module.n_head
    q_BTC, k_BTC, v_BTC = module.query_key_value(x_BTC).split(x_BTC.shape[-1], dim=-1)
    heads = [
        attention(q_BTC[..., part], k_BTC[..., part], v_BTC[..., part], visible_BTS)
        for part in (slice(head * width, (head + 1) * width) for head in range(module.n_head))
    ]
    return module.projection(torch.cat(heads, dim=-1))


@quick
@given(sizes, sizes, st.integers(1, 4), sizes, st.integers(0, 2**16))
def test_the_layer_equals_the_formula_with_its_causal_mask(batch, length, heads, width, seed):
    torch.manual_seed(seed)
    module, x_BTC = layer(heads, width), torch.randn(batch, length, heads * width)
    torch.testing.assert_close(module(x_BTC), written_out(module, x_BTC, causal(length)), atol=1e-6, rtol=1e-5)


@quick
@given(sizes, sizes, st.integers(1, 4), sizes, st.integers(0, 2**16))
def test_the_layer_equals_the_formula_with_any_mask(batch, length, heads, width, seed):
    torch.manual_seed(seed)
    module, x_BTC = layer(heads, width), torch.randn(batch, length, heads * width)
    visible_BTS = (torch.rand(batch, length, length) < 0.5) | torch.eye(length, dtype=torch.bool)
    expected = written_out(module, x_BTC, visible_BTS)
    torch.testing.assert_close(module(x_BTC, visible_BTS), expected, atol=1e-6, rtol=1e-5)


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
    assert keys[0, :, 2:].count_nonzero() == keys[1, :, :3].count_nonzero() == cache.keys_LBHSD[0].count_nonzero() == 0
