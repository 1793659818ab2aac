"""Blocks by torch.compile, where a training on a CPU is long enough to earn back what the compiler takes.

Between its matrix products a block passes over whole tensors many times: casts, norms, rotations, gates, sums. The
compiler makes a few loops of them. Their last bits are others than those of eager blocks, but the same ones each time;
so whether blocks are compiled depends on parameters, data and machine alone, never on a clock or on where a training
goes on. Attention, whose shapes change from batch to batch, stays as it is, and so does all that needs no gradient.

Attention, the loss and Muon's step are ours in C (flash.c, loss.c, muon.c) in a shorter training, too, where the
processor multiplies bfloat16 in vector registers. With AMX, of which nothing was measured, they stay torch's.

Where the processor is faster so, some products are in 8 bits: loss.c's logits in a model that begins from nothing; in
compiled blocks those of a wide one, and in a still longer training those that are frozen but for LoRA. What quantizes
goes into the same loops. A product is then off by about a hundredth, not in its last bits alone.
"""

import logging
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from llm.device import EAGER, IN_C, IN_INT8, Compute, has_fast_bfloat16_registers
from llm.kernels.training.flash import PANEL, load_flash
from llm.kernels.training.int8 import has_fast_int8, learn_in_int8
from llm.kernels.training.loss import load_loss
from llm.kernels.training.muon import fits_c, load_muon
from llm.model.gpt import GPT, Block
from llm.model.lora import LoRALinear, multiply_in_int8
from llm.training.loop import Objective

WORTH = 1e9
"""Values of the stream, which are steps times tokens times blocks times width: compiled blocks save 15 to 25 ns each on
two cores with AMX, where the compiler takes 10 to 20 s."""
WORTH_C = 1e8
"""Values from which on what is ours in C is taken: gcc takes two seconds for it, once on a machine, and a step of the
default model with eager blocks 50 ms less of 140, 60 ns a value."""
WORTH_INT8 = 3e9
"""Values from which on what LoRA froze is multiplied in 8 bits, which saves 30 ns each on two cores with AVX-512 VNNI:
of the assistant's 4 billion two minutes, at the same loss on validation. The classifier's 2 billion would save one, and
its GPT's loss was 4 to 6 % higher, with both seeds that were tried."""
WIDE_INT8 = 512
"""Width from which on a model that begins from nothing learns by products in 8 bits: a step of GPT-2 124M took 3.74 s
instead of 4.76, of width 512 1.03 instead of 1.17, of 256 hardly less. With width 512 the loss on validation was the
same after 200 steps; with more nothing was measured."""
FILLED = 0.75
"""Share of the tokens in rows of one width that must not be padding: compiled blocks save about a quarter of a step."""

logger = logging.getLogger(__name__)


@cache
def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile takes and its version, such as `g++ 12.2.0`; None where it can't be used.

    It must find the headers of Python and OpenMP.
    """
    command = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    include = f"-I{sysconfig.get_paths()['include']}"
    try:
        subprocess.run(
            [command, "-fopenmp", "-fsyntax-only", include, "-x", "c++", "-"],
            input="#include <Python.h>\n#include <omp.h>\n",
            text=True,
            capture_output=True,
            check=True,
        )
        asked = subprocess.run([command, "-dumpfullversion", "-dumpversion"], text=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{command} {asked.stdout.strip()}"


def compiled_by(compiler: str) -> str:
    """How compiled blocks are recorded: another compiler may give other last bits."""
    return f"compiled by {compiler}"


def can_learn_in_c(compute: Compute) -> bool:
    """Whether attention, loss and Muon are computed in C here, if a model's shape and dropout allow it."""
    low = compute.dtype == torch.bfloat16 and has_fast_bfloat16_registers(compute.device)
    return low and all(load() is not None for load in (load_flash, load_loss, load_muon))


def _parts_in_c(model: nn.Module, muon: bool) -> list[str]:
    """What of a training can be computed in C. A classifier around a GPT has a small loss of its own."""
    gpt = next(module for module in model.modules() if isinstance(module, GPT))
    attention = gpt.config.head_width % PANEL == 0 and not gpt.config.dropout
    loss = gpt is model and gpt.config.n_embd % PANEL == 0
    matrices = [weight for weight in gpt.blocks.parameters() if weight.requires_grad and weight.ndim == 2]
    return ["attention"] * attention + ["loss"] * loss + ["Muon"] * (muon and any(map(fits_c, matrices)))


def _learn_in_c(model: nn.Module, compute: Compute) -> None:
    for gpt in model.modules():
        if isinstance(gpt, GPT):
            gpt.loss_in_c, gpt.logits_in_int8 = "loss" in compute.in_c, compute.logits_in_int8
            for block in gpt.blocks:
                block.attention.in_c = "attention" in compute.in_c


def described(blocks: str, in_c: list[str], in_int8: list[str]) -> str:
    """How a training computes, as it is recorded."""
    said = ((in_c, IN_C), (in_int8, IN_INT8))
    return blocks + "".join(f", {' and '.join(parts)}{how}" for parts, how in said if parts)


def choose_blocks(
    model: nn.Module,
    compute: Compute,
    tokens: int,
    width: int,
    filled: float = 1.0,
    *,
    from_scratch: bool = False,
    muon: bool = False,
) -> Compute:
    """`compute` with the choice whether a training compiles the model's blocks, and why, and what it computes in C.

    `tokens` are those of the whole training; `width` is that of the model. Compiled blocks want all batches to have one
    shape; `filled` is the share of such batches that is not padding. What learns `from_scratch` may do so in 8 bits;
    `muon` is whether that is its optimiser.
    """
    blocks = sum(isinstance(module, Block) for module in model.modules())
    values = tokens * blocks * width
    parts = _parts_in_c(model, muon) if values >= WORTH_C and can_learn_in_c(compute) else []
    low = compute.dtype == torch.bfloat16 and has_fast_int8(compute.device)
    in_int8 = ["logits"] * (low and from_scratch and "loss" in parts)
    how = EAGER
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
        how = compiled_by(compiler)
        frozen = any(isinstance(module, LoRALinear) for module in model.modules())
        worth = width >= WIDE_INT8 if from_scratch else frozen and values >= WORTH_INT8
        in_int8 += ["products"] * (low and worth)
    return replace(compute, blocks=described(how, parts, in_int8), blocks_reason=reason)


def compile_blocks(model: nn.Module, objective: Objective, compute: Compute) -> Compute:
    """Compile the blocks of a model where that is chosen, by a first pass forward and backward; they stay compiled.

    Where the compiler fails they stay eager, with its reason. What is chosen for C is from now on computed so.
    """
    _learn_in_c(model, compute)
    if not compute.compiled:
        return compute
    model.eval()  # dropout is another each time
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    frozen = multiply_in_int8(model, lambda: objective.loss(0)) if compute.in_int8 else []
    linear = [module for block in blocks for module in block.modules() if type(module) is nn.Linear]
    learned = linear if compute.in_int8 and not frozen else []
    learn_in_int8(learned)
    for block in blocks:
        block.before_attention = _compiled(block.before_attention)
        block.after_attention = _compiled(block.after_attention)
    try:
        model.train()
        objective.loss(0).backward()
    except Exception as error:  # whatever a compiler may raise
        for block in blocks:
            del block.before_attention, block.after_attention
        for layer in frozen:
            layer.int8 = None
        for layer in learned:
            layer.__class__ = nn.Linear
        said = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("the blocks can't be compiled: %s", said)
        how = described(EAGER, compute.in_c, ["logits"] * compute.logits_in_int8)
        compute = replace(compute, blocks=how, blocks_reason=f"the compiler failed: {said}")
    model.zero_grad()
    return compute


def _compiled(part: Callable[..., Any]) -> Callable[..., Any]:
    """A part of a block, whose first input is the stream, compiled for where a gradient is needed."""
    fast = torch.compile(part, dynamic=False)

    def either(x_BTC: Tensor, other: Any) -> Any:
        if not torch.is_grad_enabled():
            return part(x_BTC, other)
        # Into the first block the stream may come from a frozen embedding: as it is, it would be compiled for itself.
        return fast(x_BTC if x_BTC.requires_grad else x_BTC.detach().requires_grad_(), other)

    return either
