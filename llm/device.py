"""Where and in which precision to compute, chosen once and logged with its reason."""

import ctypes
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from llm.kernels.processor import processor
from llm.kernels.training.backend import TORCH, Backend

# Rows of the matrices whose product shows what a device could do at most: on a GPU smaller ones are over before it has
# all its cores at work.
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Compute:
    """A device, the dtype of its matrix products, and why."""

    device: torch.device
    dtype: torch.dtype
    reason: str
    backend: Backend = TORCH
    """What a training computes with."""
    backend_reason: str = ""

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in `dtype`, everything that needs the range in float32."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        text = f"device {self.device}, {name}, {torch.get_num_threads()} threads: {self.reason}"
        return f"{text}; blocks {self.backend.name}: {self.backend_reason}" if self.backend_reason else text


def choose_compute() -> Compute:
    """The fastest device here, and bfloat16 where its processor multiplies it natively.

    With CUDA it has this process compute the same bits each time, as a CPU does by itself.
    """
    if torch.cuda.is_available():
        repeatable = _make_cuda_repeatable()
        cuda = torch.device("cuda")
        name = torch.cuda.get_device_name()
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Compute(cuda, torch.bfloat16, f"{name} has native bfloat16; {repeatable}")
        lacking = "no native bfloat16, and float16 would need its loss scaled"
        return Compute(cuda, torch.float32, f"{name} has {lacking}; {repeatable}")
    cpu = torch.device("cpu")
    kind = processor()
    return Compute(cpu, kind.dtype, f"no GPU; the processor is of the kind {kind.name}")


def _make_cuda_repeatable() -> str:
    """Ask for deterministic kernels, and for float32 without TF32; the text for the log."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads with its first product
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("highest")
    return "deterministic, and float32 without TF32, which would keep 10 of its 23 bits"


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, where glibc can: what repeats soon asks for as much again.

    By itself it gives large tensors back to the kernel, and that gives new pages at their first touch and fills them
    with zeros: an eighth of a step of the default model, a fifth of the assistant's loss (2 cores of an AMD EPYC).
    """
    trim_threshold, mmap_max = -1, -4  # what malloc.h calls M_TRIM_THRESHOLD and M_MMAP_MAX
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # macOS and musl have none
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)


def matmul_peak(compute: Compute) -> float:
    """FLOP/s of the product of two square matrices, the best of five: what the machine could do at most."""
    size = PEAK_SIZE.get(compute.device.type, PEAK_SIZE["cpu"])
    left, right = torch.rand(2, size, size, device=compute.device, dtype=compute.dtype)

    def seconds() -> float:
        started = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for a GPU
        return time.perf_counter() - started

    return 2 * size**3 / min(seconds() for _ in range(5))
