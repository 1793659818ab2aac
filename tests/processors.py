"""Marks for tests of kernels that a processor may lack."""

import pytest
import torch

needs_registers = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="the processor has no bfloat16 in its AVX-512 registers"
)
