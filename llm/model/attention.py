"""Attention: the formula, and the layer that the model uses.

Every token has a query, what it looks for; a key, what it offers to others' queries; and a value, what it passes on. A
query's dot product with each key is a score; softmax turns the scores into weights that sum to one; the weighted sum of
the values is the output. "Attention Is All You Need", Vaswani et al. 2017, section 3.2.

`attention` is the formula and `causal` its mask; chapter 2 of docs/book builds a layer from them, head by head. Tests
hold `GroupedQueryAttention`, which the model uses, against that of llm/from_scratch.py.

Tensor names end in their shape: B batch, T positions of queries, S positions of keys, H heads, K heads of keys and
values, D width of a head, C = H * D width of the model.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.config import GPTShape
from llm.kernels.training.backend import TORCH, Backend
from llm.kernels.training.packed_sequences import PackedSequences
from llm.model.embedding import Rotation, rotate
from llm.model.key_value_cache import KeyValueCache


def attention(q_BTD: Tensor, k_BSD: Tensor, v_BSD: Tensor, visible_TS: Tensor | None = None) -> Tensor:
    """The formula, softmax(q kᵀ / sqrt(D)) v, BTD; any dimensions may stand in for B.

    Without the root the scores grow with D and softmax would pick a single value. `visible_TS` is boolean; where it is
    False a position stays unseen.
    """
    root = math.sqrt(q_BTD.shape[-1])
    scores_BTS = q_BTD @ k_BSD.transpose(-2, -1) / root
    if visible_TS is not None:
        scores_BTS = scores_BTS.masked_fill(~visible_TS, -math.inf)
    return scores_BTS.softmax(dim=-1) @ v_BSD


def causal(length: int) -> Tensor:
    """The mask of a decoder, boolean TS: position t sees 0 … t, and so can never copy the answer from the future."""
    return torch.ones(length, length, dtype=torch.bool).tril()


@dataclass(frozen=True)
class Past:
    """Earlier tokens that the tokens of a batch see, too."""

    cache: KeyValueCache
    """Their keys and values."""
    positions_BT: Tensor
    """Where the new tokens stand in the cache."""
    visible_BTS: Tensor
    """Boolean: which of the cache's positions each new token sees."""


@dataclass(frozen=True)
class Context:
    """What attention needs to know of a batch besides its vectors; the same for all layers."""

    backend: Backend = TORCH
    """It computes attention where there is no past."""
    packed: PackedSequences | None = None
    """The texts of rows that hold several; a token then sees its own text alone."""
    angles: Rotation | None = None
    """Rotary positions of queries and keys."""
    past: Past | None = None
    """Earlier tokens in a cache."""


def build_head_norm(shape: GPTShape) -> nn.RMSNorm | None:
    """Scale queries or keys to one size: no score grows far, so no softmax saturates (Henry et al. 2020)."""
    if not shape.qk_norm:
        return None
    return nn.RMSNorm(shape.head_width, eps=shape.norm_epsilon, elementwise_affine=shape.qk_norm_weight)


class GroupedQueryAttention(nn.Module):
    """Causal multi-head attention as the model uses it: all heads in one product.

    Several heads of queries may share one of keys and values, which shrinks the cache (Ainslie et al. 2023).
    """

    def __init__(self, shape: GPTShape, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = (shape.n_head, shape.kv_heads, shape.kv_heads)
        self.dropout = shape.dropout
        self.query_norm = build_head_norm(shape)
        self.key_norm = build_head_norm(shape)
        width = shape.head_width
        has_bias = shape.bias or shape.qkv_bias
        self.query_key_value = nn.Linear(shape.n_embd, sum(self.heads) * width, bias=has_bias)
        self.projection = nn.Linear(shape.n_head * width, shape.n_embd, bias=shape.bias)

    def forward(self, x_BTC: Tensor, context: Context) -> Tensor:
        """Map BTC to BTC."""
        q_BHTD, k_BKTD, v_BKTD = self.project_qkv(x_BTC, context.angles)
        y_BHTD = self.attend(q_BHTD, k_BKTD, v_BKTD, context=context)
        return self.project_out(y_BHTD, x_BTC.dtype)

    def project_qkv(self, x_BTC: Tensor, angles: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, BHTD and twice BKTD, rotated to their positions."""
        parts_BTHD = self.query_key_value(x_BTC).unflatten(-1, (sum(self.heads), -1))
        parts_BHTD = parts_BTHD.transpose(1, 2)
        q_BHTD, k_BKTD, v_BKTD = parts_BHTD.split(self.heads, dim=1)
        if self.query_norm is not None and self.key_norm is not None:
            q_BHTD = self.query_norm(q_BHTD)
            k_BKTD = self.key_norm(k_BKTD)
        if angles is not None:
            q_BHTD = rotate(q_BHTD, angles)
            k_BKTD = rotate(k_BKTD, angles)
        # Under autocast norms give float32; the next product is in its dtype.
        return q_BHTD.to(v_BKTD.dtype), k_BKTD.to(v_BKTD.dtype), v_BKTD

    def attend(self, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, context: Context) -> Tensor:
        """The weighted values of each head, BHTD; with a cache, over all positions that it holds."""
        if context.past is None:
            dropout = self.dropout if self.training else 0.0
            return context.backend.attention(q_BHTD, k_BKTD, v_BKTD, packed=context.packed, dropout=dropout)
        past = context.past
        end = past.visible_BTS.shape[-1]
        k_BKSD, v_BKSD = past.cache.write(self.layer, past.positions_BT, k_BKTD=k_BKTD, v_BKTD=v_BKTD, end=end)
        visible_B1TS = past.visible_BTS[:, None]
        q_BHTD = q_BHTD.to(k_BKSD.dtype)
        is_shared = self.heads[0] != self.heads[1]
        return F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=visible_B1TS, enable_gqa=is_shared)

    def project_out(self, y_BHTD: Tensor, dtype: torch.dtype) -> Tensor:
        """The outputs of all heads, mixed, BTC."""
        y_BTC = y_BHTD.transpose(1, 2).flatten(2)
        return self.projection(y_BTC.to(dtype))
