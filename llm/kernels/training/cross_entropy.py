"""Output layer and cross-entropy in one, with their gradients, so that all logits never exist at once.

By torch, or by cross_entropy.c. The plain loss is in llm/training/loss.py.

Tensor names end in their shape: N tokens, C width of the model, V vocabulary; G and R tokens of a piece.
"""

import ctypes
from ctypes import c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.kernels import c_library
from llm.kernels.training.bfloat16 import HEADER, PANEL

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
        low_NC = x_NC.to(dtype)
        low_VC = weight_VC.to(dtype)
        tokens = len(x_NC)
        total = x_NC.new_zeros((), dtype=torch.float32)
        dx_NC = torch.empty_like(x_NC)
        dweight_VC: Tensor | None = None
        buffers = _Buffers(low_NC, low_VC)
        dlogits_GV = low_NC.new_empty(min(GROUP, tokens), len(low_VC))
        for start in range(0, max(1, tokens), GROUP):
            group = slice(start, start + GROUP)
            x_GC = low_NC[group]
            targets_G1 = targets_N[group, None]
            dlogits_GV = dlogits_GV[: len(x_GC)]
            for first in range(0, len(x_GC), ROWS):
                piece = slice(first, first + ROWS)
                total += buffers.loss(x_GC[piece], targets_G1[piece], dlogits_GV[piece])
            dx_NC[group] = dlogits_GV @ low_VC
            if ctx.needs_input_grad[1]:  # it is not frozen
                product_VC = dlogits_GV.T @ x_GC
                dweight_VC = product_VC.float() if dweight_VC is None else dweight_VC.add_(product_VC)
        ctx.save_for_backward(dx_NC, dweight_VC)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        dx_NC, dweight_VC = ctx.saved_tensors
        return dx_NC * upstream, None if dweight_VC is None else dweight_VC * upstream, None, None


class _Buffers:
    """Memory for the logits of a piece of the tokens, which all pieces share."""

    def __init__(self, low_NC: Tensor, low_VC: Tensor) -> None:
        self.weight_VC = low_VC
        self.logits_RV = low_NC.new_empty(min(ROWS, len(low_NC)), len(low_VC))
        self.exact_RV = torch.empty_like(self.logits_RV, dtype=torch.float32)
        self.p_RV = torch.empty_like(self.logits_RV, dtype=torch.float32)

    def loss(self, x_RC: Tensor, targets_R1: Tensor, dlogits_RV: Tensor) -> Tensor:
        """The summed loss of a piece; writes its gradient by the logits into `dlogits_RV`."""
        logits_RV = self.logits_RV[: len(x_RC)]
        exact_RV = self.exact_RV[: len(x_RC)]
        p_RV = self.p_RV[: len(x_RC)]
        exact_RV.copy_(torch.mm(x_RC, self.weight_VC.T, out=logits_RV))
        torch.softmax(exact_RV, dim=-1, out=p_RV)
        # By way of the likeliest token, whose probability is never rounded to zero: a second exp is slower.
        log_sum_R1 = exact_RV.amax(-1, keepdim=True) - p_RV.amax(-1, keepdim=True).log()
        loss = (log_sum_R1 - exact_RV.gather(1, targets_R1)).sum()
        dlogits_RV.copy_(p_RV.scatter_add_(1, targets_R1, torch.full_like(log_sum_R1, -1.0)))
        return loss


def linear_cross_entropy_with_gradients(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
    """The sum of the cross-entropy by torch; its gradients are computed with it, while the logits are in the caches.

    Raises ValueError for a target that is no row of `weight`.
    """
    _check_targets(targets_N, len(weight_VC))
    device = x_NC.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_NC.dtype
    with torch.autocast(device, enabled=False):
        inputs = (x_NC, weight_VC, targets_N, dtype)
        return _LinearCrossEntropy.apply(*inputs)


def linear_cross_entropy_in_c(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
    """The same by cross_entropy.c, in bfloat16, on a CPU with AVX-512 bfloat16.

    Raises ValueError for a target that is no row of `weight`, and for a C that is no multiple of PANEL.
    """
    _check_targets(targets_N, len(weight_VC))
    if x_NC.shape[1] % PANEL:
        raise ValueError(f"a stream is {x_NC.shape[1]} wide, no multiple of {PANEL}")
    if not len(x_NC):
        return linear_cross_entropy_with_gradients(x_NC, weight_VC, targets_N)
    with torch.autocast(x_NC.device.type, enabled=False):
        return _CrossEntropyInC.apply(x_NC, weight_VC, targets_N)


def _check_targets(targets_N: Tensor, vocabulary: int) -> None:
    wrong_N = (targets_N < 0) | (targets_N >= vocabulary)
    if wrong_N.any():
        raise ValueError(f"target {targets_N[wrong_N][0].item()} is not one of the {vocabulary} tokens")


@cache
def load_cross_entropy() -> ctypes.CDLL | None:
    """cross_entropy.c, built and loaded; None where it can't be, with the reason in the log, once."""
    library = c_library.load(SOURCES)
    if library is not None:
        library.pack_output.argtypes = [c_int64, c_int64, *3 * [c_void_p], c_int]
        library.pack_output.restype = None
        library.cross_entropy.argtypes = [*3 * [c_int64], *8 * [c_void_p], c_int]
    return library


class _CrossEntropyInC(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor) -> Tensor:
        ctx.dtypes = (x_NC.dtype, weight_VC.dtype)
        x_NC = x_NC.float().contiguous()
        low_VC = weight_VC.bfloat16().contiguous()
        targets_N = targets_N.long().contiguous()
        tokens, width = x_NC.shape
        vocabulary = len(low_VC)
        threads = torch.get_num_threads()
        padded = -(-vocabulary // PANEL) * PANEL
        across = low_VC.new_empty(padded * width)
        down = low_VC.new_empty(padded * width)
        losses_N = x_NC.new_empty(tokens)
        dx_NC = torch.empty_like(x_NC)
        dweight_VC = torch.empty_like(low_VC, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        library = load_cross_entropy()
        assert library is not None  # it was built where this kernel was chosen
        weights = [low_VC.data_ptr(), across.data_ptr(), down.data_ptr()]
        arguments = [width, vocabulary, *weights, threads]
        library.pack_output(*arguments)
        pointers: list[int | None] = [
            x_NC.data_ptr(),
            *weights,
            targets_N.data_ptr(),
            losses_N.data_ptr(),
            dx_NC.data_ptr(),
        ]
        pointers.append(None if dweight_VC is None else dweight_VC.data_ptr())
        arguments = [tokens, width, vocabulary, *pointers, threads]
        if library.cross_entropy(*arguments):
            raise MemoryError("no memory for the loss")
        ctx.save_for_backward(dx_NC, dweight_VC)
        return losses_N.sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        dx_NC, dweight_VC = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        if dweight_VC is not None:
            dweight_VC = dweight_VC.mul_(upstream).to(weight_dtype)  # it is nobody else's
        return (dx_NC * upstream).to(x_dtype), dweight_VC, None
