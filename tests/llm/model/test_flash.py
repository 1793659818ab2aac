"""Attention in C where a model learns, against the formula in double precision."""

import pytest
import torch
from attention_oracle import by_formula, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from processors import needs_registers

from llm.config import GPTConfig
from llm.kernels.training.flash import PANEL, flash_attention, load_flash
from llm.model import attention as layer
from llm.model.attention import Segments
from llm.model.gpt import GPT

pytestmark = needs_registers
QUERIES = 96  # as in flash.c


@pytest.fixture(scope="module", autouse=True)
def library():
    assert load_flash() is not None, "a C compiler is among what these tests need"


def heads_of(batch, heads, length, width, seed, scale=1.0):
    """Queries, keys, values and a gradient of what they hear, BHTD as they come from one product, bfloat16."""
    torch.manual_seed(seed)
    queries, shared = heads
    parts = scale * torch.randn(batch, length, 2 * queries + 2 * shared, width)
    return parts.bfloat16().transpose(1, 2).split((queries, shared, shared, queries), dim=1)


def assert_near(found, expected):
    """As near as a few roundings to bfloat16 allow: measured 0.4 % at most, and 1e-6 where nothing is to be found."""
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() < 0.006 * theirs.norm() + 1e-4


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3), (6, 2)]),
    st.one_of(st.integers(1, 300), st.sampled_from([5, 6, 7, 63, 64, 65, QUERIES - 1, QUERIES, QUERIES + 1])),
    st.sampled_from([PANEL, 2 * PANEL]),
    st.integers(0, 2**16),
)
def test_it_is_the_formula_forward_and_backward(batch, heads, length, width, seed):
    *inputs, upstream_BHTD = heads_of(batch, heads, length, width, seed)
    expected = with_gradients(by_formula, inputs, upstream_BHTD, torch.float64)
    assert_near(with_gradients(flash_attention, inputs, upstream_BHTD, torch.bfloat16), expected)


def packed(draw_lengths, heads, seed):
    """Rows of texts with positions, some of which go on from a head at their row's beginning; padding at the end."""
    width = max(sum(row) for row in draw_lengths) + 3
    segments, positions = torch.full((len(draw_lengths), width), -1), torch.zeros(len(draw_lengths), width).long()
    for row, lengths in enumerate(draw_lengths):
        place = 0
        for number, length in enumerate(lengths):
            segments[row, place : place + length] = number
            shared = lengths[0] if heads and number % 2 else 0
            positions[row, place : place + length] = shared + torch.arange(length)
            place += length
    return segments, positions


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 110), min_size=1, max_size=5), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_texts_that_share_a_row_and_its_head_hear_what_they_would_alone(lengths, heads, seed):
    segments_BT, positions_BT = packed(lengths, heads, seed)
    real_B1T1 = (segments_BT >= 0)[:, None, :, None]
    segments = Segments(segments_BT, positions_BT)
    *inputs, upstream_BHTD = heads_of(len(segments_BT), (4, 2), segments_BT.shape[1], PANEL, seed)
    upstream_BHTD = upstream_BHTD * real_B1T1
    # Gathered text by text, which tests/llm/model/test_segments.py holds against texts alone; padding hears anything.
    expected = with_gradients(
        lambda *parts: segments.attention(*parts, 0.0) * real_B1T1, inputs, upstream_BHTD, torch.float64
    )
    found = with_gradients(
        lambda *parts: flash_attention(*parts, segments.texts_E4), inputs, upstream_BHTD, torch.bfloat16
    )
    assert_near(found, expected)
    assert all(torch.equal(part * ~real_B1T1, torch.zeros_like(part)) for part in found)


def test_scores_may_be_large_and_what_is_no_number_stays_none():
    *inputs, upstream_BHTD = heads_of(1, (2, 1), 150, PANEL, seed=0, scale=6)
    expected = with_gradients(by_formula, inputs, upstream_BHTD, torch.float64)
    found = with_gradients(flash_attention, inputs, upstream_BHTD, torch.bfloat16)
    assert (found[0] - expected[0]).norm() < 0.01 * expected[0].norm()
    inputs[0][0, 1, 40, 7] = float("nan")
    heard_BHTD, dq_BHTD, *_ = with_gradients(flash_attention, inputs, upstream_BHTD, torch.bfloat16)
    lost_HT = heard_BHTD.isnan().any(-1)[0]
    assert lost_HT.nonzero().tolist() == [[1, 40]]
    assert dq_BHTD[0, 1, 40].isnan().all()


def test_bits_do_not_depend_on_threads_and_dtypes_are_those_of_the_inputs():
    *inputs, upstream_BHTD = heads_of(2, (6, 3), 130, PANEL, seed=0)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(with_gradients(flash_attention, inputs, upstream_BHTD, torch.bfloat16))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))
    leaves = [part.float().detach().requires_grad_() for part in inputs]
    heard_BHTD = flash_attention(*leaves)
    heard_BHTD.backward(upstream_BHTD)
    assert [heard_BHTD.dtype, *(leaf.grad.dtype for leaf in leaves)] == [torch.bfloat16, *3 * [torch.float32]]


def test_a_model_that_learns_in_c_uses_it_where_a_gradient_is_needed_and_answers_as_before(monkeypatch):
    torch.manual_seed(0)
    shape = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "qk_norm": True, "n_kv_head": 1}
    gpt = GPT(GPTConfig(context_length=50, n_layer=2, n_head=2, n_embd=2 * PANEL, vocabulary_size=11, **shape))
    tokens_BT, segments_BT = torch.randint(11, (2, 50)), (torch.arange(50) // 20).expand(2, 50)
    texts = []
    real = layer.flash_attention
    monkeypatch.setattr(layer, "flash_attention", lambda *parts: (texts.append(parts[3]), real(*parts))[1])
    found = []
    for in_c in (False, True):
        for block in gpt.blocks:
            block.attention.in_c = in_c
        gpt.zero_grad()
        x_BTC = torch.cat([gpt.features(tokens_BT), gpt.features(tokens_BT, segments_BT=segments_BT)])
        x_BTC.square().sum().backward()
        found.append([x_BTC.detach(), *(weight.grad for weight in gpt.blocks.parameters())])
    assert [None if each is None else each.tolist() for each in texts] == 2 * [None] + 2 * [
        [[row, 0, start, length] for row in (0, 1) for start, length in ((0, 20), (20, 20), (40, 10))]
    ]
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm() + 1e-6
    with torch.no_grad():
        torch.testing.assert_close(gpt.features(tokens_BT), found[0][0][:2], atol=1e-4, rtol=1e-4)
    assert len(texts) == 4


@pytest.mark.parametrize("text", [(0, 5, 0, 8), (0, 0, 1, 8), (1, 0, 0, 8), (0, -1, 0, 8)])
def test_a_text_outside_its_row_is_refused(text):
    *inputs, _ = heads_of(1, (1, 1), 8, PANEL, seed=0)
    with pytest.raises(ValueError, match="texts of 1 rows of 8 tokens"):
        flash_attention(*inputs, torch.tensor([text]))


def test_a_head_of_another_width_is_refused():
    with pytest.raises(ValueError, match=f"a head is 32 wide, no multiple of {PANEL}"):
        flash_attention(*(torch.zeros(1, 2, 4, 32, dtype=torch.bfloat16) for _ in range(3)))
