"""Muon's step by muon.c: each matrix by one thread, in whose caches it stays.

Tensor names end in their shape: R rows, C columns.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from llm.kernels import c_library
from llm.kernels.training.flash import HEADER, PANEL

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest at zero, and between 0.7 and 1.2 after five steps

SOURCES = (Path(__file__).with_name("muon.c"), HEADER)


class _Matrix(ctypes.Structure):
    _fields_ = (
        ("rows", c_int64),
        ("columns", c_int64),
        ("gradient", c_void_p),
        ("momentum", c_void_p),
        ("weight", c_void_p),
    )


@cache
def load_muon() -> ctypes.CDLL | None:
    """muon.c, built and loaded; None where it can't be, with the reason in the log, once."""
    if (found := c_library.load(SOURCES)) is not None:
        found.muon.argtypes = [c_int64, c_void_p, *3 * [c_float], c_void_p, c_int]
    return found


def fits_c(weight_RC: Tensor) -> bool:
    """Whether muon.c takes a matrix."""
    whole = weight_RC.dtype == torch.float32 and weight_RC.is_contiguous()
    return whole and not any(side % PANEL for side in weight_RC.shape)


def muon_in_c(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    momentum: float,
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Update matrices that `fits_c` accepts, RC each, and their momenta in place."""
    order = sorted(range(len(weights)), key=lambda number: -weights[number].numel())
    whole = [gradient_RC.contiguous() for gradient_RC in gradients]
    matrices = [
        _Matrix(*weights[i].shape, whole[i].data_ptr(), momenta[i].data_ptr(), weights[i].data_ptr()) for i in order
    ]
    array, abc = (_Matrix * len(matrices))(*matrices), (c_float * 3)(*NEWTON_SCHULZ)
    numbers = momentum, 1 - learning_rate * weight_decay, learning_rate
    if load_muon().muon(len(array), array, *numbers, abc, torch.get_num_threads()):
        raise MemoryError("no memory for the update")
