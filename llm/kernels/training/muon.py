"""Muon's update by muon.c, on a CPU that multiplies bfloat16 in its vector registers.

`update_matrices` in llm/training/optim.py is its oracle.
"""

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from llm.kernels import c_library
from llm.kernels.training.bfloat16 import HEADER, PANEL

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration (Jordan et al. 2024): steepest at zero, and between 0.7 and 1.2 after five steps."""
SOURCES = (Path(__file__).with_name("muon.c"), HEADER)


class _Matrix(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "columns")),
        *((name, c_void_p) for name in ("gradient", "momentum", "weight")),
    )


@cache
def load_muon() -> ctypes.CDLL | None:
    """muon.c, built and loaded; None where it can't be, with the reason in the log, once."""
    if (found := c_library.load(SOURCES)) is not None:
        found.muon.argtypes = [c_int64, c_void_p, *3 * [c_float], c_void_p, c_int]
    return found


def muon_in_c(weights: Sequence[Tensor], momenta: Sequence[Tensor], momentum: float, keep: float, rate: float) -> None:
    """Update momenta and weights in place from the weights' gradients: `weight = keep weight - rate update`.

    Matrices are contiguous float32, and their sides multiples of PANEL. Raises ValueError for others; MemoryError.
    """
    for weight_RC in weights:
        whole = weight_RC.dtype == torch.float32 and weight_RC.is_contiguous()
        if not whole or any(side % PANEL for side in weight_RC.shape):
            found = f"{weight_RC.dtype} {tuple(weight_RC.shape)}"
            raise ValueError(f"a matrix is {found}; muon.c needs contiguous float32 and multiples of {PANEL}")
    largest_first = sorted(zip(weights, momenta, strict=True), key=lambda pair: pair[0].numel(), reverse=True)
    gradients = [weight_RC.grad.contiguous() for weight_RC, _ in largest_first]
    matrices = [
        _Matrix(*weight_RC.shape, gradient_RC.data_ptr(), momentum_RC.data_ptr(), weight_RC.data_ptr())
        for (weight_RC, momentum_RC), gradient_RC in zip(largest_first, gradients, strict=True)
    ]
    array, coefficients = (_Matrix * len(matrices))(*matrices), (c_float * 3)(*NEWTON_SCHULZ)
    if load_muon().muon(len(array), array, momentum, keep, rate, coefficients, torch.get_num_threads()):
        raise MemoryError("no memory for Muon's update")
