"""Memory for weights that are read as a whole for every token: in large pages, which are found faster."""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

ALIGNMENT = 64
PART = 2**26  # bytes; those of which nothing is used take no memory


class Memory:
    """Memory for matrices, one behind the other, in large pages where the system has them.

    They save 10 to 30 % of the time of a text alone, which is that of reading weights (benchmarks/LOG.md).
    """

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._used = self.kept = 0

    def room(self, size: int) -> int:
        """The address of so many free bytes."""
        if not self._parts or self._used + size > len(self._parts[-1]):
            # private: what processes share is in large pages only where the system was told so
            memory = mmap.mmap(-1, max(size, PART), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with suppress(AttributeError, OSError):  # not every system has large pages
                memory.madvise(mmap.MADV_HUGEPAGE)
            self._parts.append(torch.frombuffer(memory, dtype=torch.uint8))
            self._used = 0
        return self._parts[-1].data_ptr() + self._used

    def keep(self, size: int) -> None:
        """Let nobody else have so many bytes of the room that was given last."""
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        self.kept += size
