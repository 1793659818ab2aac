"""The optimisers and their learning-rate schedule.

AdamW (Loshchilov and Hutter 2019) scales each weight's step by the size of its own gradients. Muon (Jordan et al. 2024)
treats a matrix as a whole: it replaces the averaged gradient by the nearest matrix whose singular values are all one,
so that rare directions move as far as frequent ones. It takes the matrices inside the blocks, AdamW all the rest.

Tensor names end in their shape: N matrices, R rows, C columns.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm.config import TrainConfig
from llm.kernels.processor import has_fast_bfloat16
from llm.kernels.training.backend import MuonUpdate
from llm.kernels.training.muon import NEWTON_SCHULZ
from llm.training.workers import full_tensor, redistribute, to_local


def schedule(step: int, config: TrainConfig) -> float:
    """The share of the peak rate at update number `step` (from 0): up in a line, then down to zero.

    Bergsma et al. 2025 compare ways down: a line to zero learns most.
    """
    warmup = max(1, round(config.warmup * config.steps))
    return (step + 1) / warmup if step < warmup else (config.steps - step) / max(1, config.steps - warmup)


def orthogonal(matrices_NRC: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of each matrix near one by the Newton-Schulz iteration, in bfloat16 if that is fast."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    wide = matrices_NRC.mT if tall else matrices_NRC
    low = torch.bfloat16 if has_fast_bfloat16(wide.device) else torch.float32
    x = (wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(low)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


def update_matrices(
    weights: Sequence[Tensor], momenta: Sequence[Tensor], momentum: float, keep: float, rate: float
) -> None:
    """Muon's update of matrices in place, those of one shape at a time: many small products are slow.

    A weight becomes `keep weight - rate update`. An update is scaled by sqrt(rows / columns) where there are more rows,
    so that it changes outputs alike for all shapes.
    """
    alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for weight_RC, average_RC in zip(weights, momenta, strict=True):
        average_RC.lerp_(weight_RC.grad, 1 - momentum)
        nesterov_RC = full_tensor(weight_RC.grad.lerp(average_RC, momentum))
        alike[weight_RC.shape].append((weight_RC, nesterov_RC))
    for (rows, columns), pairs in alike.items():
        updates_NRC = orthogonal(torch.stack([nesterov_RC for _, nesterov_RC in pairs]))
        scale = max(1.0, rows / columns) ** 0.5
        for (weight_RC, _), update_RC in zip(pairs, updates_NRC, strict=True):
            weight_RC.mul_(keep).sub_(redistribute(update_RC, weight_RC), alpha=rate * scale)


class Muon(torch.optim.Optimizer):
    """Updates matrices by their orthogonalised Nesterov momentum, with decoupled weight decay."""

    def __init__(
        self,
        matrices: list[Tensor],
        lr: float,
        weight_decay: float,
        momentum: float = 0.9,
        update: MuonUpdate = update_matrices,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.update = update

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            weights = [weight_RC for weight_RC in group["params"] if weight_RC.grad is not None]
            momenta = [self._momentum(weight_RC) for weight_RC in weights]
            keep = 1 - group["lr"] * group["weight_decay"]
            self.update(weights, momenta, group["momentum"], keep, group["lr"])

    def _momentum(self, weight_RC: Tensor) -> Tensor:
        state = self.state[weight_RC]
        if not state:
            state["momentum"] = torch.zeros_like(weight_RC)
        return state["momentum"]


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
            f"{number}.{index}.{key}": to_local(tensor)
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
            state[key] = redistribute(tensor, weights[int(number)][int(index)])
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def build_optimizer(model: nn.Module, config: TrainConfig, muon_update: MuonUpdate | None = None) -> Optimizers:
    """The configured optimisers over what is not frozen; only matrices that mix features decay."""
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    mixes = [weight for name, weight in trained if weight.ndim >= 2 and "embedding" not in name]
    stays = [weight for name, weight in trained if weight.ndim < 2 or "embedding" in name]
    parts: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        matrices = [weight for name, weight in trained if weight.ndim == 2 and ".blocks." in f".{name}"]
        mixes = [weight for weight in mixes if not any(weight is matrix for matrix in matrices)]
        update = muon_update or update_matrices
        parts.append(Muon(matrices, config.muon_learning_rate, config.weight_decay, update=update))
    groups = [{"params": mixes, "weight_decay": config.weight_decay}, {"params": stays, "weight_decay": 0.0}]
    if groups := [group for group in groups if group["params"]]:
        parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True))
    return Optimizers(parts)
