"""Kinds of processors in tests: marks for what a machine may lack, and machines of another kind.

Marks ask the machine, not our own functions: where those overlook what is there, the tests fail and are not skipped.
With THREESTAGE_PROCESSOR the tests see the kind that it names.
"""

import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.kernels import processor
from llm.kernels.processor import KINDS, VARIABLE, Processor

X86 = platform.machine() in ("x86_64", "AMD64")
COMPILER = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
HEADERS = Path(sysconfig.get_paths()["include"], "Python.h").exists()
LIMIT = os.environ.get(VARIABLE)
NEEDS = {kind.name: kind.needs for kind in KINDS}[LIMIT] if LIMIT else None


def has(instructions: str, *, supported: bool) -> bool:
    """Whether tests may use these instructions: the machine supports them, and the kind under test has them."""
    return supported and (NEEDS is None or instructions in NEEDS)


CPUINFO = Path("/proc/cpuinfo")
AVX_VNNI = has("avx_vnni", supported=CPUINFO.exists() and " avx_vnni " in CPUINFO.read_text())
VNNI = has("avx512_vnni", supported=torch.cpu._is_vnni_supported()) or LIMIT == "amx"

needs_registers = pytest.mark.skipif(
    not has("avx512_bf16", supported=torch.cpu._is_avx512_bf16_supported()),
    reason="the processor has no bfloat16 in its AVX-512 registers",
)
needs_compiler = pytest.mark.skipif(
    not (COMPILER and HEADERS), reason="there is no C++ compiler, or Python's headers are missing"
)
needs_exact_sums = pytest.mark.skipif(
    X86 and not (VNNI or AVX_VNNI), reason="without VNNI sums of 8-bit products overflow"
)


def be(monkeypatch: pytest.MonkeyPatch, name: str) -> Processor:
    """Have all choices be those of this kind of processor. C is still compiled for what this machine can run."""
    target = processor.processor().march
    (kind,) = [replace(kind, march=target) for kind in KINDS if kind.name == name]
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(processor, "detected", lambda: kind)
    return kind


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads."""
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(1)
