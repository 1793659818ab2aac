"""Attention in a training, by torch and by flash.c, against the formula in double precision."""

from dataclasses import dataclass

import pytest
import torch
from attention_oracle import by_formula, with_gradients
from processors import needs_registers

from llm.config import GPTConfig
from llm.kernels.training.backend import Backend, causal_attention
from llm.kernels.training.bfloat16 import PANEL
from llm.kernels.training.flash import flash_attention, load_flash
from llm.kernels.training.packed_sequences import PackedSequences
from llm.model.gpt import GPT

KERNELS = [
    pytest.param(causal_attention, torch.float64, 1e-10, id="torch"),
    pytest.param(flash_attention, torch.bfloat16, 0.006, marks=needs_registers, id="flash"),  # measured: 0.004
]
SHAPES = [  # rows, heads of queries and of keys, tokens, width: around blocks of 6 and 96 queries and panels of 64 keys
    *((2, 2, 1, tokens, PANEL) for tokens in (1, 5, 6, 7, 63, 64, 65, 95, 96, 97, 300)),
    (1, 1, 1, 40, 2 * PANEL),
    (3, 3, 3, 70, PANEL),
    (2, 6, 2, 130, PANEL),
]


def heads_of(batch, heads, kv_heads, tokens, width, scale=1.0):
    """Queries, keys, values and an upstream gradient, as views of one product in bfloat16."""
    parts = scale * torch.randn(batch, tokens, 2 * heads + 2 * kv_heads, width)
    return parts.bfloat16().transpose(1, 2).split((heads, kv_heads, kv_heads, heads), dim=1)


def assert_near(found, expected, bound):
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() < bound * theirs.norm() + bound / 50


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_the_formula(kernel, dtype, bound, shape):
    torch.manual_seed(0)
    *inputs, upstream_BHTD = heads_of(*shape)
    expected = with_gradients(by_formula, inputs, upstream_BHTD)
    assert_near(with_gradients(kernel, inputs, upstream_BHTD, dtype), expected, bound)


def packed_rows(lengths, shares):
    """Numbers and positions of texts in rows; where `shares`, every other text continues its row's first one."""
    width = max(map(sum, lengths)) + 3  # the rest is padding
    sequences, positions = torch.full((len(lengths), width), -1), torch.zeros(len(lengths), width).long()
    for row, own in enumerate(lengths):
        place = 0
        for number, length in enumerate(own):
            prefix = own[0] if shares and number % 2 else 0
            sequences[row, place : place + length] = number
            positions[row, place : place + length] = prefix + torch.arange(length)
            place += length
    return sequences, positions


def text_by_text(texts_E4, q_BHTD, k_BKTD, v_BKTD):
    """The formula on each text alone, behind its prefix; padding gets zeros."""
    y_BHTD = torch.zeros_like(q_BHTD)
    for row, prefix, start, length in texts_E4.tolist():
        places = [*range(prefix), *range(start, start + length)]
        y_1HSD = by_formula(*(part[row : row + 1, :, places] for part in (q_BHTD, k_BKTD, v_BKTD)))
        y_BHTD[row, :, start : start + length] = y_1HSD[0, :, prefix:]
    return y_BHTD


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("lengths", [[[1]], [[3, 100, 40], [110, 1]], [[14, 7, 20, 31, 2], [65, 64, 33], [5]]], ids=str)
def test_packed_texts_are_read_as_if_each_were_alone_behind_its_prefix(kernel, dtype, bound, shares, lengths):
    torch.manual_seed(0)
    packed = PackedSequences(*packed_rows(lengths, shares))
    real_B1T1 = (packed_rows(lengths, shares)[0] >= 0)[:, None, :, None]
    *inputs, upstream_BHTD = heads_of(len(lengths), 4, 2, real_B1T1.shape[2], PANEL)
    upstream_BHTD = upstream_BHTD * real_B1T1
    expected = with_gradients(lambda *parts: text_by_text(packed.texts_E4, *parts), inputs, upstream_BHTD)
    found = with_gradients(lambda *parts: kernel(*parts, packed) * real_B1T1, inputs, upstream_BHTD, dtype)
    assert_near(found, expected, bound)


@pytest.mark.parametrize("dropout", [0.25, 0.5])
def test_dropout_leaves_out_a_share_of_the_weights_and_scales_up_the_rest(dropout):
    torch.manual_seed(0)
    q_BHTD, k_BKTD = torch.zeros(200, 2, 8, 4), torch.zeros(200, 1, 8, 4)  # equal scores: each weight is 1 / t
    packed = PackedSequences(torch.zeros(200, 8, dtype=torch.int64))
    last = causal_attention(q_BHTD, k_BKTD, torch.ones(200, 1, 8, 4), packed, dropout)[:, :, -1]
    assert last.mean().item() == pytest.approx(1, abs=0.03)
    kept = last * 8 * (1 - dropout)
    torch.testing.assert_close(kept, kept.round(), atol=2e-5, rtol=1e-4)
    assert len(kept.unique()) > 3


@needs_registers
def test_in_c_scores_may_be_large_and_a_nan_stays_in_its_query():
    torch.manual_seed(0)
    *inputs, upstream_BHTD = heads_of(1, 2, 1, 150, PANEL, scale=6)
    expected = with_gradients(by_formula, inputs, upstream_BHTD)
    found = with_gradients(flash_attention, inputs, upstream_BHTD, torch.bfloat16)
    assert (found[0] - expected[0]).norm() < 0.01 * expected[0].norm()
    inputs[0][0, 1, 40, 7] = float("nan")
    y_BHTD, dq_BHTD, *_ = with_gradients(flash_attention, inputs, upstream_BHTD, torch.bfloat16)
    assert y_BHTD.isnan().any(-1)[0].nonzero().tolist() == [[1, 40]]
    assert dq_BHTD[0, 1, 40].isnan().all()


@needs_registers
def test_in_c_bits_do_not_depend_on_threads_and_gradients_have_the_dtypes_of_the_inputs():
    torch.manual_seed(0)
    *inputs, upstream_BHTD = heads_of(2, 6, 3, 130, PANEL)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            found.append(with_gradients(flash_attention, inputs, upstream_BHTD, torch.bfloat16))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True))
    y_BHTD, *gradients = with_gradients(flash_attention, inputs, upstream_BHTD, torch.float32)
    assert [y_BHTD.dtype, *(each.dtype for each in gradients)] == [torch.bfloat16, *3 * [torch.float32]]


@needs_registers
def test_a_model_computes_by_its_backend_with_and_without_gradients():
    assert load_flash() is not None, "a C compiler is among what these tests need"
    torch.manual_seed(0)
    shape = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "qk_norm": True, "n_kv_head": 1}
    gpt = GPT(GPTConfig(context_length=50, n_layer=2, n_head=2, n_embd=2 * PANEL, vocabulary_size=11, **shape))
    tokens_BT, sequences_BT = torch.randint(11, (2, 50)), (torch.arange(50) // 20).expand(2, 50)
    found = []
    for attention in (causal_attention, flash_attention):
        gpt.backend = Backend(attention=attention)
        gpt.zero_grad()
        parts = [gpt.hidden_states(tokens_BT), gpt.hidden_states(tokens_BT, sequences_BT=sequences_BT)]
        torch.cat(parts).square().sum().backward()
        found.append([torch.cat(parts).detach(), *(weight.grad for weight in gpt.blocks.parameters())])
        with torch.no_grad():
            assert torch.equal(gpt.hidden_states(tokens_BT), parts[0])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert not torch.equal(ours, theirs)
        assert (ours - theirs).norm() < 0.02 * theirs.norm() + 1e-6


@dataclass
class Texts:
    """Texts as a caller may give them, even wrong ones."""

    texts_E4: torch.Tensor


@pytest.mark.parametrize("text", [(0, 5, 0, 8), (0, 0, 1, 8), (1, 0, 0, 8), (0, -1, 0, 8)])
def test_in_c_a_text_outside_its_row_is_refused(text):
    *inputs, _ = heads_of(1, 1, 1, 8, PANEL)
    with pytest.raises(ValueError, match="texts of 1 rows of 8 tokens"):
        flash_attention(*inputs, Texts(torch.tensor([text])))


@pytest.mark.parametrize(("width", "dropout"), [(32, 0.0), (64, 0.1)])
def test_in_c_another_width_and_dropout_are_refused(width, dropout):
    with pytest.raises(ValueError, match=f"a head is {width} wide with dropout {dropout}; flash.c needs a multiple of"):
        flash_attention(*(torch.zeros(1, 2, 4, width, dtype=torch.bfloat16) for _ in range(3)), None, dropout)
