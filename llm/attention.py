"""Attention, from the formula to the multi-head layer that the model uses.

Every token asks a question (its query), carries a label (its key) and has something to say (its value). A query's dot
product with each key is a score; softmax turns the scores into weights that sum to one; the weighted sum of the values
is the answer. "Attention Is All You Need", Vaswani et al. 2017, section 3.2.

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

    Each row fills up at its own pace: a row's tokens may stand at other positions than its neighbours'.
    """

    def __init__(self, shape: GPTShape, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.n_layer, batch_size, shape.n_head, shape.context_length, shape.n_embd // shape.n_head)
        self.keys_LBHSD = torch.zeros(size, device=device, dtype=dtype)
        self.values_LBHSD = torch.zeros(size, device=device, dtype=dtype)

    def write(
        self, layer: int, positions_BT: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, end: int
    ) -> tuple[Tensor, Tensor]:
        """Store one layer's keys and values at their positions; return all of them before position `end`, BHSD."""
        rows_B1 = torch.arange(len(positions_BT), device=positions_BT.device)[:, None]
        keys_BHSD, values_BHSD = self.keys_LBHSD[layer], self.values_LBHSD[layer]
        keys_BHSD[rows_B1, :, positions_BT] = k_BHTD.transpose(1, 2).to(keys_BHSD.dtype)
        values_BHSD[rows_B1, :, positions_BT] = v_BHTD.transpose(1, 2).to(values_BHSD.dtype)
        return keys_BHSD[:, :, :end], values_BHSD[:, :, :end]


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which no position sees a later one.

    The heads look side by side, each in a subspace of width D; one matrix makes all queries, keys and values at once.
    """

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = shape.n_head
        self.dropout = shape.dropout
        self.query_key_value = nn.Linear(shape.n_embd, 3 * shape.n_embd)
        self.projection = nn.Linear(shape.n_embd, shape.n_embd)

    def forward(
        self,
        x_BTC: Tensor,
        visible_BTS: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Map BTC to BTC. `visible_BTS` replaces the causal mask; with a cache, S counts its positions too."""
        q_BHTD, k_BHSD, v_BHSD = (
            part_BTC.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for part_BTC in self.query_key_value(x_BTC).chunk(3, dim=-1)
        )
        if cache is not None:
            k_BHSD, v_BHSD = cache.write(self.layer, positions_BT, k_BHSD, v_BHSD, end=visible_BTS.shape[-1])
        y_BHTD = F.scaled_dot_product_attention(
            q_BHTD,
            k_BHSD.to(q_BHTD.dtype),
            v_BHSD.to(q_BHTD.dtype),
            attn_mask=None if visible_BTS is None else visible_BTS[:, None],
            is_causal=visible_BTS is None,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.projection(y_BHTD.transpose(1, 2).flatten(2))
