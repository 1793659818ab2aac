"""Choose the backend of a training, once, from its size and the machine.

The choice depends on parameters, data and the kind of processor alone, never on a clock or on where a training goes on,
because a backend changes the last bits of what is learned. What each kernel brings: llm/kernels/README.md.
"""

from dataclasses import replace
from functools import partial

import torch

from llm.config import GPTShape
from llm.device import Compute
from llm.kernels.processor import LARGEST, processor
from llm.kernels.training.backend import TORCH, Backend
from llm.kernels.training.bfloat16 import PANEL
from llm.kernels.training.compiled import CompiledBlock, cpp_compiler
from llm.kernels.training.cross_entropy import linear_cross_entropy_in_c, load_cross_entropy
from llm.kernels.training.flash import flash_attention, load_flash
from llm.kernels.training.int8 import FrozenInt8Linear, sums_are_exact
from llm.kernels.training.muon import load_muon, muon_in_c

WORTH = 1e9
"""Values of the stream (steps x tokens x blocks x width) from which compiled blocks pay: they save 15 to 25 ns a value
on two cores with AMX, where the compiler takes 10 to 20 s."""
WORTH_C = 1e8
"""Values from which kernels in C pay: gcc takes two seconds for them, once on a machine."""
WORTH_INT8 = 3e9
"""Values from which frozen weights under LoRA are multiplied in 8 bits, which saves 30 ns a value on two cores with
AVX-512 VNNI: two minutes of the assistant's 4 billion, at the same validation loss. The 2 billion of an earlier
classifier would have saved one minute, and its GPT's loss was 4 to 6 % higher. AVX2 alone has the same bound."""
FILLED = 0.75
"""Share of the tokens in batches of one shape that must not be padding: compiled blocks save a quarter of a step."""


def choose_backend(
    compute: Compute,
    shape: GPTShape,
    tokens: int,
    *,
    filled: float = 1.0,
    from_scratch: bool = False,
    lora: bool = False,
    packed: bool = False,
    predicts_tokens: bool = True,
) -> Compute:
    """`compute` with the backend for a training of so many tokens, and the reason for the choice.

    `filled` is the share of tokens that is not padding where all batches have one shape. `packed` says that several
    texts share a row. A model that does not predict tokens, such as a classifier, has a small loss of its own.
    """
    values = tokens * shape.n_layer * shape.n_embd
    backend = TORCH
    if values >= WORTH_C:
        backend = _in_c(compute, shape, from_scratch=from_scratch, packed=packed, predicts_tokens=predicts_tokens)
    compiler = None
    if values < WORTH:
        reason = f"it is short, {values / 1e9:.2f} of {WORTH / 1e9:.0f} billion values pass through them"
    elif compute.device.type != "cpu":
        reason = "they are compiled on a CPU alone"
    elif filled < FILLED:
        reason = f"lengths vary, and {1 - filled:.0%} of batches of one shape were padding"
    elif (compiler := cpp_compiler()) is None:
        reason = "there is no C++ compiler with the headers of Python and OpenMP, which makes such a training faster"
    else:
        reason = f"{values / 1e9:.1f} billion values pass through them, {WORTH / 1e9:.0f} are worth the compiler's time"
    if compiler is not None:
        name = backend.name.replace(TORCH.name, f"compiled by {compiler}")
        backend = replace(backend, block=CompiledBlock, fallback=backend, name=name)
        if lora and values >= WORTH_INT8:
            backend = _frozen_in_int8(backend, compute)
    return replace(compute, backend=backend, backend_reason=reason)


def _frozen_in_int8(backend: Backend, compute: Compute) -> Backend:
    """The backend with products in 8 bits for frozen weights, where they are faster."""
    largest = processor().frozen_int8
    if largest is None or not sums_are_exact(largest):
        return backend
    frozen_linear = partial(FrozenInt8Linear, largest=largest, dtype=compute.dtype)
    weights = "" if largest == LARGEST else f" with weights up to {largest}"
    return replace(backend, frozen_linear=frozen_linear, name=f"{backend.name}, products in 8 bits{weights}")


def _in_c(compute: Compute, shape: GPTShape, *, from_scratch: bool, packed: bool, predicts_tokens: bool) -> Backend:
    """The kernels in C that suit this model and this kind of processor."""
    kind = processor()
    if compute.device.type != "cpu" or compute.dtype != torch.bfloat16:
        return TORCH
    backend = TORCH
    names = []
    attends = kind.attention == "C" or (kind.attention == "packed" and packed)
    if attends and shape.head_width % PANEL == 0 and not shape.dropout and load_flash() is not None:
        backend = replace(backend, attention=flash_attention)
        names.append("attention")
    is_wide = shape.n_embd % PANEL == 0
    if kind.loss == "C" and is_wide and predicts_tokens and load_cross_entropy() is not None:
        backend = replace(backend, cross_entropy=linear_cross_entropy_in_c)
        names.append("loss")
    sides = (shape.n_embd, shape.n_head * shape.head_width, shape.kv_heads * shape.head_width, shape.hidden_width)
    fits_muon = from_scratch and not any(side % PANEL for side in sides)
    if kind.muon == "C" and fits_muon and load_muon() is not None:
        backend = replace(backend, muon_update=muon_in_c)
        names.append("Muon")
    return replace(backend, name=f"{backend.name}, in C: {', '.join(names)}") if names else TORCH
