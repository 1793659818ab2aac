"""GGUF: the one file in which llama.cpp keeps a model, its numbers, its tokenizer and its quantised weights."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFEndian, GGUFReader, ReaderTensor
from gguf.quants import dequantize
from torch import Tensor

from llm.errors import UserError, UserFileError
from llm.formats.weights import StoredTensor


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
    """A GGUF file's metadata, as plain Python values, and its tensors, each read as float32 when asked for.

    Raises UserError, naming the file, for a missing or a torn one and for another kind. Reading a tensor raises
    UserError, naming it, for a type without a known dequantisation.
    """
    try:
        reader = GGUFReader(path)
        if reader.endianess != GGUFEndian.LITTLE:
            raise ValueError("only little-endian files are read")
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise UserFileError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise UserError(f"{path}: not a whole GGUF file: {error}") from None
    tensors = {tensor.name: _stored(path, tensor) for tensor in reader.tensors}
    return metadata, tensors


def _stored(path: Path, tensor: ReaderTensor) -> StoredTensor:
    shape = tuple(reversed(tensor.shape.tolist()))  # GGUF's first dimension is contiguous, torch's last
    return StoredTensor(shape, partial(_read, path, tensor))


def _read(path: Path, tensor: ReaderTensor) -> Tensor:
    try:
        floats = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        kind = tensor.tensor_type.name
        raise UserError(f"{path}: tensor {tensor.name} is of type {kind}, which can't be read") from None
    return torch.from_numpy(np.array(floats, dtype=np.float32))
