"""GGUF: the one file in which llama.cpp keeps a model, its numbers, its tokenizer and its quantised weights.

Layout (ggml's docs/gguf.md): magic, version, counts; then named values; then name, shape, type and offset of each
tensor; then the tensors, each from a multiple of the alignment on. Whoever wrote a file may have been interrupted, or
may mean harm, so every length is held against the file's end before anything is made of it.
"""

import mmap
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import dequantize
from torch import Tensor

from llm.errors import UserError, UserFileError
from llm.formats.weights import StoredTensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DIMENSIONS = 4  # of a tensor, at most, as in ggml
CHUNK = 2**18  # bytes that are dequantised at once: the intermediate arrays of larger ones leave the cache

NUMBERS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """A GGUF file's metadata, as plain Python values, and its tensors, each read as float32 when asked for.

    Raises UserError, naming the file, for none, another kind or a torn one, and naming the tensor too for a type
    that has no known dequantisation.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        cursor = _Cursor(mapped)
        if cursor.take(4) != MAGIC:
            raise ValueError(f"it does not begin with {MAGIC.decode()}")
        if (version := cursor.number("<u4")) not in VERSIONS:
            raise ValueError(f"its version is {version}; little-endian ones of {VERSIONS} are read")
        tensor_count, value_count = cursor.number("<u8"), cursor.number("<u8")
        metadata = {cursor.string(): cursor.value(cursor.number("<u4")) for _ in range(value_count)}
        entries = [_Entry.at(cursor) for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"its general.alignment is {alignment!r}, not a positive whole number")
        start = -(-cursor.at // alignment) * alignment
        tensors = {entry.name: entry.stored(mapped, start) for entry in entries}
        if len(tensors) < tensor_count:
            raise ValueError("two of its tensors have one name")
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(f"{path}: not a whole GGUF file: {error}") from None
    except OSError as error:
        raise UserFileError(f"{path} can't be read: {error.strerror}") from None
    return metadata, tensors


class _Cursor:
    """Reads the header from front to back."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.mapped, self.at = mapped, 0

    def take(self, size: int) -> bytes:
        taken = self.mapped[self.at : self.at + size]
        if len(taken) < size:
            raise ValueError(f"it ends at byte {len(self.mapped)}, inside its header")
        self.at += size
        return taken

    def number(self, dtype: str) -> Any:
        return self.numbers(dtype, 1)[0]

    def numbers(self, dtype: str, count: int) -> list[Any]:
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype).tolist()

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        mapped, end, found = self.mapped, len(self.mapped), list[str]()
        for _ in range(count):  # a vocabulary has 100,000: with `take` or numpy each would cost several times as much
            first = self.at + 8
            self.at = first + int.from_bytes(mapped[self.at : first], "little")
            if self.at > end:
                raise ValueError(f"it ends at byte {end}, inside its header")
            found.append(mapped[first : self.at].decode())
        return found

    def value(self, kind: int) -> Any:
        if kind == GGUFValueType.ARRAY:
            kind, count = self.number("<u4"), self.number("<u8")
            return self.strings(count) if kind == GGUFValueType.STRING else self.numbers(_dtype(kind), count)
        return self.string() if kind == GGUFValueType.STRING else self.number(_dtype(kind))


@dataclass(frozen=True)
class _Entry:
    """What the header says of a tensor."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @classmethod
    def at(cls, cursor: _Cursor) -> "_Entry":
        name, dimensions = cursor.string(), cursor.number("<u4")
        if dimensions > DIMENSIONS:
            raise ValueError(f"tensor {name} has {dimensions} dimensions; {DIMENSIONS} are the most")
        shape = tuple(reversed(cursor.numbers("<u8", dimensions)))
        return cls(name, shape, cursor.number("<u4"), cursor.number("<u8"))

    def stored(self, mapped: mmap.mmap, start: int) -> StoredTensor:
        """The tensor in the file whose tensors begin at byte `start`."""
        try:
            kind = GGMLQuantizationType(self.kind)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except (ValueError, KeyError, NotImplementedError):
            raise ValueError(f"tensor {self.name} is of type {_kind_name(self.kind)}, which can't be read") from None
        *rows, width = self.shape or (1,)
        if width % block:
            raise ValueError(f"tensor {self.name} has rows of {width}, no multiple of {kind.name}'s blocks of {block}")
        row_bytes = width // block * block_bytes
        begin, end = start + self.offset, start + self.offset + prod(rows) * row_bytes
        if end > len(mapped):
            raise ValueError(f"tensor {self.name} ends at byte {end}, the file at {len(mapped)}")
        return StoredTensor(self.shape, partial(_read, mapped, begin, end, self.shape, row_bytes, kind))


def _read(
    mapped: mmap.mmap, begin: int, end: int, shape: tuple[int, ...], row_bytes: int, kind: GGMLQuantizationType
) -> Tensor:
    tensor = torch.empty(shape)
    if begin == end:
        return tensor
    packed = np.frombuffer(mapped, np.uint8, end - begin, begin).reshape(-1, row_bytes)
    floats, step = tensor.numpy().reshape(len(packed), -1), max(1, CHUNK // row_bytes)
    for first in range(0, len(packed), step):
        floats[first : first + step] = dequantize(packed[first : first + step], kind)
    if hasattr(mmap, "MADV_DONTNEED"):  # pages once read would count as this process's memory
        page = begin - begin % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, page, end - page)
    return tensor


def _dtype(kind: int) -> str:
    if kind not in NUMBERS:
        raise ValueError(f"one of its values is of the unknown type {kind}")
    return NUMBERS[kind]


def _kind_name(kind: int) -> str:
    return GGMLQuantizationType(kind).name if kind in list(GGMLQuantizationType) else str(kind)
