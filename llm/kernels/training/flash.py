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
    _fields_ = (
        ("rows", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("tokens", c_int64),
        ("width", c_int64),
    )


class _Heads(Structure):
    _fields_ = (("first", c_void_p), ("row", c_int64), ("head", c_int64), ("token", c_int64))


@cache
def load_flash() -> ctypes.CDLL | None:
    """flash.c, built and loaded; None where it can't be, with the reason in the log, once."""
    library = c_library.load(SOURCES)
    if library is not None:
        shape, heads, pointer = POINTER(_Shape), POINTER(_Heads), c_void_p
        library.attend.argtypes = [shape, heads, heads, heads, pointer, c_int64, pointer, pointer, c_int]
        library.attend_back.argtypes = [shape, *4 * [heads], pointer, c_int64, *5 * [pointer], c_int]
    return library


def _heads(part_BHTD: Tensor) -> Any:
    row, head, token, _ = part_BHTD.stride()
    return byref(_Heads(first=part_BHTD.data_ptr(), row=row, head=head, token=token))


def _readable(part_BHTD: Tensor) -> Tensor:
    """In bfloat16, each vector in one piece."""
    part_BHTD = part_BHTD.bfloat16()
    return part_BHTD if part_BHTD.stride(-1) == 1 else part_BHTD.contiguous()


def _call(function: str, arguments: list[Any]) -> None:
    library = load_flash()
    assert library is not None  # it was built where this kernel was chosen
    if getattr(library, function)(*arguments, torch.get_num_threads()):
        raise MemoryError("no memory for attention")


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, texts_E4: Tensor, whole: bool) -> Tensor:  # noqa: FBT001
        ctx.dtypes = (q_BHTD.dtype, k_BKTD.dtype, v_BKTD.dtype)
        q_BHTD = _readable(q_BHTD)
        k_BKTD = _readable(k_BKTD)
        v_BKTD = _readable(v_BKTD)
        rows, heads, tokens, width = q_BHTD.shape
        ctx.shape = _Shape(rows=rows, heads=heads, kv_heads=k_BKTD.shape[1], tokens=tokens, width=width)
        ctx.make = torch.empty if whole else torch.zeros  # which places without a text stay
        y_BTHD = ctx.make((rows, tokens, heads, width), dtype=torch.bfloat16)
        logs_BHT = torch.empty(rows, heads, tokens, dtype=torch.float32)
        arguments = [byref(ctx.shape), _heads(q_BHTD), _heads(k_BKTD), _heads(v_BKTD)]
        arguments += [texts_E4.data_ptr(), len(texts_E4), y_BTHD.data_ptr(), logs_BHT.data_ptr()]
        _call("attend", arguments)
        tensors = (q_BHTD, k_BKTD, v_BKTD, texts_E4, y_BTHD, logs_BHT)
        ctx.save_for_backward(*tensors)
        return y_BTHD.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, upstream_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        q_BHTD, k_BKTD, v_BKTD, texts_E4, y_BTHD, logs_BHT = ctx.saved_tensors
        upstream_BHTD = _readable(upstream_BHTD)
        rows, kv_heads, tokens, width = k_BKTD.shape
        dq_BTHD = ctx.make(y_BTHD.shape, dtype=torch.bfloat16)
        dk_BTKD = torch.empty(rows, tokens, kv_heads, width, dtype=torch.bfloat16)
        dv_BTKD = torch.empty_like(dk_BTKD)
        arguments = [byref(ctx.shape), _heads(q_BHTD), _heads(k_BKTD), _heads(v_BKTD), _heads(upstream_BHTD)]
        arguments += [texts_E4.data_ptr(), len(texts_E4), y_BTHD.data_ptr(), logs_BHT.data_ptr()]
        arguments += [dq_BTHD.data_ptr(), dk_BTKD.data_ptr(), dv_BTKD.data_ptr()]
        _call("attend_back", arguments)
        q_dtype, k_dtype, v_dtype = ctx.dtypes
        dq_BHTD = dq_BTHD.transpose(1, 2).to(q_dtype)
        dk_BKTD = dk_BTKD.transpose(1, 2).to(k_dtype)
        dv_BKTD = dv_BTKD.transpose(1, 2).to(v_dtype)
        return dq_BHTD, dk_BKTD, dv_BKTD, None, None


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
    if packed is None:
        texts_E4 = torch.tensor([(row, 0, 0, tokens) for row in range(rows)])
    else:
        texts_E4 = packed.texts_E4.contiguous()
    row_E, prefix_E, start_E, length_E = texts_E4.T
    if ((row_E >= rows) | (prefix_E > start_E) | (start_E + length_E > tokens)).any() or (texts_E4 < 0).any():
        raise ValueError(f"texts of {rows} rows of {tokens} tokens: {texts_E4.tolist()}")
    inputs = (q_BHTD, k_BKTD, v_BKTD, texts_E4, packed is None)
    return _FlashAttention.apply(*inputs)
