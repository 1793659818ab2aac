"""What this machine's processor multiplies fast."""

import torch

LARGEST = 127
LARGEST_WITHOUT_VNNI = 64
"""AVX2 and AVX-512 add two products in 16 bits, the first factors raised to 255 at most: 2 x 255 x 64 fits there."""


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
    return torch.cpu._is_vnni_supported() and not torch.cpu._is_amx_tile_supported() and int8_sums_are_exact(LARGEST)


def largest_int8_weight(device: torch.device) -> int | None:
    """The largest weight that a device multiplies in 8 bits exactly, and faster than what else it has; None for none.

    It is LARGEST with VNNI, of AVX-512 or of AVX, and LARGEST_WITHOUT_VNNI with AVX2 or AVX-512 alone, where two cores
    make 240 billion operations a second, and 105 in float32. A product shows it, not the processor's name.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or torch.cpu._is_amx_tile_supported():
        return None
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    return next((largest for largest in (LARGEST, LARGEST_WITHOUT_VNNI) if int8_sums_are_exact(largest)), None)


def int8_sums_are_exact(largest: int) -> bool:
    """Whether torch's 8-bit matrix product is exact for weights (its second factor) of at most `largest`.

    The first factor has values up to LARGEST. On an x86 processor without VNNI sums of two products may overflow.
    """
    signs_NI = torch.ones(64, 256, dtype=torch.int8)
    signs_NI[1::2, ::3] = -1
    inputs_NI, weights_IO = LARGEST * signs_NI, largest * signs_NI.T.contiguous()
    exact_NO = inputs_NI.long() @ weights_IO.long()
    backwards_OI = weights_IO.T.contiguous()  # the backward pass multiplies the same weights turned
    products = torch._int_mm(inputs_NI, weights_IO), torch._int_mm(inputs_NI, backwards_OI.T)
    return all(torch.equal(product_NO.long(), exact_NO) for product_NO in products)


def reads_fastest_in_int8() -> bool:
    """Whether decode.c multiplies many tokens at once, in 8 bits, faster than torch does."""
    if torch.cpu._is_amx_tile_supported():
        return False
    return torch.cpu._is_vnni_supported() or torch.backends.cpu.get_cpu_capability() == "AVX2"


def decodes_fastest_in_c() -> bool:
    """Whether decode.c generates texts faster than torch: its loops are written for AVX2 and AVX-512 alone."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
