"""Causal attention by plain products, a block of queries at a time, for learning on a CPU.

A block of queries sees the keys up to its own last one, so that little more than half of the scores exist at all, and
all that is done to them is a product, a softmax or its gradient over one matrix. The weights are kept for the way back.

Tensor names end in their shape: B batch, H heads of queries, K of keys and values, G = H / K queries that share a key,
D width of a head, T positions; N = B * K; P queries of a block and those that share its keys, S keys up to its end.
"""

import math
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries at a time: 4 rows of 512 tokens, 2 heads, forward and backward, take 7.5 ms by 64, 6.1 by 128, 7.0 by 256 and
12.5 in torch's fused kernel (bfloat16, 2 cores of an AMD EPYC with AVX-512)."""
LONGEST = 1024
"""Tokens up to which the weights are kept. Their memory grows with the square, that of all else with the tokens."""


class _BlockwiseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.shape, ctx.scale = q_BHTD.shape, 1 / math.sqrt(q_BHTD.shape[-1])
        ctx.dtypes = [part.dtype for part in (q_BHTD, k_BKTD, v_BKTD)]
        kv_heads, length = k_BKTD.shape[1:3]
        k_NTD, v_NTD = (part.to(dtype).flatten(0, 1) for part in (k_BKTD, v_BKTD))
        q_NGTD = (q_BHTD * ctx.scale).to(dtype).unflatten(1, (kv_heads, -1)).flatten(0, 1)
        hidden_TT = q_NGTD.new_full((min(BLOCK, length),) * 2, -math.inf).triu(1)
        y_NGTD, kept = torch.empty_like(q_NGTD), []
        for start in range(0, length, BLOCK):
            end = min(length, start + BLOCK)
            scores_NPS = q_NGTD[:, :, start:end].flatten(1, 2) @ k_NTD[:, :end].mT
            own_NGTT = scores_NPS.unflatten(1, (-1, end - start))[..., start:end]
            own_NGTT += hidden_TT[: end - start, : end - start]
            weights_NPS = scores_NPS.softmax(dim=-1)
            y_NGTD[:, :, start:end] = (weights_NPS @ v_NTD[:, :end]).unflatten(1, (-1, end - start))
            if any(ctx.needs_input_grad):
                kept.append(weights_NPS)
        ctx.save_for_backward(q_NGTD, k_NTD, v_NTD, *kept)
        return y_NGTD.view(ctx.shape)

    @staticmethod
    def backward(ctx: Any, upstream_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        q_NGTD, k_NTD, v_NTD, *kept = ctx.saved_tensors
        upstream_NGTD = upstream_BHTD.reshape(q_NGTD.shape)
        length = k_NTD.shape[1]
        dq_NGTD = torch.empty_like(q_NGTD)
        sums = torch.promote_types(k_NTD.dtype, torch.float32)
        dk_NTD, dv_NTD = (torch.zeros_like(k_NTD, dtype=sums) for _ in range(2))
        for start, weights_NPS in zip(range(0, length, BLOCK), kept, strict=True):
            end = min(length, start + BLOCK)
            upstream_NPD, q_NPD = (part[:, :, start:end].flatten(1, 2) for part in (upstream_NGTD, q_NGTD))
            dv_NTD[:, :end] += weights_NPS.mT @ upstream_NPD
            dweights_NPS = upstream_NPD @ v_NTD[:, :end].mT
            dscores_NPS = torch._softmax_backward_data(dweights_NPS, weights_NPS, -1, weights_NPS.dtype)
            dq_NGTD[:, :, start:end] = (dscores_NPS @ k_NTD[:, :end]).unflatten(1, (-1, end - start))
            dk_NTD[:, :end] += dscores_NPS.mT @ q_NPD
        batch = ctx.shape[0]
        dq_BHTD = (dq_NGTD * ctx.scale).view(ctx.shape)
        dk_BKTD, dv_BKTD = (part_NTD.unflatten(0, (batch, -1)) for part_NTD in (dk_NTD, dv_NTD))
        return *(part.to(own) for part, own in zip((dq_BHTD, dk_BKTD, dv_BKTD), ctx.dtypes, strict=True)), None


def suits_blockwise(q_BHTD: Tensor, dropout: float) -> bool:
    """Whether attention by blocks can be and is worth being used for these queries."""
    return q_BHTD.device.type == "cpu" and q_BHTD.shape[2] <= LONGEST and not dropout


def blockwise_attention(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
    """Causal attention, BHTD; under autocast in its dtype. Heads of queries that follow each other share a key's."""
    device = q_BHTD.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else k_BKTD.dtype
    with torch.autocast(device, enabled=False):
        return _BlockwiseAttention.apply(q_BHTD, k_BKTD, v_BKTD, dtype)
