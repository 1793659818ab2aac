import ctypes
import mmap
import re
import threading
from pathlib import Path

import pytest
import torch

from llm.kernels.serving import large_pages
from llm.kernels.serving.large_pages import LARGE, Memory


def large_pages_are_there() -> bool:
    """Whether the system makes a large page right now."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or not re.search(r"\[(always|madvise)\]", enabled.read_text()):
        return False
    two = mmap.mmap(-1, 2 * LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = torch.frombuffer(two, dtype=torch.uint8).fill_(1).data_ptr()
    page = ctypes.c_void_p(-(-address // LARGE) * LARGE)
    return ctypes.CDLL(None).madvise(page, ctypes.c_size_t(LARGE), large_pages.COLLAPSE) == 0


@pytest.mark.parametrize("later", [True, False])
def test_weights_lie_in_memory_of_this_process_alone_and_in_large_pages(monkeypatch, later):
    if not later:  # as on a system that makes none of what was written before
        monkeypatch.setattr(large_pages, "collapses", lambda: False)
    held, size = Memory(), 3 * LARGE
    address = held.room(size)
    held.keep(size)
    weights = (ctypes.c_uint8 * size).from_address(address)
    written = bytes(range(256)) * (size // 256)
    weights[:] = written
    held.settle()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert bytes(weights) == written
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        first, _, last = entry.split()[0].partition("-")
        if int(first, 16) <= address < int(last, 16):
            break
    else:
        pytest.fail("the weights are nowhere")
    assert entry.split()[1] == "rw-p"
    if large_pages_are_there():
        assert 1024 * int(re.search(r"AnonHugePages: +(\d+) kB", entry)[1]) >= LARGE


def test_matrices_lie_one_behind_the_other_and_one_that_is_too_large_for_a_part_has_its_own():
    held = Memory()
    first = held.room(100)
    held.keep(100)
    second = held.room(large_pages.PART // 2)
    assert second - first == 128  # the next multiple of 64
    held.keep(large_pages.PART // 2)
    assert held.room(2 * large_pages.PART) not in range(first, first + large_pages.PART)
    assert held.kept == 100 + large_pages.PART // 2
