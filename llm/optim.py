"""The optimiser and its learning-rate schedule."""

import math

import torch
from torch import nn

from llm.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of update number `step` (from 0): a linear warm-up, then half a cosine."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    final = config.final_learning_rate
    return config.learning_rate * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over what is not frozen; only matrices that mix features decay."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    decays = [weight for name, weight in trained if weight.ndim >= 2 and "embedding" not in name]
    stays = [weight for name, weight in trained if weight.ndim < 2 or "embedding" in name]
    groups = [{"params": decays, "weight_decay": config.weight_decay}, {"params": stays, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)
