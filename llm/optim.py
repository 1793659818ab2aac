"""The optimisers and their learning-rate schedule.

AdamW (Loshchilov and Hutter 2019) scales each weight's step by the size of its own gradients. Muon (Jordan et al. 2024)
treats a matrix as a whole: it replaces the averaged gradient by the nearest matrix whose singular values are all one,
so that rare directions move as far as frequent ones. It takes the matrices inside the blocks, AdamW all the rest.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.workers import local, spread, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al.: steepest at zero, and between 0.7 and 1.2 after five steps


def schedule(step: int, config: TrainConfig) -> float:
    """The share of the peak rate at update number `step` (from 0): a linear warm-up, then half a cosine."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    final = config.final_learning_rate
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def orthogonal(matrix_RC: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of a matrix near one, by the Newton-Schulz iteration in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix_RC.T if matrix_RC.shape[0] > matrix_RC.shape[1] else matrix_RC
    x = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.T if wide is not matrix_RC else x).to(matrix_RC.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov's), made orthogonal, with decoupled weight decay; for matrices alone.

    A step is scaled by sqrt(rows / columns) where there are more rows, so that it changes outputs alike for all shapes.
    """

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for weight_RC in group["params"]:
                if weight_RC.grad is None:
                    continue
                state = self.state[weight_RC]
                if not state:
                    state["momentum"] = torch.zeros_like(weight_RC)
                average_RC = state["momentum"].lerp_(weight_RC.grad, 1 - group["momentum"])
                update_RC = orthogonal(whole(weight_RC.grad.lerp(average_RC, group["momentum"])))
                scale = max(1.0, weight_RC.shape[0] / weight_RC.shape[1]) ** 0.5
                weight_RC.mul_(1 - group["lr"] * group["weight_decay"]).sub_(
                    spread(update_RC, weight_RC), alpha=group["lr"] * scale
                )


class Optimizers:
    """Several optimisers as one, each over weights of its own; a group's `peak` is its highest rate."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        for group in self._groups():
            group["peak"] = group["lr"]

    def _groups(self) -> Iterator[dict[str, Any]]:
        return (group for part in self.parts for group in part.param_groups)

    def step(self, share: float) -> None:
        """Update all weights with this share of the peak rates, and drop the gradients."""
        for group in self._groups():
            group["lr"] = share * group["peak"]
        for part in self.parts:
            part.step()
            part.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, to be saved: this worker's part of it."""
        return {
            f"{number}.{index}.{key}": local(tensor)
            for number, part in enumerate(self.parts)
            for index, state in part.state_dict()["state"].items()
            for key, tensor in state.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave, the parts of all workers together."""
        states = [part.state_dict() | {"state": {}} for part in self.parts]
        weights = [[weight for group in part.param_groups for weight in group["params"]] for part in self.parts]
        for name, tensor in tensors.items():
            number, index, key = name.split(".", 2)
            state = states[int(number)]["state"].setdefault(int(index), {})
            state[key] = spread(tensor, weights[int(number)][int(index)])
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def build_optimizer(model: nn.Module, config: TrainConfig) -> Optimizers:
    """The configured optimisers over what is not frozen; only matrices that mix features decay."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    mixes = [weight for name, weight in trained if weight.ndim >= 2 and "embedding" not in name]
    stays = [weight for name, weight in trained if weight.ndim < 2 or "embedding" in name]
    parts: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        matrices = [weight for name, weight in trained if weight.ndim == 2 and ".blocks." in f".{name}"]
        mixes = [weight for weight in mixes if not any(weight is matrix for matrix in matrices)]
        if matrices:  # none where all blocks are frozen
            parts.append(Muon(matrices, config.muon_learning_rate, config.weight_decay))
    groups = [{"params": mixes, "weight_decay": config.weight_decay}, {"params": stays, "weight_decay": 0.0}]
    if groups := [group for group in groups if group["params"]]:
        parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True))
    return Optimizers(parts)
