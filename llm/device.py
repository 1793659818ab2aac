"""Where and in which precision to compute, chosen once and said with its reason."""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Compute:
    """A device, the dtype of its matrix products, and why."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def autocast(self) -> AbstractContextManager:
        """Matrix products in `dtype`, everything that needs the range in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"device {self.device}, {name}, {torch.get_num_threads()} threads: {self.reason}"


def choose_compute() -> Compute:
    """The fastest device here, and bfloat16 where its processor multiplies it natively."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Compute(torch.device("cuda"), torch.bfloat16, f"{name} has native bfloat16")
        return Compute(torch.device("cuda"), torch.float32, f"{name} has no native bfloat16")
    cpu = torch.device("cpu")
    if torch.cpu._is_amx_tile_supported():
        return Compute(cpu, torch.bfloat16, "no GPU; the processor has AMX tiles for bfloat16")
    if torch.cpu._is_avx512_bf16_supported():
        return Compute(cpu, torch.bfloat16, "no GPU; the processor has AVX-512 bfloat16")
    return Compute(cpu, torch.float32, "no GPU; the processor has no native bfloat16")


def matmul_peak(compute: Compute, size: int = 1024) -> float:
    """FLOP/s of the product of two square matrices, the best of five: what the machine could do at most."""
    one, other = torch.rand(2, size, size, device=compute.device, dtype=compute.dtype)

    def seconds() -> float:
        started = time.perf_counter()
        (one @ other)[0, 0].item()  # waits for a GPU
        return time.perf_counter() - started

    return 2 * size**3 / min(seconds() for _ in range(5))
