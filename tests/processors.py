"""Marks for tests of kernels that a machine may lack.

They ask the machine, not our own functions: where those overlook what is there, the tests fail and are not skipped.
"""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

X86 = platform.machine() in ("x86_64", "AMD64")
COMPILER = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
CPUINFO = Path("/proc/cpuinfo")
AVX_VNNI = CPUINFO.exists() and " avx_vnni " in CPUINFO.read_text()
HEADERS = Path(sysconfig.get_paths()["include"], "Python.h").exists()

needs_registers = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="the processor has no bfloat16 in its AVX-512 registers"
)
needs_compiler = pytest.mark.skipif(
    not (COMPILER and HEADERS), reason="there is no C++ compiler, or Python's headers are missing"
)
needs_exact_sums = pytest.mark.skipif(
    X86 and not torch.cpu._is_vnni_supported(), reason="without VNNI sums of 8-bit products overflow"
)


def imitate(
    monkeypatch: pytest.MonkeyPatch,
    *,
    vnni: bool = False,
    amx: bool = False,
    bfloat16: bool = False,
    capability: str = "DEFAULT",
) -> None:
    """Have torch report these features of the processor; `capability` is the kind of vector registers that it uses."""
    features = {"vnni": vnni, "amx_tile": amx, "avx512_bf16": bfloat16}
    for name, is_supported in features.items():
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda is_supported=is_supported: is_supported)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
