"""Build the model that learns: the same weights, computed by the backend of a training.

What is evaluated, saved and merged is the model that was given, which torch computes.
"""

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from llm.device import Compute
from llm.kernels.training.backend import Backend
from llm.model.gpt import GPT
from llm.model.lora import LoRALinear
from llm.training.objective import ModelT, Objective

logger = logging.getLogger(__name__)


def build_training_model(model: ModelT, objective: Objective[ModelT], compute: Compute) -> tuple[ModelT, Compute]:
    """A model that shares the weights of `model` and computes by `compute.backend`, and the compute that it has.

    Blocks are compiled by a first pass forward and backward. Where the compiler fails the backend's fallback takes
    over, with the reason in the log and in the compute. Raises what the loss raises.
    """
    backend = compute.backend
    training_model = with_backend(model, backend, lambda: objective.loss(model, 0))
    if backend.fallback is None:
        return training_model, compute
    try:
        training_model.train()
        objective.loss(training_model, 0).backward()
    except torch._dynamo.exc.TorchDynamoException as error:  # pyrefly: ignore[implicit-import] - takes 2 s
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.warning("the blocks can't be compiled: %s", reason)
        fallback = replace(compute, backend=backend.fallback, backend_reason=f"the compiler failed: {reason}")
        training_model, compute = build_training_model(model, objective, fallback)
    model.zero_grad()
    return training_model, compute


def with_backend(model: ModelT, backend: Backend, forward: Callable[[], object]) -> ModelT:
    """A copy of a model with a GPT that computes by `backend`. It has the same weights, not copies of them.

    `forward` passes a batch through `model`. It shows how large the inputs of frozen layers are, which some backends
    need to know.
    """
    tensors = [*model.parameters(), *model.buffers()]
    copy = deepcopy(model, {id(tensor): tensor for tensor in tensors})
    if backend.frozen_linear is not None:
        largest_inputs = _largest_inputs(model, forward)
        layers = zip(model.modules(), list(copy.modules()), strict=True)
        for layer, copied in layers:
            if isinstance(copied, LoRALinear):
                copied.set_submodule("frozen", backend.frozen_linear(copied.frozen, largest_inputs[layer]))
    for gpt in [module for module in copy.modules() if isinstance(module, GPT)]:
        gpt.backend = backend
        if backend.block is not None:
            gpt.blocks = nn.ModuleList(backend.block(block) for block in gpt.blocks)
    return copy


@torch.no_grad()
def _largest_inputs(model: nn.Module, forward: Callable[[], object]) -> dict[nn.Module, Tensor]:
    """The largest magnitude of each input, I, of the layers beside which LoRA learns."""
    largest: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        largest_I = inputs[0].float().flatten(0, -2).abs().amax(0)
        largest[layer] = torch.maximum(largest_I, largest.get(layer, largest_I))

    layers = [layer for layer in model.modules() if isinstance(layer, LoRALinear)]
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        model.eval()  # without dropout
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return largest
