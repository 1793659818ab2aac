"""Output layer and cross-entropy in one, so that all logits never exist at once: by torch, or by cross_entropy.c.

Tensor names end in their shape: N tokens, C width of the model, V vocabulary.
"""

import ctypes
from ctypes import c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm.kernels import c_library
from llm.kernels.training.bfloat16 import HEADER, PANEL

IGNORE = -100  # a target that does not count
ROWS = 256  # tokens whose logits exist at a time: 8 MB for a vocabulary of 8,192, which stays in the caches
GROUP = 1024  # tokens whose gradients are multiplied at once: each sum into that of the weights passes over all of it
SOURCES = (Path(__file__).with_name("cross_entropy.c"), HEADER)


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


def linear_cross_entropy(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
    """Sum over the tokens of the cross-entropy, in nats, of the logits `x weightᵀ`, a piece of the tokens at a time.

    Targets (int64) of IGNORE do not count. Under autocast the matrix products are in its dtype, the sums in float32.
    Raises ValueError for a target that is no row of `weight`.
    """
    _check_targets(targets_N, len(weight_VC))
    dtype = _product_dtype(x_NC)
    with torch.autocast(x_NC.device.type, enabled=False):
        low_VC = weight_VC.to(dtype)
        pieces = zip(x_NC.split(ROWS), targets_N.split(ROWS), strict=True)
        losses = [
            F.cross_entropy((x_RC.to(dtype) @ low_VC.T).float(), targets_R, ignore_index=IGNORE, reduction="sum")
            for x_RC, targets_R in pieces
        ]
        return torch.stack(losses).sum()


def linear_cross_entropy_with_gradients(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
    """The same for a training: the gradients are computed with the sum, while the logits are in the caches."""
    _check_targets(targets_N, len(weight_VC))
    dtype = _product_dtype(x_NC)
    with torch.autocast(x_NC.device.type, enabled=False):
        return _LinearCrossEntropy.apply(x_NC, weight_VC, targets_N, dtype)


def linear_cross_entropy_in_c(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
    """The same by cross_entropy.c with its gradients, in bfloat16, on a CPU with AVX-512 bfloat16.

    Raises ValueError for a target that is no row of `weight`, and for a C that is no multiple of PANEL.
    """
    _check_targets(targets_N, len(weight_VC))
    if x_NC.shape[1] % PANEL:
        raise ValueError(f"a stream is {x_NC.shape[1]} wide, no multiple of {PANEL}")
    if not len(x_NC):
        return linear_cross_entropy_with_gradients(x_NC, weight_VC, targets_N)
    with torch.autocast(x_NC.device.type, enabled=False):
        return _CrossEntropyInC.apply(x_NC, weight_VC, targets_N)


def _product_dtype(x_NC: Tensor) -> torch.dtype:
    """The dtype of matrix products with `x`: autocast's if it is enabled, else that of `x`."""
    device = x_NC.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_NC.dtype


def _check_targets(targets_N: Tensor, vocabulary: int) -> None:
    wrong_N = (targets_N != IGNORE) & ((targets_N < 0) | (targets_N >= vocabulary))
    if wrong_N.any():
        raise ValueError(f"target {targets_N[wrong_N][0].item()} is not one of the {vocabulary} tokens")


@cache
def load_cross_entropy() -> ctypes.CDLL | None:
    """cross_entropy.c, built and loaded; None where it can't be, with the reason in the log, once."""
    if (found := c_library.load(SOURCES)) is not None:
        found.pack_output.argtypes = [c_int64, c_int64, *3 * [c_void_p], c_int]
        found.pack_output.restype = None
        found.cross_entropy.argtypes = [*3 * [c_int64], *8 * [c_void_p], c_int]
    return found


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


class _CrossEntropyInC(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
        ctx.dtypes = x_NC.dtype, weight_VC.dtype
        x_NC, low_VC = x_NC.float().contiguous(), weight_VC.bfloat16().contiguous()
        targets_N = targets_N.long().contiguous()
        (tokens, width), vocabulary, threads = x_NC.shape, len(low_VC), torch.get_num_threads()
        across, down = (low_VC.new_empty(-(-vocabulary // PANEL) * PANEL * width) for _ in range(2))
        losses_N, dx_NC = x_NC.new_empty(tokens), torch.empty_like(x_NC)
        dweight_VC = torch.empty_like(low_VC, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        library, weights = load_cross_entropy(), (low_VC, across, down)
        library.pack_output(width, vocabulary, *_pointers(*weights), threads)
        pointers = _pointers(x_NC, *weights, targets_N, losses_N, dx_NC, dweight_VC)
        if library.cross_entropy(tokens, width, vocabulary, *pointers, threads):
            raise MemoryError("no memory for the loss")
        ctx.save_for_backward(dx_NC, dweight_VC)
        return losses_N.sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        dx_NC, dweight_VC = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        dweight_VC = None if dweight_VC is None else dweight_VC.mul_(upstream).to(weight_dtype)  # it is nobody else's
        return (dx_NC * upstream).to(x_dtype), dweight_VC, None
