"""What a training costs: FLOPs a token, and memory."""

import torch
from torch import Tensor

from llm.model.gpt import GPT
from llm.training.objective import ModelT, Objective


def training_flops(model: GPT) -> int:
    """FLOPs that training spends on a token of a full context: six a weight that multiplies, and the attention.

    Chowdhery et al. 2022, appendix B; a causal token sees half of the context.
    """
    config = model.config
    blocks = sum(weight.numel() for weight in model.blocks.parameters() if weight.ndim == 2)
    attention = config.n_layer * config.n_head * config.head_width * config.context_length
    return 6 * (blocks + model.output_weight.numel() + attention)


def memory_needed(model: ModelT, objective: Objective[ModelT], index: int) -> int:
    """About how many bytes training takes where it computes; short-lived tensors, and copies in 8 bits, come on top.

    Weights, two moments and the best weights so far; then either gradients and what a forward pass keeps, which is
    counted with batch number `index`, or, on a CPU, a checkpoint on its way to disk, of which safetensors makes two
    copies.
    """
    saved: dict[int, int] = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        loss = objective.loss(model, index)  # kept, as what it saved must stay to be counted once
    del loss
    weights = sum(weight.nbytes for weight in model.parameters())
    trained = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    checkpoint = 2 * 4 * trained if next(model.parameters()).device.type == "cpu" else 0
    return weights + 3 * trained + max(trained + sum(saved.values()), checkpoint)
