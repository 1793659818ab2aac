"""Attention in a training, by torch and by flash.c, against the formula in double precision."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from attention_oracle import by_formula, with_gradients
from processors import needs_registers, threads
from torch import Tensor

from llm.kernels.training.backend import causal_attention
from llm.kernels.training.bfloat16 import PANEL
from llm.kernels.training.flash import flash_attention
from llm.kernels.training.packed_sequences import PackedSequences

KERNELS = [
    pytest.param(causal_attention, torch.float64, 1e-10, id="torch"),
    pytest.param(flash_attention, torch.bfloat16, 0.006, marks=needs_registers, id="flash"),  # measured: 0.004
]


class Shape(NamedTuple):
    """The shape of queries, keys and values."""

    rows: int
    heads: int
    kv_heads: int
    tokens: int
    width: int = PANEL


AROUND_BLOCKS = (1, 5, 6, 7, 63, 64, 65, 95, 96, 97, 300)  # blocks of 6 and 96 queries, and panels of 64 keys
SHAPES = [
    *(Shape(rows=2, heads=2, kv_heads=1, tokens=tokens) for tokens in AROUND_BLOCKS),
    Shape(rows=1, heads=1, kv_heads=1, tokens=40, width=2 * PANEL),
    Shape(rows=3, heads=3, kv_heads=3, tokens=70),
    Shape(rows=2, heads=6, kv_heads=2, tokens=130),
]


def make_heads(shape: Shape, scale: float = 1.0) -> list[Tensor]:
    """Queries, keys, values and an upstream gradient, as views of one product in bfloat16."""
    torch.manual_seed(0)
    counts = (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)
    parts = scale * torch.randn(shape.rows, shape.tokens, sum(counts), shape.width)
    return list(parts.bfloat16().transpose(1, 2).split(counts, dim=1))


def assert_near(tensors: list[Tensor], expected: list[Tensor], bound: float) -> None:
    for tensor, oracle in zip(tensors, expected, strict=True):
        assert (tensor.double() - oracle).norm() < bound * oracle.norm() + bound / 50


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_the_formula(kernel, dtype, bound, shape):
    *inputs, upstream_BHTD = make_heads(shape)
    expected = with_gradients(by_formula, inputs, upstream_BHTD)
    tensors = with_gradients(kernel, inputs, upstream_BHTD, dtype=dtype)
    assert_near(tensors, expected, bound)


def packed_rows(lengths: list[list[int]], shares: bool) -> tuple[Tensor, Tensor]:
    """Numbers and positions of texts in rows; where `shares`, every other text continues its row's first one."""
    width = max(map(sum, lengths)) + 3  # the rest is padding
    sequences = torch.full((len(lengths), width), -1)
    positions = torch.zeros(len(lengths), width).long()
    for row, sizes in enumerate(lengths):
        start = 0
        for number, length in enumerate(sizes):
            prefix = sizes[0] if shares and number % 2 else 0
            sequences[row, start : start + length] = number
            positions[row, start : start + length] = prefix + torch.arange(length)
            start += length
    return sequences, positions


def text_by_text(texts_E4: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """The formula on each text alone, behind its prefix; padding gets zeros."""
    y_BHTD = torch.zeros_like(parts[0])
    for row, prefix, start, length in texts_E4.tolist():
        places = [*range(prefix), *range(start, start + length)]
        q_1HSD, k_1KSD, v_1KSD = [part[row : row + 1, :, places] for part in parts]
        y_1HSD = by_formula(q_1HSD, k_1KSD, v_1KSD)
        y_BHTD[row, :, start : start + length] = y_1HSD[0, :, prefix:]
    return y_BHTD


@pytest.mark.parametrize(("kernel", "dtype", "bound"), KERNELS)
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("lengths", [[[1]], [[3, 100, 40], [110, 1]], [[14, 7, 20, 31, 2], [65, 64, 33], [5]]], ids=str)
def test_packed_texts_are_read_as_if_each_were_alone_behind_its_prefix(kernel, dtype, bound, shares, lengths):
    sequences_BT, positions_BT = packed_rows(lengths, shares)
    packed = PackedSequences(sequences_BT, positions_BT)
    real_B1T1 = (sequences_BT >= 0)[:, None, :, None]
    shape = Shape(rows=len(lengths), heads=4, kv_heads=2, tokens=sequences_BT.shape[1])
    *inputs, upstream_BHTD = make_heads(shape)
    upstream_BHTD = upstream_BHTD * real_B1T1

    def oracle(*parts: Tensor) -> Tensor:
        return text_by_text(packed.texts_E4, parts)

    def packed_kernel(*parts: Tensor) -> Tensor:
        return kernel(*parts, packed=packed) * real_B1T1

    expected = with_gradients(oracle, inputs, upstream_BHTD)
    tensors = with_gradients(packed_kernel, inputs, upstream_BHTD, dtype=dtype)
    assert_near(tensors, expected, bound)


def test_packed_texts_have_dropout_too():
    torch.manual_seed(0)
    zeros_BHTD = torch.zeros(200, 2, 8, 4)  # equal scores: each weight is 1 / t
    packed = PackedSequences(torch.zeros(200, 8, dtype=torch.int64))
    y_BHTD = causal_attention(zeros_BHTD, zeros_BHTD, torch.ones(200, 2, 8, 4), packed=packed, dropout=0.25)
    assert y_BHTD[:, :, -1].mean().item() == pytest.approx(1, abs=0.03)
    assert len((y_BHTD[:, :, -1] * 6).round().unique()) > 3  # of eight weights as many as are left


def test_texts_of_like_length_are_one_batch_and_none_is_padded_to_twice_its_length_or_more():
    sequences_BT, _ = packed_rows([[5, 17, 33], [31, 64, 65], [300, 1]], shares=False)
    shapes = []

    def attend(q_EHSD, k_EKSD, v_EKSD):
        shapes.append((len(q_EHSD), q_EHSD.shape[2]))
        return causal_attention(q_EHSD, k_EKSD, v_EKSD)

    q_BHTD = torch.zeros(3, 1, sequences_BT.shape[1], 4)
    PackedSequences(sequences_BT).attention(q_BHTD, q_BHTD, q_BHTD, attend=attend)
    assert shapes == [(4, 31), (2, 64), (1, 65), (1, 300)]


@needs_registers
def test_scores_in_c_may_be_large_and_a_nan_stays_in_its_query():
    *inputs, upstream_BHTD = make_heads(Shape(rows=1, heads=2, kv_heads=1, tokens=150), scale=6)
    expected = with_gradients(by_formula, inputs, upstream_BHTD)
    tensors = with_gradients(flash_attention, inputs, upstream_BHTD, dtype=torch.bfloat16)
    assert (tensors[0] - expected[0]).norm() < 0.01 * expected[0].norm()
    inputs[0][0, 1, 40, 7] = float("nan")
    y_BHTD, dq_BHTD, *_ = with_gradients(flash_attention, inputs, upstream_BHTD, dtype=torch.bfloat16)
    assert y_BHTD.isnan().any(-1)[0].nonzero().tolist() == [[1, 40]]
    assert dq_BHTD[0, 1, 40].isnan().all()


@needs_registers
def test_bits_in_c_do_not_depend_on_threads_and_gradients_have_the_dtypes_of_the_inputs():
    *inputs, upstream_BHTD = make_heads(Shape(rows=2, heads=6, kv_heads=3, tokens=130))
    expected = with_gradients(flash_attention, inputs, upstream_BHTD, dtype=torch.bfloat16)
    for count in (2, 3):
        with threads(count):
            tensors = with_gradients(flash_attention, inputs, upstream_BHTD, dtype=torch.bfloat16)
        torch.testing.assert_close(tensors, expected, rtol=0, atol=0)
    y_BHTD, *gradients = with_gradients(flash_attention, inputs, upstream_BHTD, dtype=torch.float32)
    assert y_BHTD.dtype == torch.bfloat16
    assert [gradient.dtype for gradient in gradients] == 3 * [torch.float32]


@pytest.mark.parametrize("text", [(0, 5, 0, 8), (0, 0, 1, 8), (1, 0, 0, 8), (0, -1, 0, 8)])
def test_text_outside_its_row_is_refused_in_c(text):
    *inputs, _ = make_heads(Shape(rows=1, heads=1, kv_heads=1, tokens=8))
    with pytest.raises(ValueError, match="texts of 1 rows of 8 tokens"):
        flash_attention(*inputs, packed=SimpleNamespace(texts_E4=torch.tensor([text])))


@pytest.mark.parametrize(("width", "dropout"), [(32, 0.0), (64, 0.1)])
def test_width_of_no_panel_and_dropout_are_refused_in_c(width, dropout):
    *inputs, _ = make_heads(Shape(rows=1, heads=2, kv_heads=2, tokens=4, width=width))
    with pytest.raises(ValueError, match=f"a head is {width} wide with dropout {dropout}; flash.c needs a multiple of"):
        flash_attention(*inputs, dropout=dropout)
