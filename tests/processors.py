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
