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
from llm.kernels.training.backend import MuonMatrix, MuonRates
from llm.kernels.training.bfloat16 import HEADER, PANEL

POLAR_EXPRESS = (
    (8.156555, -22.483293, 15.878770),
    (4.042930, -2.808917, 0.500018),
    (3.891668, -2.772484, 0.506065),
    (3.285754, -2.368129, 0.464490),
    (2.346541, -1.709783, 0.423236),
)
"""Coefficients of each step: those that bring singular values from 0 to 1 nearest to one (Amsel et al. 2025, with a
safety factor of 2 % and a cushion of 0.02)."""
LARGER = 1.01
"""What the bound of the singular values is raised by, so that rounding leaves none above one."""
SOURCES = (Path(__file__).with_name("muon.c"), HEADER)


class _Matrix(Structure):
    _fields_ = (
        *((name, c_int64) for name in ("rows", "columns")),
        *((name, c_void_p) for name in ("gradient", "momentum", "squares", "weight")),
    )


class _Rates(Structure):
    _fields_ = (
        *((name, c_float) for name in ("learning_rate", "weight_decay", "momentum", "beta2", "larger")),
        ("coefficients", 3 * len(POLAR_EXPRESS) * c_float),
    )


@cache
def load_muon() -> ctypes.CDLL | None:
    """muon.c, built and loaded; None where it can't be, with the reason in the log, once."""
    if (library := c_library.load(SOURCES)) is not None:
        library.muon.argtypes = [c_int64, c_void_p, c_void_p, c_int]
    return library


def muon_in_c(matrices: Sequence[MuonMatrix], rates: MuonRates) -> None:
    """Update matrices and what Muon remembers of them in place.

    All tensors are contiguous float32, and sides multiples of PANEL, those of the parts of a weight as well. Raises
    ValueError for others; MemoryError.
    """
    parts: list[tuple[Tensor, ...]] = []
    for matrix in matrices:
        weight_RC = matrix.weight_RC
        is_whole = weight_RC.dtype == torch.float32 and weight_RC.is_contiguous()
        if not is_whole or any(side % PANEL for side in (*matrix.rows, weight_RC.shape[1])):
            found = f"{weight_RC.dtype} {tuple(weight_RC.shape)}"
            raise ValueError(f"a matrix is {found}; muon.c needs contiguous float32 and multiples of {PANEL}")
        tensors = (weight_RC.grad.contiguous(), matrix.momentum_RC, matrix.squares_R1, weight_RC)
        parts += zip(*(tensor.split(matrix.rows) for tensor in tensors), strict=True)
    parts.sort(key=lambda tensors: tensors[-1].numel(), reverse=True)  # the largest first
    pointers = [_Matrix(*part[-1].shape, *(tensor.data_ptr() for tensor in part)) for part in parts]
    array = (_Matrix * len(pointers))(*pointers)
    coefficients = [coefficient for step in POLAR_EXPRESS for coefficient in step]
    constants = _Rates(
        rates.learning_rate,
        rates.weight_decay,
        rates.momentum,
        rates.beta2,
        LARGER,
        (c_float * len(coefficients))(*coefficients),
    )
    if load_muon().muon(len(array), array, ctypes.byref(constants), torch.get_num_threads()):
        raise MemoryError("no memory for Muon's update")
