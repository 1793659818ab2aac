"""Attention over packed rows, against attention over whole rows with a mask."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import GPTConfig, GPTShape
from llm.model.attention import Context, GroupedQueryAttention, Segments, causal
from llm.model.embedding import rotation
from llm.model.gpt import GPT

close = partial(torch.testing.assert_close, atol=2e-5, rtol=1e-4)
# A block of queries and several, and with some luck both in a batch.
texts = st.one_of(st.integers(1, 40), st.integers(1, 300))
batches = st.lists(st.lists(texts, min_size=1, max_size=4), min_size=1, max_size=3)


def pack(lengths: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Segments and positions of rows of texts, int64 BT; the rest of a row is padding, of segment -1."""
    width = max(map(sum, lengths))
    segments, positions = [], []
    for row in lengths:
        rest = width - sum(row)
        segments.append([number for number, length in enumerate(row) for _ in range(length)] + [-1] * rest)
        positions.append([place for length in row for place in range(length)] + [0] * rest)
    return torch.tensor(segments), torch.tensor(positions)


def masked(segments_BT: torch.Tensor) -> torch.Tensor:
    """Which token of its row each one sees, boolean BTS: those of its own text that stand before it, and itself."""
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return same_BTS & causal(segments_BT.shape[1])


@settings(max_examples=30)
@given(
    batches,
    st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    st.sampled_from([2, 8]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_packed_texts_hear_what_they_would_hear_under_a_mask_forward_and_backward(
    lengths, heads, width, qk_norm, rotary, seed
):
    torch.manual_seed(seed)
    segments_BT, positions_BT = pack(lengths)
    real_BT = segments_BT >= 0
    n_head, n_kv_head = heads
    layer = GroupedQueryAttention(
        GPTShape(
            context_length=2000,
            n_layer=1,
            n_head=n_head,
            n_kv_head=n_kv_head,
            n_embd=n_head * width,
            qk_norm=qk_norm,
            positions="rotary" if rotary else "learned",
        ),
        layer=0,
    )
    x_BTC = torch.randn(*segments_BT.shape, n_head * width)
    upstream_BTC = torch.randn_like(x_BTC) * real_BT[:, :, None]
    angles = rotation(positions_BT, width, 10_000.0) if rotary else None
    found = []
    for context in (
        Context(masked(segments_BT), angles=angles),
        Context(segments=Segments(segments_BT), angles=angles),
    ):
        ours_BTC = x_BTC.clone().requires_grad_()
        y_BTC = layer(ours_BTC, context)
        layer.zero_grad()
        y_BTC.backward(upstream_BTC)
        found.append([y_BTC[real_BT], ours_BTC.grad, *(weight.grad.clone() for weight in layer.parameters())])
    for expected, packed in zip(*found, strict=True):
        close(packed / max(1, expected.abs().max()), expected / max(1, expected.abs().max()))


def test_texts_of_like_length_are_one_batch_and_none_is_padded_to_twice_its_length_or_more():
    lengths = [[5, 17, 33], [31, 64, 65], [300, 1]]
    taken = Segments(pack(lengths)[0]).taken
    assert [tuple(each.shape) for each in taken] == [(4, 31), (2, 64), (1, 65), (1, 300)]


@pytest.mark.parametrize("dropout", [0.25, 0.5])
def test_dropout_leaves_out_a_share_of_the_weights_and_scales_up_the_rest(dropout):
    torch.manual_seed(0)
    q_BHTD, k_BKTD = torch.zeros(200, 2, 8, 4), torch.zeros(200, 1, 8, 4)  # equal scores: each weight is 1 / t
    segments = Segments(torch.zeros(200, 8, dtype=torch.int64))
    last = segments.attention(q_BHTD, k_BKTD, torch.ones(200, 1, 8, 4), dropout)[:, :, -1]
    assert last.mean().item() == pytest.approx(1, abs=0.03)
    kept = last * 8 * (1 - dropout)
    close(kept, kept.round())
    assert len(kept.unique()) > 3


@torch.inference_mode()
def test_a_model_reads_packed_rows_with_padding_as_it_reads_each_text_alone():
    torch.manual_seed(0)
    shape = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_kv_head": 1, "qk_norm": True}
    gpt = GPT(GPTConfig(context_length=512, n_layer=2, n_head=2, n_embd=16, vocabulary_size=50, **shape)).eval()
    segments_BT, positions_BT = pack([[3, 200, 40], [130, 1]])
    tokens_BT = torch.randint(50, segments_BT.shape)
    packed_BTC = gpt.features(tokens_BT, positions_BT, segments_BT=segments_BT)
    for row in range(2):
        for number in range(int(segments_BT[row].max()) + 1):
            own_T = segments_BT[row] == number
            close(packed_BTC[row, own_T], gpt.features(tokens_BT[row, own_T][None])[0])


@torch.inference_mode()
def test_texts_that_go_on_from_the_head_of_their_row_are_read_as_they_are_whole():
    torch.manual_seed(0)
    shape = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_kv_head": 1, "qk_norm": True}
    gpt = GPT(GPTConfig(context_length=512, n_layer=2, n_head=2, n_embd=16, vocabulary_size=50, **shape)).eval()
    for head, lengths in ((14, [3, 200, 40]), (1, [1, 1]), (130, [30, 2])):
        head_T, own = torch.randint(50, (head,)), [torch.randint(50, (length,)) for length in lengths]
        whole = torch.randint(50, (20,))  # it has no head, and stands between those that have
        texts = [head_T, own[0], whole, *own[1:]]
        begins = [0, head, 0, *[head] * (len(own) - 1)]
        tokens_BT = torch.cat(texts)[None].repeat(2, 1)  # the second row has a head of its own
        tokens_BT[1] = tokens_BT[1].flip(0)
        positions_BT = torch.cat(
            [torch.arange(begin, begin + len(text)) for begin, text in zip(begins, texts, strict=True)]
        ).repeat(2, 1)
        segments_BT = torch.cat([torch.full((len(text),), number) for number, text in enumerate(texts)]).repeat(2, 1)
        packed_BTC = gpt.features(tokens_BT, positions_BT, segments_BT=segments_BT)
        for row in range(2):
            for number, begin in enumerate(begins):
                own_T = segments_BT[row] == number
                alone = torch.cat([tokens_BT[row, :begin], tokens_BT[row, own_T]])
                close(packed_BTC[row, own_T], gpt.features(alone[None])[0, begin:])


def test_positions_of_one_row_are_those_of_all(make_gpt):
    gpt = make_gpt()
    segments_BT = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]])
    tokens_BT, positions_BT = torch.arange(10).view(2, 5), torch.tensor([[0, 1, 2, 3, 4]])
    found, expected = (
        gpt.features(tokens_BT, positions, segments_BT=segments_BT)
        for positions in (positions_BT, positions_BT.expand(2, 5).contiguous())
    )
    assert torch.equal(found, expected)
