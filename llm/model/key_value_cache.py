"""Keys and values of the tokens read so far, so that a new token costs one position and not all of them.

Tensor names end in their shape: L layers, B texts, K heads of keys and values, S positions, D width of a head, T new
positions.
"""

import math
import mmap
from typing import Self

import torch
from torch import Tensor

from llm.config import GPTShape


class KeyValueCache:
    """Room for `batch_size` texts of the full context, allocated once; on a CPU only what is written takes memory.

    Each row fills up at its own pace: a row's tokens may stand at other positions than its neighbours'.
    """

    def __init__(self, shape: GPTShape, batch_size: int, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.n_layer, batch_size, shape.kv_heads, shape.context_length, shape.head_width)
        self.keys_LBKSD = _zeros(size, device, dtype)
        self.values_LBKSD = _zeros(size, device, dtype)

    def rows(self, first: int, last: int) -> Self:
        """Rows `first` … `last` - 1 as a cache that shares their memory."""
        cache = object.__new__(type(self))
        cache.keys_LBKSD = self.keys_LBKSD[:, first:last]
        cache.values_LBKSD = self.values_LBKSD[:, first:last]
        return cache

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        for tensor_LBKSD in (self.keys_LBKSD, self.values_LBKSD):
            tensor_LBKSD[:, target, :, :length] = tensor_LBKSD[:, source, :, :length]

    def write(
        self, layer: int, positions_BT: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, end: int
    ) -> tuple[Tensor, Tensor]:
        """Store one layer's keys and values at their positions; return all of them before position `end`, BKSD.

        A single row of positions applies to all texts. Those that are stored in float16 come as float32, in which torch
        attends faster on a CPU.
        """
        rows_B1 = torch.arange(len(k_BKTD), device=positions_BT.device)[:, None]
        keys_BKSD = self.keys_LBKSD[layer]
        values_BKSD = self.values_LBKSD[layer]
        keys_BKSD[rows_B1, :, positions_BT] = k_BKTD.transpose(1, 2).to(keys_BKSD.dtype)
        values_BKSD[rows_B1, :, positions_BT] = v_BKTD.transpose(1, 2).to(values_BKSD.dtype)
        dtype = torch.float32 if keys_BKSD.dtype == torch.float16 else keys_BKSD.dtype
        keys_BKSD = keys_BKSD[:, :, :end]
        values_BKSD = values_BKSD[:, :, :end]
        return keys_BKSD.to(dtype), values_BKSD.to(dtype)


def _zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    # The system's own memory is zero, and a page of it exists only once it is written; torch would write its zeros.
    byte_count = math.prod(size) * dtype.itemsize
    memory = mmap.mmap(-1, byte_count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(size)
