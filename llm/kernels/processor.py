"""What this machine's processor multiplies fast."""

import torch

LARGEST = 127


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def has_fast_bfloat16_registers(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in its vector registers, and nowhere faster, as AMX does in its tiles."""
    avx512 = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return avx512 and not torch.cpu._is_amx_tile_supported()


def has_fast_int8(device: torch.device) -> bool:
    """Whether a device has products of 8-bit integers that are worth their rounding.

    Two cores of an AMD EPYC with AVX-512 VNNI make 850 billion operations a second of them, 430 in bfloat16. Nothing
    was measured with AMX, whose tiles do both.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # without it torch has only a slow loop
        return False
    return torch.cpu._is_vnni_supported() and not torch.cpu._is_amx_tile_supported() and int8_sums_are_exact()


def int8_sums_are_exact() -> bool:
    """Whether the sums of torch's 8-bit products are right: on an x86 processor without VNNI they overflow."""
    most_NI = torch.full((64, 64), LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(most_NI, most_NI.T) == 64 * LARGEST**2).all())


def reads_fastest_in_int8() -> bool:
    """Whether decode.c multiplies many tokens at once, in 8 bits, faster than torch does."""
    if torch.cpu._is_amx_tile_supported():
        return False
    return torch.cpu._is_vnni_supported() or torch.backends.cpu.get_cpu_capability() == "AVX2"


def decodes_fastest_in_c() -> bool:
    """Whether decode.c generates texts faster than torch: its loops are written for AVX2 and AVX-512 alone."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
