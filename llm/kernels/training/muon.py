"""Muon's update by muon.c, on a CPU that multiplies bfloat16 in its vector registers.

`update_matrices` in llm/training/optim.py is its oracle.
"""

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_float, c_int, c_int64, c_void_p
from functools import cache
from itertools import chain
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
        ("rows", c_int64),
        ("columns", c_int64),
        ("gradient", c_void_p),
        ("momentum", c_void_p),
        ("squares", c_void_p),
        ("weight", c_void_p),
    )


class _Rates(Structure):
    _fields_ = (
        ("learning_rate", c_float),
        ("weight_decay", c_float),
        ("momentum", c_float),
        ("beta2", c_float),
        ("larger", c_float),
        ("coefficients", 3 * len(POLAR_EXPRESS) * c_float),
    )


@cache
def load_muon() -> ctypes.CDLL | None:
    """muon.c, built and loaded; None where it can't be, with the reason in the log, once."""
    library = c_library.load(SOURCES)
    if library is not None:
        library.muon.argtypes = [c_int64, c_void_p, c_void_p, c_int]
    return library


def muon_in_c(matrices: Sequence[MuonMatrix], rates: MuonRates) -> None:
    """Update matrices, their momenta and averages of squares in place.

    All tensors are contiguous float32, and sides multiples of PANEL, those of the parts of a weight as well. Raises
    ValueError for others; MemoryError.
    """
    for matrix in matrices:
        _check(matrix)
    gradients = [matrix.gradient_RC.contiguous() for matrix in matrices]  # C reads them: they must stay
    parts: list[_Matrix] = []
    for matrix, gradient_RC in zip(matrices, gradients, strict=True):
        parts += _parts(matrix, gradient_RC)
    parts.sort(key=lambda part: part.rows * part.columns, reverse=True)  # the largest first
    array = (_Matrix * len(parts))(*parts)
    constants = _Rates(
        learning_rate=rates.learning_rate,
        weight_decay=rates.weight_decay,
        momentum=rates.momentum,
        beta2=rates.beta2,
        larger=LARGER,
    )
    constants.coefficients[:] = list(chain.from_iterable(POLAR_EXPRESS))
    arguments = (len(array), array, ctypes.byref(constants), torch.get_num_threads())
    library = load_muon()
    assert library is not None  # it was built where this kernel was chosen
    if library.muon(*arguments):
        raise MemoryError("no memory for Muon's update")


def _check(matrix: MuonMatrix) -> None:
    weight_RC = matrix.weight_RC
    is_whole = weight_RC.dtype == torch.float32 and weight_RC.is_contiguous()
    if not is_whole or any(side % PANEL for side in (*matrix.rows, weight_RC.shape[1])):
        kind = f"{weight_RC.dtype} {tuple(weight_RC.shape)}"
        raise ValueError(f"a matrix is {kind}; muon.c needs contiguous float32 and multiples of {PANEL}")


def _parts(matrix: MuonMatrix, gradient_RC: Tensor) -> list[_Matrix]:
    """The matrices that a weight holds one below the other, as muon.c reads them."""
    parts = []
    first = 0
    for rows in matrix.rows:
        part = _Matrix(
            rows=rows,
            columns=matrix.weight_RC.shape[1],
            gradient=gradient_RC[first:].data_ptr(),
            momentum=matrix.momentum_RC[first:].data_ptr(),
            squares=matrix.squares_R1[first:].data_ptr(),
            weight=matrix.weight_RC[first:].data_ptr(),
        )
        parts.append(part)
        first += rows
    return parts
