"""decode.c, built and loaded: its structures and functions, as its C code declares them."""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from llm.kernels import c_library

SOURCES = tuple(Path(__file__).with_name(name) for name in ("decode.c", "products.h", "attention.h"))


class Matrix(Structure):
    """Tiles of a matrix."""

    _fields_ = (
        ("kind", c_int32),
        ("outputs", c_int32),
        ("inputs", c_int32),
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
    )


class Norm(Structure):
    """A LayerNorm, or an RMSNorm without a bias."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Block(Structure):
    """The layers of a block."""

    _fields_ = (
        ("attention_norm", Norm),
        ("mlp_norm", Norm),
        ("query_key_value", Matrix),
        ("attention_projection", Matrix),
        ("expand", Matrix),
        ("mlp_projection", Matrix),
    )


class Model(Structure):
    """A GPT's shape and weights."""

    _fields_ = (
        ("n_layer", c_int32),
        ("n_embd", c_int32),
        ("n_head", c_int32),
        ("kv_heads", c_int32),
        ("hidden", c_int32),
        ("rms", c_int32),
        ("qk_norm", c_int32),
        ("activation", c_int32),
        ("epsilon", c_float),
        ("positions", c_void_p),
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("embedding", Matrix),
        ("output", Matrix),
        ("norm", Norm),
        ("blocks", POINTER(Block)),
    )


class Cache(Structure):
    """Keys and values, with their strides."""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("layer", c_int64),
        ("row", c_int64),
        ("head", c_int64),
        ("positions", c_int64),
        ("half", c_int32),
    )


@cache
def load_library() -> ctypes.CDLL | None:
    """decode.c, built and loaded; None where it can't be, with the reason in the log, once."""
    library = c_library.load(SOURCES)
    return None if library is None else declare(library)


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the arguments of decode.c's functions; returns the library."""
    model, pointer = POINTER(Model), c_void_p
    library.hidden_states.argtypes = [model, c_int64, pointer, pointer, pointer, POINTER(Cache), pointer, c_int]
    library.logits.argtypes = [model, c_int64, pointer, pointer, c_int]
    library.pack.argtypes = [c_int, c_int, c_int64, c_int64, pointer, c_int64, pointer, pointer, c_int]
    return library
