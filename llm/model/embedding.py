"""Where a token becomes a vector, and how the model knows a token's place.

A token id is only a name, so a table gives each one a vector that training moves: tokens used alike come to lie near
each other. Attention alone would see a bag of vectors in no order, so the model adds the position in one of two ways:

- learned (GPT-2): a second table, a vector a position, added to the token's. Nothing is known past its last row.
- rotary (Llama; RoFormer, Su et al. 2021): the vectors stay, and each query and key is turned by an angle that grows
  with its position. Their dot product then depends on the distance between the two alone.

Tensor names end in their shape: B batch, T positions, H heads, D width of a head, P pairs of its components, C width of
the model.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llm.config import GPTConfig, GPTShape, RotaryScaling


class Embedding(nn.Module):
    """A vector a token and, with learned positions, a vector a position."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocabulary_size, config.n_embd)
        self.position = nn.Embedding(config.context_length, config.n_embd) if config.positions == "learned" else None

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """The vectors, BTC, of token ids at their positions, both integers."""
        x_BTC = self.token(tokens_BT)
        return x_BTC if self.position is None else x_BTC + self.position(positions_BT)


class Rotation(NamedTuple):
    """The cosines and sines, float32 B1TD, by which the queries and keys of some positions turn."""

    cosine_B1TD: Tensor
    sine_B1TD: Tensor


def rotation(positions_BT: Tensor, shape: GPTShape) -> Rotation:
    """The turn of each position: pair i of a head turns by `position / base^(2i / D)` radians.

    The first pairs turn fast and tell neighbours apart, the last ones slowly and tell far from near.
    """
    pairs_P = torch.arange(0, shape.head_width, 2, device=positions_BT.device, dtype=torch.float32)
    periods_P = shape.rotary_base ** (pairs_P / shape.head_width)
    if shape.rotary_scaling is not None:
        periods_P = periods_P * slowdown(periods_P, shape.rotary_scaling)
    angles_BTP = positions_BT[..., None].float() / periods_P
    angles_B1TD = torch.cat([angles_BTP, angles_BTP], dim=-1)[:, None]
    return Rotation(angles_B1TD.cos(), angles_B1TD.sin())


def slowdown(periods_P: Tensor, scaling: RotaryScaling) -> Tensor:
    """The factor by which each pair is slowed down, from 1 to `factor`, P. `periods_P`: positions a radian.

    A pair that never came round within the original context would meet angles that it never learned.
    """
    turns_P = scaling.original_context_length / (2 * math.pi * periods_P)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept_P = ((turns_P - low) / (high - low)).clamp(0, 1)
    return 1 / (kept_P + (1 - kept_P) / scaling.factor)


def rotate(x_BHTD: Tensor, by: Rotation) -> Tensor:
    """Turn queries or keys, BHTD; component i and component i + D/2 are a pair."""
    first, second = x_BHTD.chunk(2, dim=-1)
    across_BHTD = torch.cat([-second, first], dim=-1)
    return (x_BHTD * by.cosine_B1TD + across_BHTD * by.sine_B1TD).to(x_BHTD.dtype)
