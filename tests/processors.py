"""What this processor lacks, for tests of what is taken nowhere without it."""

import pytest
import torch

from llm.kernels.serving.packed import can_prepack

needs_registers = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="the processor has no bfloat16 in its AVX-512 registers"
)
needs_packed_bfloat16 = pytest.mark.skipif(not can_prepack(), reason="oneDNN has no bfloat16 for this processor")
