"""Hand a training's backend to its model."""

import logging
from dataclasses import replace

import torch
from torch import nn

from llm.device import Compute
from llm.model.gpt import GPT, Block
from llm.model.lora import LoRALinear, replace_frozen
from llm.training.loop import Objective

logger = logging.getLogger(__name__)


def use_backend(model: nn.Module, objective: Objective, compute: Compute) -> Compute:
    """Have the GPT in a model learn by `compute.backend`, compiled by a first pass forward and backward.

    Where the compiler fails the backend's fallback takes over: returns what the model learns by, with the reason.
    """
    backend = compute.backend
    for gpt in _parts(model, GPT):
        gpt.training_backend = backend
    if not backend.compiles:
        return compute
    model.eval()  # dropout is another each time
    if backend.frozen_linear is not None:
        replace_frozen(model, backend.frozen_linear, lambda: objective.loss(0))
    _replace_linear(model, nn.Linear, backend.linear)
    try:
        model.train()
        objective.loss(0).backward()
    except Exception as error:  # whatever a compiler may raise
        _replace_linear(model, backend.linear, nn.Linear)
        for layer in _parts(model, LoRALinear):
            layer.fast = None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("the blocks can't be compiled: %s", reason)
        fallback = replace(compute, backend=backend.fallback, backend_reason=f"the compiler failed: {reason}")
        compute = use_backend(model, objective, fallback)
    model.zero_grad()
    return compute


def _parts(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def _replace_linear(model: nn.Module, old: type[nn.Linear], new: type[nn.Linear]) -> None:
    """Put layers of another class, with the same weights, in the place of a block's linear layers of one class."""
    for parent in [part for block in _parts(model, Block) for part in block.modules()] if old is not new else ():
        for name, layer in parent.named_children():
            if type(layer) is old:
                with torch.device("meta"):
                    other = new(layer.in_features, layer.out_features, bias=layer.bias is not None)
                other.weight, other.bias = layer.weight, layer.bias
                setattr(parent, name, other)
