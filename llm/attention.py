"""Attention, from the formula to the multi-head layer that the model uses.

Every token asks a question (its query), carries a label (its key) and has something to say (its value). A query's dot
product with each key is a score; softmax turns the scores into weights that sum to one; the weighted sum of the values is
the answer. "Attention Is All You Need", Vaswani et al. 2017, section 3.2.

Tensor names end in their shape: B batch, T positions that ask, S positions that are asked, H heads, D width of a head,
C = H * D width of the model.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.config import GPTShape


def attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, visible_TS: Tensor) -> Tensor:
    """Attention written out, the oracle for the fast kernel: softmax(q kᵀ / sqrt(D)) v.

    `visible_TS` is boolean and broadcasts over B and H; where it is False a position stays unseen. Returns BHTD.
    """
    scores_BHTS = q_BHTD @ k_BHSD.transpose(-2, -1) / math.sqrt(q_BHTD.shape[-1])
    scores_BHTS = scores_BHTS.masked_fill(~visible_TS, -math.inf)
    weights_BHTS = scores_BHTS.softmax(dim=-1)
    return weights_BHTS @ v_BHSD


def causal(length: int) -> Tensor:
    """The mask of a decoder, boolean TS: position t sees 0 … t, and so can never copy the answer from the future."""
    return torch.ones(length, length, dtype=torch.bool).tril()


class KeyValueCache:
    """Keys and values of the tokens read so far, so that a new token costs one position and not all of them.

    A row's tokens may stand at other positions than its neighbours': each row has a length of its own.
    """

    def __init__(self, shape: GPTShape, batch_size: int, dtype: torch.dtype) -> None:
        size = (shape.n_layer, batch_size, shape.n_head, shape.context_length, shape.n_embd // shape.n_head)
        self.keys_LBHSD = torch.zeros(size, dtype=dtype)
        self.values_LBHSD = torch.zeros(size, dtype=dtype)

    def write(self, layer: int, positions_BT: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store T positions of one layer and return that layer's keys and values up to the last one, BHSD."""
        end = int(positions_BT.max()) + 1
        rows_B1 = torch.arange(len(positions_BT))[:, None]
        keys, values = self.keys_LBHSD[layer], self.values_LBHSD[layer]
        keys[rows_B1, :, positions_BT] = k_BHTD.transpose(1, 2).to(keys.dtype)
        values[rows_B1, :, positions_BT] = v_BHTD.transpose(1, 2).to(values.dtype)
        return keys[:, :, :end], values[:, :, :end]


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which no position sees a later one.

    The heads look side by side, each in a subspace of width D; one matrix makes all queries, keys and values at once.
    """

    def __init__(self, shape: GPTShape) -> None:
        super().__init__()
        self.n_head = shape.n_head
        self.dropout = shape.dropout
        self.query_key_value = nn.Linear(shape.n_embd, 3 * shape.n_embd)
        self.projection = nn.Linear(shape.n_embd, shape.n_embd)

    def forward(
        self, x_BTC: Tensor, layer: int = 0, positions_BT: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Map BTC to BTC. With a cache, the T new positions also see what it holds of `layer`."""
        q_BHTD, k_BHTD, v_BHTD = (
            part_BTC.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for part_BTC in self.query_key_value(x_BTC).chunk(3, dim=-1)
        )
        if cache is None:
            dropout = self.dropout if self.training else 0.0
            y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, dropout_p=dropout)
        else:
            k_BHSD, v_BHSD = cache.write(layer, positions_BT, k_BHTD, v_BHTD)
            visible_B1TS = torch.arange(k_BHSD.shape[2]) <= positions_BT[:, None, :, None]
            y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=visible_B1TS)
        return self.projection(y_BHTD.transpose(1, 2).flatten(2))
