"""The kind of processor that this machine has, as one value, and what is fastest on it.

Set the environment variable THREESTAGE_PROCESSOR to a lower kind to test its choices, or to make the same bytes as such
a machine. `llm/__init__.py` limits torch accordingly before torch computes.
"""

import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from llm.errors import UserError

VARIABLE = "THREESTAGE_PROCESSOR"

LARGEST = 127
LARGEST_WITHOUT_VNNI = 64
"""AVX2 and AVX-512 add two products in 16 bits, the first factors raised to 255 at most: 2 x 255 x 64 fits there."""


@dataclass(frozen=True)
class Processor:
    """A kind of processor and the fastest way to train and to generate on it. llm/kernels/README.md shows the table."""

    name: str
    needs: frozenset[str]
    """Its instructions, as /proc/cpuinfo spells them."""
    march: str
    """The target of a C compiler."""
    dtype: torch.dtype = torch.float32
    """Of matrix products, where nothing below says otherwise."""
    attention: str = "torch"
    """What computes attention and its gradients: torch, C, or C where several texts share a row ("packed")."""
    loss: str = "torch"
    """What computes the output layer and its loss: torch or C."""
    muon: str = "torch"
    """What computes Muon's update: torch or C."""
    frozen_int8: int | None = None
    """The largest weight of frozen layers that LoRA multiplies in 8 bits; None where `dtype` is faster."""
    reading: str = "torch"
    """What reads whole texts: torch, or decode.c in 8 bits ("C")."""
    generation: str = "torch"
    """What generates texts: torch, decode.c ("C"), or decode.c with prompts read by torch ("C, prompts by torch")."""
    reason: str = ""
    """What was measured, on two cores."""


KINDS = (
    Processor(
        name="amx",
        needs=frozenset({"amx_tile", "avx512_bf16"}),
        march="native",
        dtype=torch.bfloat16,
        attention="packed",
        generation="C, prompts by torch",
        reason="2,443 GFLOP/s in bfloat16. A LoRA step of SmolLM2-135M takes 2.72 s by torch, 1.83 with C's attention, "
        "2.00 with the loss in C too, 2.41 in 8 bits. A step of the default foundation takes 0.099 s by torch, 0.108 "
        "with attention and Muon in C. 5,058 mails are read in 66 s by torch, in 134 by decode.c.",
    ),
    Processor(
        name="avx512-bf16",
        needs=frozenset({"avx512_bf16", "avx512_vnni"}),
        march="native",
        dtype=torch.bfloat16,
        attention="C",
        loss="C",
        muon="C",
        frozen_int8=LARGEST,
        reading="C",
        generation="C",
        reason="430 GFLOP/s in bfloat16, 850 in 8 bits. A step of the default foundation takes 1.40 times as long with "
        "torch's attention, 1.15 with its loss, 1.17 with its Muon. A LoRA step takes 2.43 s in 8 bits, 3.37 in "
        "bfloat16.",
    ),
    Processor(
        name="avx512-vnni",
        needs=frozenset({"avx512f", "avx512_vnni"}),
        march="x86-64-v4 -mavx512vnni",
        frozen_int8=LARGEST,
        reading="C",
        generation="C",
        reason="Not measured. The kernels in C for training need bfloat16; 8 bits are as on avx512-bf16.",
    ),
    Processor(
        name="avx512",
        needs=frozenset({"avx512f"}),
        march="x86-64-v4",
        frozen_int8=LARGEST_WITHOUT_VNNI,
        generation="C",
        reason="Not measured. As avx2, but decode.c has registers of AVX2 alone there, so torch reads.",
    ),
    Processor(
        name="avx2-vnni",
        needs=frozenset({"avx2", "avx_vnni"}),
        march="x86-64-v3 -mavxvnni",
        frozen_int8=LARGEST,
        reading="C",
        generation="C",
        reason="On avx512-bf16, compiled for less: decode.c reads a prompt at 893 tokens/s with VNNI, at 570 without.",
    ),
    Processor(
        name="avx2",
        needs=frozenset({"avx2"}),
        march="x86-64-v3",
        frozen_int8=LARGEST_WITHOUT_VNNI,
        reading="C",
        generation="C",
        reason="On avx512-bf16, limited: 240 billion operations a second in 8 bits, 105 in float32.",
    ),
    Processor(name="other", needs=frozenset(), march="native", reason="Not measured. torch computes everything."),
)
"""Kinds of processors, the fastest first."""


def processor() -> Processor:
    """The kind of this machine's processor, or the lower one that THREESTAGE_PROCESSOR names.

    Raises UserError for a kind that this processor can't be.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return detected()
    kinds = {kind.name: kind for kind in possible()}
    if name not in kinds:
        raise UserError(f"{VARIABLE}={name}: this processor, {detected().name}, can be {', '.join(kinds)}")
    return kinds[name]


def possible() -> list[Processor]:
    """The kinds that this processor can be.

    Where registers alone multiply bfloat16, `amx` is one of them: torch then computes the same way, only slower.
    """
    return [kind for kind in KINDS if kind.needs <= features() | {"amx_tile"}]


@cache
def detected() -> Processor:
    """The fastest kind whose instructions this processor has."""
    return next(kind for kind in KINDS if kind.needs <= features())


@cache
def features() -> frozenset[str]:
    """The instructions of this processor that KINDS asks for; none where torch is built without oneDNN."""
    if not torch.backends.mkldnn.is_available():
        return frozenset()
    has = {
        "amx_tile": torch.cpu._is_amx_tile_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "avx512_vnni": torch.cpu._is_vnni_supported(),
        "avx512f": torch.cpu._is_avx512_supported(),
        "avx2": torch.cpu._is_avx2_supported(),
        "avx_vnni": platform.system() == "Linux" and " avx_vnni " in Path("/proc/cpuinfo").read_text(),
    }
    return frozenset(name for name, is_there in has.items() if is_there)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and processor().dtype == torch.bfloat16


if __name__ == "__main__":  # for `make test-processors`: the kinds that the tests have not seen yet
    sys.stdout.write(" ".join(kind.name for kind in possible() if kind != detected()))
