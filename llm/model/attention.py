"""Attention, from a dot product to the layer that the model uses.

Every token asks a question (its query), carries a label (its key) and has something to say (its value). A query's dot
product with each key is a score; softmax turns the scores into weights that sum to one; the weighted sum of the values
is the answer. "Attention Is All You Need", Vaswani et al. 2017, section 3.2.

Read in order: `attention` is the formula. `SelfAttention` makes queries, keys and values from one text with trained
weights. `CausalAttention` hides the future. `MultiHeadAttention` looks in several ways at once. They are written to be
read, and tests hold `GroupedQueryAttention`, which the model uses, against them.

Tensor names end in their shape: B batch, T positions that ask, S positions that are asked, H heads, K heads of keys and
values, D width of a head, C = H * D width of the model, L layers, N texts of a batch, E those side by side.
"""

import math
import mmap
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.config import GPTShape
from llm.kernels.training.blockwise import blockwise_attention, suits_blockwise
from llm.kernels.training.flash import flash_attention
from llm.model.embedding import Rotation, rotate


def attention(
    q_BTD: Tensor, k_BSD: Tensor, v_BSD: Tensor, visible_TS: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """The formula, softmax(q kᵀ / sqrt(D)) v, BTD; any dimensions may stand in for B.

    Without the root the scores grow with D and softmax would pick a single value. `visible_TS` is boolean; where it is
    False a position stays unseen. `dropout` is the share of weights that are left out.
    """
    scores_BTS = q_BTD @ k_BSD.transpose(-2, -1) / math.sqrt(q_BTD.shape[-1])
    if visible_TS is not None:
        scores_BTS = scores_BTS.masked_fill(~visible_TS, -math.inf)
    weights_BTS = F.dropout(scores_BTS.softmax(dim=-1), dropout)
    return weights_BTS @ v_BSD


def causal(length: int) -> Tensor:
    """The mask of a decoder, boolean TS: position t sees 0 … t, and so can never copy the answer from the future."""
    return torch.ones(length, length, dtype=torch.bool).tril()


class SelfAttention(nn.Module):
    """A text asks itself: three trained matrices make the queries, keys and values of its tokens."""

    def __init__(self, width: int, head_width: int, bias: bool = True) -> None:
        super().__init__()
        self.query = nn.Linear(width, head_width, bias=bias)
        self.key = nn.Linear(width, head_width, bias=bias)
        self.value = nn.Linear(width, head_width, bias=bias)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map BTC to BTD; every token sees every other."""
        return attention(self.query(x_BTC), self.key(x_BTC), self.value(x_BTC))


class CausalAttention(SelfAttention):
    """Self-attention in which no token sees a later one; in training a share of the weights is dropped."""

    def __init__(self, width: int, head_width: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__(width, head_width, bias)
        self.dropout = dropout

    def forward(self, x_BTC: Tensor, visible_BTS: Tensor | None = None) -> Tensor:
        """Map BTC to BTD. `visible_BTS` replaces the causal mask, to hide padding too."""
        visible_BTS = causal(x_BTC.shape[1]).to(x_BTC.device) if visible_BTS is None else visible_BTS
        dropout = self.dropout if self.training else 0.0
        return attention(self.query(x_BTC), self.key(x_BTC), self.value(x_BTC), visible_BTS, dropout)


class MultiHeadAttention(nn.Module):
    """Several causal heads side by side, each in a subspace of its own; a last matrix mixes what they found."""

    def __init__(self, width: int, n_head: int, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        heads = (CausalAttention(width, width // n_head, bias, dropout) for _ in range(n_head))
        self.heads = nn.ModuleList(heads)
        self.projection = nn.Linear(width, width, bias=bias)

    def forward(self, x_BTC: Tensor, visible_BTS: Tensor | None = None) -> Tensor:
        """Map BTC to BTC. `visible_BTS` replaces the causal mask."""
        return self.projection(torch.cat([head(x_BTC, visible_BTS) for head in self.heads], dim=-1))


def _zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    # torch writes its zeros; memory of the system's own is zero, and a page of it exists once it is written
    memory = mmap.mmap(-1, math.prod(size) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(size)


class KeyValueCache:
    """Keys and values of the tokens read so far, so that a new token costs one position and not all of them.

    Allocated once, for `batch_size` texts of the full context; on a CPU only what was written takes memory. Each row
    fills up at its own pace: a row's tokens may stand at other positions than its neighbours'. On a CPU float32 is the
    fastest, whatever the weights are.
    """

    def __init__(self, shape: GPTShape, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.n_layer, batch_size, shape.kv_heads, shape.context_length, shape.head_width)
        self.keys_LBKSD = _zeros(size, device, dtype)
        self.values_LBKSD = _zeros(size, device, dtype)

    def rows(self, first: int, last: int) -> "KeyValueCache":
        """Rows `first` … `last` - 1 as a cache that shares their memory."""
        return KeyValueCache.of(self.keys_LBKSD[:, first:last], self.values_LBKSD[:, first:last])

    @classmethod
    def of(cls, keys_LBKSD: Tensor, values_LBKSD: Tensor) -> "KeyValueCache":
        """A cache in memory that is there already."""
        cache = object.__new__(cls)
        cache.keys_LBKSD, cache.values_LBKSD = keys_LBKSD, values_LBKSD
        return cache

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        for tensor_LBKSD in (self.keys_LBKSD, self.values_LBKSD):
            tensor_LBKSD[:, target, :, :length] = tensor_LBKSD[:, source, :, :length]

    def write(
        self, layer: int, positions_BT: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, end: int
    ) -> tuple[Tensor, Tensor]:
        """Store one layer's keys and values at their positions; return all of them before position `end`, BKSD.

        One row of positions is that of all.
        """
        rows_B1 = torch.arange(len(k_BKTD), device=positions_BT.device)[:, None]
        keys_BKSD, values_BKSD = self.keys_LBKSD[layer], self.values_LBKSD[layer]
        keys_BKSD[rows_B1, :, positions_BT] = k_BKTD.transpose(1, 2).to(keys_BKSD.dtype)
        values_BKSD[rows_B1, :, positions_BT] = v_BKTD.transpose(1, 2).to(values_BKSD.dtype)
        return keys_BKSD[:, :, :end], values_BKSD[:, :, :end]


def _fused_attention(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, dropout: float, visible_BTS: Tensor | None = None
) -> Tensor:
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BKSD,
        v_BKSD,
        attn_mask=None if visible_BTS is None else visible_BTS[:, None],
        is_causal=visible_BTS is None,
        dropout_p=dropout,
        enable_gqa=q_BHTD.shape[1] != k_BKSD.shape[1],
    )


def _causal_attention(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, dropout: float) -> Tensor:
    if suits_blockwise(q_BHTD, dropout):
        return blockwise_attention(q_BHTD, k_BKTD, v_BKTD)
    return _fused_attention(q_BHTD, k_BKTD, v_BKTD, dropout)


class Segments:
    """Several texts in each row, taken out of the rows for attention: texts of like length side by side, each causal.

    Over whole rows almost all scores would be between texts that must not see each other: with 32 texts in four rows of
    512 tokens, attention took 42 % of a step of SmolLM2-135M. So the tokens are gathered into a few batches, texts of
    at most 32 tokens, of 64, of 128 …, padded on the right, where a causal mask hides the padding by itself.

    What all texts of a row begin with need stand there only once, as its first segment, its head: a text whose
    positions begin at p, not at 0, goes on from the first p tokens of its row. They are gathered with it, so that it
    hears what it would hear as a whole, and only attention computes them again.
    """

    def __init__(self, segments_BT: Tensor, positions_BT: Tensor | None = None) -> None:
        starts_BT = torch.ones_like(segments_BT, dtype=torch.bool)
        starts_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
        starts_N = starts_BT.flatten().nonzero().flatten()
        ends_N = torch.cat([starts_N[1:], starts_N.new_tensor([segments_BT.numel()])])
        real_N = segments_BT.flatten()[starts_N] >= 0  # below zero it is padding, which nobody looks at
        starts_N, ends_N = starts_N[real_N], ends_N[real_N]
        rows_N = starts_N - starts_N % segments_BT.shape[1]  # where the row of each text begins
        heads_N = torch.zeros_like(starts_N)  # how many tokens of its row each text begins with
        if positions_BT is not None:
            heads_N = positions_BT.expand_as(segments_BT).flatten()[starts_N]
        lengths_N = heads_N + ends_N - starts_N
        self.texts_E4 = torch.stack([rows_N // segments_BT.shape[1], heads_N, starts_N - rows_N, ends_N - starts_N], 1)
        """Each as flash.c takes it."""
        widths = 2 ** torch.arange(5, max(6, segments_BT.shape[1].bit_length() + 1), device=segments_BT.device)
        widths_N = widths[torch.bucketize(lengths_N, widths)]
        self.taken: list[Tensor] = []
        """Where the tokens of each batch stand in the flattened rows, int64 ES; those of a head in several places."""
        self.back = torch.zeros_like(segments_BT).flatten()
        """Where each token of the flattened rows then stands in the flattened batches, one behind the other."""
        place = 0
        for width in widths_N.unique():
            chosen_N = widths_N == width
            steps_S = torch.arange(int(lengths_N[chosen_N].max()), device=segments_BT.device)
            starts_E1, heads_E1, rows_E1, lengths_E1 = (
                t[chosen_N, None] for t in (starts_N, heads_N, rows_N, lengths_N)
            )
            in_head_ES, inside_ES = steps_S < heads_E1, steps_S < lengths_E1
            taken_ES = torch.where(in_head_ES, rows_E1, starts_E1 - heads_E1) + steps_S
            taken_ES = torch.where(inside_ES, taken_ES, 0)
            numbers_ES = place + torch.arange(taken_ES.numel(), device=segments_BT.device).view_as(taken_ES)
            own_ES = inside_ES & ~in_head_ES
            self.back[taken_ES[own_ES]] = numbers_ES[own_ES]
            self.taken.append(taken_ES)
            place += taken_ES.numel()

    def attention(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, dropout: float) -> Tensor:
        """Causal attention within each text, BHTD."""
        flat = [part.transpose(1, 2).flatten(0, 1) for part in (q_BHTD, k_BKTD, v_BKTD)]
        found = []
        for taken_ES in self.taken:
            q_EHSD, k_EKSD, v_EKSD = (
                part.index_select(0, taken_ES.flatten()).unflatten(0, taken_ES.shape).transpose(1, 2) for part in flat
            )
            found.append(_causal_attention(q_EHSD, k_EKSD, v_EKSD, dropout).transpose(1, 2).flatten(0, 1))
        y_BTHD = torch.cat(found).index_select(0, self.back).unflatten(0, (len(q_BHTD), -1))
        return y_BTHD.transpose(1, 2)


@dataclass(frozen=True)
class Context:
    """What attention needs to know of a batch besides its vectors; the same for all layers."""

    visible_BTS: Tensor | None = None
    """Boolean; without it the mask is causal."""
    segments: Segments | None = None
    """With them, a token sees its own text alone."""
    angles: Rotation | None = None
    """Rotary positions of queries and keys."""
    positions_BT: Tensor | None = None
    """Where the new tokens stand in the cache."""
    cache: KeyValueCache | None = None
    """With one, S counts the positions that it holds."""


class GroupedQueryAttention(nn.Module):
    """Multi-head attention as the model uses it: causal, all heads in one product.

    It is torch's fused kernel, or goes by blocks of queries where a CPU learns (llm/kernels/training: blockwise.py;
    flash.py in C, where that pays). Several heads of queries may share one of keys and values, which shrinks
    the cache (Ainslie et al. 2023); with as many of both it is `MultiHeadAttention`.
    """

    in_c = False
    """Whether it learns by flash.c."""

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = (shape.n_head, shape.kv_heads, shape.kv_heads)
        self.dropout = shape.dropout
        self.qk_norm = shape.qk_norm
        self.query_key_value = nn.Linear(shape.n_embd, sum(self.heads) * shape.head_width, bias=shape.bias)
        self.projection = nn.Linear(shape.n_embd, shape.n_embd, bias=shape.bias)

    def forward(self, x_BTC: Tensor, context: Context) -> Tensor:
        """Map BTC to BTC."""
        return self.tell(self.hear(*self.ask(x_BTC, context.angles), context), x_BTC.dtype)

    def ask(self, x_BTC: Tensor, angles: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, BHTD and twice BKTD, turned to their positions."""
        parts_BTHD = self.query_key_value(x_BTC).unflatten(-1, (sum(self.heads), -1))
        q_BHTD, k_BKTD, v_BKTD = parts_BTHD.transpose(1, 2).split(self.heads, dim=1)
        if self.qk_norm:  # no score can then grow past sqrt(D), so no softmax saturates (Henry et al. 2020)
            q_BHTD, k_BKTD = (F.rms_norm(part, part.shape[-1:]) for part in (q_BHTD, k_BKTD))
        if angles is not None:
            q_BHTD, k_BKTD = rotate(q_BHTD, angles), rotate(k_BKTD, angles)
        # Under autocast norms give float32: what is multiplied next is in its dtype, and so is turned into it here.
        return q_BHTD.to(v_BKTD.dtype), k_BKTD.to(v_BKTD.dtype), v_BKTD

    def hear(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, context: Context) -> Tensor:
        """What each head hears, BHTD; with a cache, of all that it holds."""
        if context.cache is not None:
            end = context.visible_BTS.shape[-1]
            k_BKSD, v_BKSD = context.cache.write(self.layer, context.positions_BT, k_BKSD, v_BKSD, end)
        dropout = self.dropout if self.training else 0.0
        if self.in_c and q_BHTD.requires_grad and context.cache is None and not dropout:
            return flash_attention(q_BHTD, k_BKSD, v_BKSD, context.segments and context.segments.texts_E4)
        if context.segments is not None:
            return context.segments.attention(q_BHTD, k_BKSD, v_BKSD, dropout)
        if context.visible_BTS is None and q_BHTD.requires_grad:
            return _causal_attention(q_BHTD, k_BKSD, v_BKSD, dropout)
        return _fused_attention(q_BHTD.to(k_BKSD.dtype), k_BKSD, v_BKSD, dropout, context.visible_BTS)

    def tell(self, y_BHTD: Tensor, dtype: torch.dtype) -> Tensor:
        """What all heads heard, mixed, BTC."""
        return self.projection(y_BHTD.transpose(1, 2).flatten(2).to(dtype))
