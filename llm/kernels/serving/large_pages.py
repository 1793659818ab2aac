"""Memory for weights that are read as a whole for every token: in large pages, which are found faster."""

import ctypes
import mmap
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_size_t, c_void_p
from functools import cache
from threading import Timer

import torch
from torch import Tensor

ALIGNMENT = 64
COLLAPSE = 25  # madvise's MADV_COLLAPSE, of Linux 6.1, which Python 3.11 has no name for
SETTLED = 0.2  # seconds until memory is moved to large pages: a short prompt's first word comes before
LARGE = 2**21  # bytes of such a page
PART = 2**26  # bytes; those of which nothing is used take no memory


@cache
def collapses() -> bool:
    """Whether the system moves what was written to large pages: Linux does from 6.1 on."""
    version = [int(number) for number in re.findall(r"\d+", platform.release())[:2]]
    return sys.platform == "linux" and version >= [6, 1]


class Memory:
    """Memory for matrices, one behind the other, which `settle` moves to large pages."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._used = self.kept = 0

    def room(self, size: int) -> int:
        """The address of so many free bytes."""
        if not self._parts or self._used + size > len(self._parts[-1]):
            # private: what processes share is in large pages only where the system was told so
            memory = mmap.mmap(-1, max(size, PART), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if not collapses():
                with suppress(AttributeError, OSError):  # not every system has large pages
                    memory.madvise(mmap.MADV_HUGEPAGE)
            self._parts.append(torch.frombuffer(memory, dtype=torch.uint8))
            self._used = 0
        return self._parts[-1].data_ptr() + self._used

    def keep(self, size: int) -> None:
        """Let nobody else have so many bytes of the room that was given last."""
        self._used += -(-size // ALIGNMENT) * ALIGNMENT
        self.kept += size

    def settle(self) -> None:
        """Have it moved to large pages in a moment, where the system can.

        Of the time of a text alone, which is that of reading weights, they save 10 to 30 %. But a virtual machine that
        has lent its own to others needs up to 0.6 s for 100 MB, and for small ones 0.04 s (benchmarks/LOG.md).
        """
        if collapses():
            # C's, as Python's own keeps all other threads waiting
            timer = Timer(SETTLED, self._settle, [ctypes.CDLL(None).madvise])
            timer.daemon = True
            timer.start()

    def _settle(self, madvise: Callable[[c_void_p, c_size_t, int], int]) -> None:
        for part in self._parts:
            begin, end = part.data_ptr(), part.data_ptr() + len(part)
            madvise(c_void_p(begin), c_size_t(len(part)), mmap.MADV_HUGEPAGE)
            # Page by page: a process that ends waits for no more than one.
            for page in range(-(-begin // LARGE) * LARGE, end - LARGE + 1, LARGE):
                if madvise(c_void_p(page), c_size_t(LARGE), COLLAPSE):
                    break  # from here on nothing was written, or the system has no more of them
