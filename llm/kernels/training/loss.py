"""Output layer and cross-entropy in one by loss.c, on a CPU with fast products of bfloat16 in its vector registers.

Tensor names end in their shape: N tokens, C width of the model, V vocabulary.
"""

import ctypes
from ctypes import c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.kernels import c_library
from llm.kernels.training.flash import HEADER, PANEL

SOURCES = (Path(__file__).with_name("loss.c"), HEADER)


@cache
def load_loss() -> ctypes.CDLL | None:
    """loss.c, built and loaded; None where it can't be, with the reason in the log, once."""
    if (found := c_library.load(SOURCES)) is not None:
        found.pack_output.argtypes = [c_int64, c_int64, *5 * [c_void_p], c_int]
        found.pack_output.restype = None
        found.cross_entropy.argtypes = [*3 * [c_int64], *10 * [c_void_p], c_int]
    return found


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


class _FusedCrossEntropy(torch.autograd.Function):
    """In bfloat16; none of its pieces goes through torch."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, logits_in_int8: bool) -> Tensor:
        ctx.dtypes = x_NC.dtype, weight_VC.dtype
        x_NC, low_VC, targets_N = (
            x_NC.float().contiguous(),
            weight_VC.bfloat16().contiguous(),
            targets_N.long().contiguous(),
        )
        (tokens, width), vocabulary, threads = x_NC.shape, len(low_VC), torch.get_num_threads()
        padded = -(-vocabulary // PANEL) * PANEL
        across, down = (low_VC.new_empty(size) for size in (padded * width // (1 + logits_in_int8), padded * width))
        steps_V, shifted_V = (
            torch.zeros(padded, dtype=dtype) if logits_in_int8 else None for dtype in (torch.float32, torch.int32)
        )
        losses_N, dx_NC = x_NC.new_empty(tokens), torch.empty_like(x_NC)
        dweight_VC = torch.empty_like(low_VC, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        library, weights = load_loss(), (low_VC, across, down, steps_V, shifted_V)
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
        return (dx_NC * upstream).to(x_dtype), dweight_VC, None, None


def fused_cross_entropy(x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, logits_in_int8: bool = False) -> Tensor:
    """Sum over the tokens of the cross-entropy, in nats, of the logits `x weightᵀ`; those below zero do not count.

    Raises ValueError for a C that is no multiple of PANEL.
    """
    if x_NC.shape[1] % PANEL:
        raise ValueError(f"a stream is {x_NC.shape[1]} wide, no multiple of {PANEL}")
    return _FusedCrossEntropy.apply(x_NC, weight_VC, targets_N, logits_in_int8)
