"""How wrong the model is: cross-entropy in nats a token, and bits per byte, which no tokenizer can flatter.

Tensor names end in their shape: N tokens, C width of the model, V vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # a target that does not count
ROWS = 256  # tokens whose logits exist at a time: 8 MB for a vocabulary of 8,192, which stays in the caches


class _LinearCrossEntropy(torch.autograd.Function):
    """Output layer and cross-entropy in one, a piece of the tokens at a time.

    The logits are the largest tensor of a small model by far: V wide where the stream is C. Here a piece of them lives
    only until its loss and its gradients are taken, so the backward pass has nothing left to do but scale.
    """

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        counted_N = targets_N != IGNORE
        total = x_NC.new_zeros((), dtype=torch.float32)
        dx_NC = torch.empty_like(x_NC)
        dweight_VC = torch.zeros_like(weight_VC) if ctx.needs_input_grad[1] else None  # None: it is frozen
        low_VC = weight_VC.to(dtype)
        for first in range(0, len(x_NC), ROWS):
            part = slice(first, first + ROWS)
            x_RC, weights_R1 = x_NC[part].to(dtype), counted_N[part, None].float()
            targets_R1 = targets_N[part, None].clamp(min=0)
            log_p_RV = (x_RC @ low_VC.T).float().log_softmax(dim=-1)
            total -= (log_p_RV.gather(1, targets_R1) * weights_R1).sum()
            gradient_RV = log_p_RV.exp_().scatter_add_(1, targets_R1, torch.full_like(weights_R1, -1.0))
            gradient_RV = gradient_RV.mul_(weights_R1).to(dtype)
            dx_NC[part] = gradient_RV @ low_VC
            if dweight_VC is not None:
                dweight_VC += gradient_RV.T @ x_RC
        ctx.save_for_backward(dx_NC, dweight_VC)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        dx_NC, dweight_VC = ctx.saved_tensors
        return dx_NC * upstream, None if dweight_VC is None else dweight_VC * upstream, None, None


def linear_cross_entropy(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over the tokens of the cross-entropy, in nats, of the logits `x weightᵀ`; never holds all logits at once.

    Targets (int64) of IGNORE do not count. Under autocast the matrix products are in its dtype, the sums in float32.
    """
    device = x_NC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_NC.dtype
    with torch.autocast(device, enabled=False):
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
