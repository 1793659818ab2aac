import os
import platform
import subprocess
import sys

import pytest
import torch
from processors import be

from llm.device import choose_compute


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine; what is asked of torch is undone afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    precision = torch.get_float32_matmul_precision()

    def pretend(cuda=False, cuda_bfloat16=False, kind="other"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: cuda_bfloat16)
        be(monkeypatch, kind)
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "unset")
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
        torch.set_float32_matmul_precision("high")
        torch.use_deterministic_algorithms(False)

    yield pretend
    torch.use_deterministic_algorithms(deterministic)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(
    ("features", "device", "dtype", "reason"),
    [
        ({"cuda": True, "cuda_bfloat16": True, "kind": "amx"}, "cuda", torch.bfloat16, "A GPU has native bfloat16"),
        ({"cuda": True}, "cuda", torch.float32, "A GPU has no native bfloat16"),
        ({"kind": "amx"}, "cpu", torch.bfloat16, "no GPU; the processor is of the kind amx"),
        ({"kind": "avx512-bf16"}, "cpu", torch.bfloat16, "no GPU; the processor is of the kind avx512-bf16"),
        ({"kind": "avx2"}, "cpu", torch.float32, "no GPU; the processor is of the kind avx2"),
    ],
)
def test_compute_is_on_the_fastest_device_with_its_dtype_and_repeats_its_bits(machine, features, device, dtype, reason):
    machine(**features)
    compute = choose_compute()
    assert (compute.device.type, compute.dtype) == (device, dtype)
    assert compute.reason.startswith(reason)
    is_cuda = device == "cuda"
    assert torch.are_deterministic_algorithms_enabled() == is_cuda
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if is_cuda else None)
    assert torch.get_float32_matmul_precision() == ("highest" if is_cuda else "high")


def test_cublas_keeps_what_the_user_set(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    choose_compute()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


GROWTH = """
import psutil, torch
from llm.device import keep_freed_memory

def growth():
    before = psutil.Process().memory_info().rss
    torch.ones(50_000_000)  # 200 million bytes
    return psutil.Process().memory_info().rss - before

print(growth())
keep_freed_memory()
print(growth())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other systems' memory is left as it is")
def test_memory_that_a_training_frees_stays_with_its_process():
    output = subprocess.check_output([sys.executable, "-c", GROWTH], text=True)
    before, after = output.split()
    assert int(before) < 150_000_000 < int(after)
