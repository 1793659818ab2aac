"""A model that reads packed rows, against the same model reading each text alone."""

import pytest
import torch

from llm.kernels.training.backend import causal_attention
from llm.kernels.training.packed_sequences import PackedSequences

LLAMA = {"positions": "rotary", "norm": "rms", "mlp": "swiglu", "bias": False, "n_kv_head": 1, "qk_norm": True}


@torch.inference_mode()
@pytest.mark.parametrize("shape", [{}, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize(("prefix", "lengths"), [(14, [3, 200, 40]), (1, [1, 1]), (130, [30, 2]), (0, [3, 130])])
def test_a_model_reads_packed_rows_as_it_reads_each_text_alone_behind_its_prefix(make_gpt, shape, prefix, lengths):
    gpt = make_gpt(context_length=512, **shape)
    sizes = [prefix, lengths[0], 20, *lengths[1:]]  # the third has no prefix, and stands between those that have
    begins = [0, prefix, 0, *[prefix] * (len(lengths) - 1)]
    tokens_BT = torch.randint(gpt.config.vocabulary_size, (2, sum(sizes) + 5))
    padding = [-1] * 5
    sequences = [number for number, size in enumerate(sizes) for _ in range(size)] + padding
    positions = [begin + step for begin, size in zip(begins, sizes, strict=True) for step in range(size)] + [0] * 5
    sequences_BT, positions_1T = torch.tensor([sequences, sequences]), torch.tensor([positions])
    packed_BTC = gpt.hidden_states(tokens_BT, positions_1T, sequences_BT=sequences_BT)
    same_BTC = gpt.hidden_states(tokens_BT, positions_1T.repeat(2, 1), sequences_BT=sequences_BT)
    real_BT = sequences_BT >= 0
    assert torch.equal(packed_BTC[real_BT], same_BTC[real_BT])
    for row in range(2):
        for number, begin in enumerate(begins):
            own_T = sequences_BT[row] == number
            if own_T.any():
                whole = torch.cat([tokens_BT[row, :begin], tokens_BT[row, own_T]])
                alone_TC = gpt.hidden_states(whole[None])[0, begin:]
                torch.testing.assert_close(packed_BTC[row, own_T], alone_TC, atol=2e-5, rtol=1e-4)


def test_texts_of_like_length_are_one_batch_and_none_is_padded_to_twice_its_length_or_more():
    lengths = [[5, 17, 33], [31, 64, 65], [300, 1]]
    rows = [[number for number, length in enumerate(row) for _ in range(length)] for row in lengths]
    sequences_BT = torch.tensor([row + [-1] * (301 - len(row)) for row in rows])
    shapes = []

    def attend(q_EHSD, k_EKSD, v_EKSD):
        shapes.append((len(q_EHSD), q_EHSD.shape[2]))
        return causal_attention(q_EHSD, k_EKSD, v_EKSD)

    PackedSequences(sequences_BT).attention(attend, *(torch.zeros(3, 1, 301, 4) for _ in range(3)))
    assert shapes == [(4, 31), (2, 64), (1, 65), (1, 300)]
