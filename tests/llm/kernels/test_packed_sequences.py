"""A model that reads packed rows, against the same model reading each text alone."""

from itertools import chain, repeat

import pytest
import torch

from llm.kernels.training.backend import causal_attention
from llm.kernels.training.packed_sequences import PackedSequences

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_kv_head": 1, "qk_norm": True}
PADDING = 5


def numbered(sizes: list[int], padding: int) -> list[int]:
    """A row that holds texts of these sizes: the number of each token's text, and -1 for padding."""
    numbers = chain.from_iterable(repeat(number, size) for number, size in enumerate(sizes))
    return [*numbers, *[-1] * padding]


@torch.inference_mode()
@pytest.mark.parametrize("shape", [{}, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize(("prefix", "lengths"), [(14, [3, 200, 40]), (1, [1, 1]), (130, [30, 2]), (0, [3, 130])])
def test_packed_rows_are_read_as_each_text_alone_behind_its_prefix(make_gpt, shape, prefix, lengths):
    gpt = make_gpt(context_length=512, **shape)
    sizes = [prefix, lengths[0], 20, *lengths[1:]]  # the third has no prefix, and stands between those that have
    begins = [0, prefix, 0, *[prefix] * (len(lengths) - 1)]
    row = numbered(sizes, PADDING)
    positions = list(chain.from_iterable(range(begin, begin + size) for begin, size in zip(begins, sizes, strict=True)))
    tokens_BT = torch.randint(gpt.config.vocabulary_size, (2, len(row)))
    sequences_BT = torch.tensor([row, row])
    positions_1T = torch.tensor([[*positions, *[0] * PADDING]])
    packed_BTC = gpt.hidden_states(tokens_BT, positions_1T, sequences_BT=sequences_BT)
    same_BTC = gpt.hidden_states(tokens_BT, positions_1T.repeat(2, 1), sequences_BT=sequences_BT)
    assert torch.equal(packed_BTC[sequences_BT >= 0], same_BTC[sequences_BT >= 0])
    for tokens_T, packed_TC in zip(tokens_BT, packed_BTC, strict=True):
        for number, begin in enumerate(begins):
            own_T = sequences_BT[0] == number
            if own_T.any():
                text = torch.cat([tokens_T[:begin], tokens_T[own_T]])
                alone_TC = gpt.hidden_states(text[None])[0, begin:]
                torch.testing.assert_close(packed_TC[own_T], alone_TC, atol=2e-5, rtol=1e-4)


def test_texts_of_like_length_are_one_batch_and_none_is_padded_to_twice_its_length_or_more():
    lengths = [[5, 17, 33], [31, 64, 65], [300, 1]]
    sequences_BT = torch.tensor([numbered(sizes, 301 - sum(sizes)) for sizes in lengths])
    shapes = []

    def attend(q_EHSD, k_EKSD, v_EKSD):
        shapes.append((len(q_EHSD), q_EHSD.shape[2]))
        return causal_attention(q_EHSD, k_EKSD, v_EKSD)

    q_BHTD = torch.zeros(3, 1, 301, 4)
    PackedSequences(sequences_BT).attention(q_BHTD, q_BHTD, q_BHTD, attend=attend)
    assert shapes == [(4, 31), (2, 64), (1, 65), (1, 300)]
