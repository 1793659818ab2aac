"""How wrong the model is: cross-entropy in nats a token, and bits per byte, which no tokenizer can flatter.

Tensor names end in their shape: N tokens, C width of the model, V vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm.kernels.training.loss import fused_cross_entropy

IGNORE = -100  # a target that does not count
ROWS = 256  # tokens whose logits exist at a time: 8 MB for a vocabulary of 8,192, which stays in the caches
GROUP = 1024  # tokens whose gradients are multiplied at once: each sum into that of the weights passes over all of it


class _LinearCrossEntropy(torch.autograd.Function):
    """Output layer and cross-entropy in one, a piece of the tokens at a time.

    The logits are the largest tensor of a small model by far: V wide where the stream is C. Here a piece of them lives
    only until its loss and its gradients are taken, so the backward pass has nothing left to do but scale. The pieces
    share their memory: new memory costs a CPU about as much as what is done in it.
    """

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        total = x_NC.new_zeros((), dtype=torch.float32)
        low_NC, low_VC = x_NC.to(dtype), weight_VC.to(dtype)
        dx_NC, dweight_VC = torch.empty_like(x_NC), None
        tokens, vocabulary = len(x_NC), len(weight_VC)
        dlogits_GV = low_NC.new_empty(min(GROUP, tokens), vocabulary)
        logits_RV = low_NC.new_empty(min(ROWS, tokens), vocabulary)
        exact_RV, p_RV = (torch.empty_like(logits_RV, dtype=torch.float32) for _ in range(2))
        for start in range(0, max(1, tokens), GROUP):
            x_GC, targets_G = low_NC[start : start + GROUP], targets_N[start : start + GROUP]
            dlogits_GV = dlogits_GV[: len(x_GC)]
            for first in range(0, len(x_GC), ROWS):
                part = slice(first, first + ROWS)
                targets_R1 = targets_G[part, None].clamp(min=0)
                counted_R1 = (targets_G[part, None] != IGNORE).float()
                logits_RV, exact_RV, p_RV = (t[: len(targets_R1)] for t in (logits_RV, exact_RV, p_RV))
                exact_RV.copy_(torch.mm(x_GC[part], low_VC.T, out=logits_RV))
                torch.softmax(exact_RV, dim=-1, out=p_RV)
                # By way of the likeliest token, whose probability is never rounded to zero: a second exp is slower.
                log_sum_R1 = exact_RV.amax(-1, keepdim=True) - p_RV.amax(-1, keepdim=True).log()
                total += ((log_sum_R1 - exact_RV.gather(1, targets_R1)) * counted_R1).sum()
                dlogits_GV[part] = p_RV.scatter_add_(1, targets_R1, torch.full_like(counted_R1, -1.0)).mul_(counted_R1)
            dx_NC[start : start + GROUP] = dlogits_GV @ low_VC
            if ctx.needs_input_grad[1]:  # it is not frozen
                product_VC = dlogits_GV.T @ x_GC
                dweight_VC = product_VC.float() if dweight_VC is None else dweight_VC.add_(product_VC)
        ctx.save_for_backward(dx_NC, dweight_VC)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        dx_NC, dweight_VC = ctx.saved_tensors
        return dx_NC * upstream, None if dweight_VC is None else dweight_VC * upstream, None, None


def linear_cross_entropy(
    x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, *, in_c: bool = False, logits_in_int8: bool = False
) -> Tensor:
    """Sum over the tokens of the cross-entropy, in nats, of the logits `x weightᵀ`; never holds all logits at once.

    Targets (int64) of IGNORE do not count. Under autocast the matrix products are in its dtype, the sums in float32.
    `in_c` has loss.c compute it, in bfloat16, where gradients are needed, and `logits_in_int8` its logits in 8 bits.
    Raises ValueError for a target that is no row of `weight`, and with `in_c` for a C that is no multiple of PANEL.
    """
    wrong_N = (targets_N != IGNORE) & ((targets_N < 0) | (targets_N >= len(weight_VC)))
    if wrong_N.any():
        raise ValueError(f"target {targets_N[wrong_N][0].item()} is not one of the {len(weight_VC)} tokens")
    device = x_NC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_NC.dtype
    with torch.autocast(device, enabled=False):
        if in_c and torch.is_grad_enabled() and len(x_NC):
            return fused_cross_entropy(x_NC, weight_VC, targets_N, logits_in_int8)
        if torch.is_grad_enabled():
            return _LinearCrossEntropy.apply(x_NC, weight_VC, targets_N, dtype)
        low_VC = weight_VC.to(dtype)
        pieces = zip(x_NC.split(ROWS), targets_N.split(ROWS), strict=True)
        losses = [
            F.cross_entropy((x_RC.to(dtype) @ low_VC.T).float(), targets_R, ignore_index=IGNORE, reduction="sum")
            for x_RC, targets_R in pieces
        ]
        return torch.stack(losses).sum()


def bits_per_byte(loss: float, tokens: int, byte_count: int) -> float:
    """From nats a token to bits a byte of the text that `tokens` tokens stand for."""
    return loss * tokens / byte_count / math.log(2)
