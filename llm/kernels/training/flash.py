"""Causal attention and its gradients by flash.c, on a CPU that multiplies bfloat16 in its vector registers.

A score never leaves the caches, and the keys and values of packed texts are read where they stand in their rows. The
formula in llm/model/attention.py is its oracle.

Tensor names end in their shape: B batch, T positions, H heads of queries, K of keys and values, D width of a head; E4
texts: row, length of the shared prefix at the row's beginning, start and length of the text's own tokens.
"""

import ctypes
from ctypes import POINTER, Structure, byref, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.kernels import c_library
from llm.kernels.training.bfloat16 import HEADER, PANEL
from llm.kernels.training.packed_sequences import PackedSequences

SOURCES = (Path(__file__).with_name("flash.c"), HEADER)


class _Shape(Structure):
    _fields_ = [(name, c_int64) for name in ("rows", "heads", "kv_heads", "tokens", "width")]


class _Heads(Structure):
    _fields_ = [("first", c_void_p), *((name, c_int64) for name in ("row", "head", "token"))]


@cache
def load_flash() -> ctypes.CDLL | None:
    """flash.c, built and loaded; None where it can't be, with the reason in the log, once."""
    if (found := c_library.load(SOURCES)) is not None:
        shape, heads, pointer = POINTER(_Shape), POINTER(_Heads), c_void_p
        found.attend.argtypes = [shape, heads, heads, heads, pointer, c_int64, pointer, pointer, c_int]
        found.attend_back.argtypes = [shape, *4 * [heads], pointer, c_int64, *5 * [pointer], c_int]
    return found


def _heads(part_BHTD: Tensor) -> Any:
    return byref(_Heads(part_BHTD.data_ptr(), *part_BHTD.stride()[:3]))


def _readable(part_BHTD: Tensor) -> Tensor:
    """In bfloat16, each vector in one piece."""
    part_BHTD = part_BHTD.bfloat16()
    return part_BHTD if part_BHTD.stride(-1) == 1 else part_BHTD.contiguous()


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for attention")


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, texts_E4: Tensor, whole: bool) -> Tensor:
        ctx.dtypes = [part.dtype for part in (q_BHTD, k_BKTD, v_BKTD)]
        q_BHTD, k_BKTD, v_BKTD = map(_readable, (q_BHTD, k_BKTD, v_BKTD))
        rows, heads, tokens, width = q_BHTD.shape
        ctx.shape = _Shape(rows, heads, k_BKTD.shape[1], tokens, width)
        ctx.make = torch.empty if whole else torch.zeros  # which places without a text stay
        y_BTHD = ctx.make(rows, tokens, heads, width, dtype=torch.bfloat16)
        logs_BHT = torch.empty(rows, heads, tokens, dtype=torch.float32)
        given = byref(ctx.shape), *map(_heads, (q_BHTD, k_BKTD, v_BKTD)), texts_E4.data_ptr(), len(texts_E4)
        _check(load_flash().attend(*given, y_BTHD.data_ptr(), logs_BHT.data_ptr(), torch.get_num_threads()))
        ctx.save_for_backward(q_BHTD, k_BKTD, v_BKTD, texts_E4, y_BTHD, logs_BHT)
        return y_BTHD.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, upstream_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        q_BHTD, k_BKTD, v_BKTD, texts_E4, y_BTHD, logs_BHT = ctx.saved_tensors
        upstream_BHTD = _readable(upstream_BHTD)
        dq_BTHD = ctx.make(y_BTHD.shape, dtype=torch.bfloat16)
        kv_heads, tokens, width = k_BKTD.shape[1:]
        dk_BTKD, dv_BTKD = (k_BKTD.new_empty(len(k_BKTD), tokens, kv_heads, width) for _ in range(2))
        given = byref(ctx.shape), *map(_heads, (q_BHTD, k_BKTD, v_BKTD, upstream_BHTD)), texts_E4.data_ptr()
        rest = (tensor.data_ptr() for tensor in (y_BTHD, logs_BHT, dq_BTHD, dk_BTKD, dv_BTKD))
        _check(load_flash().attend_back(*given, len(texts_E4), *rest, torch.get_num_threads()))
        gradients = zip((dq_BTHD, dk_BTKD, dv_BTKD), ctx.dtypes, strict=True)
        return *(part_BTHD.transpose(1, 2).to(dtype) for part_BTHD, dtype in gradients), None, None


def flash_attention(
    q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, packed: PackedSequences | None = None, dropout: float = 0.0
) -> Tensor:
    """Causal attention, bfloat16 BHTD, of packed texts, or of rows that are a text each.

    D is a multiple of PANEL. Consecutive heads of queries share one of keys and values. Padding, which is in no text,
    gets zeros. Raises ValueError for another D, for dropout, and for a text outside its row; MemoryError.
    """
    rows, _, tokens, width = q_BHTD.shape
    if width % PANEL or dropout:
        raise ValueError(f"a head is {width} wide with dropout {dropout}; flash.c needs a multiple of {PANEL} and none")
    whole = packed is None
    texts_E4 = torch.tensor([(row, 0, 0, tokens) for row in range(rows)]) if whole else packed.texts_E4
    row_E, prefix_E, start_E, length_E = texts_E4.T
    if ((row_E >= rows) | (prefix_E > start_E) | (start_E + length_E > tokens)).any() or (texts_E4 < 0).any():
        raise ValueError(f"texts of {rows} rows of {tokens} tokens: {texts_E4.tolist()}")
    return _FlashAttention.apply(q_BHTD, k_BKTD, v_BKTD, texts_E4.contiguous(), whole)
