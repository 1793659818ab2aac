"""The optimisers and their learning-rate schedule.

AdamW (Loshchilov and Hutter 2019) scales each weight's step by the size of its own gradients. Muon (Jordan et al. 2024)
treats a matrix as a whole: it replaces the averaged gradient by a matrix near it whose singular values are all one, so
that rare directions move as far as frequent ones. It takes the matrices inside the blocks, AdamW all the rest.

Tensor names end in their shape: N matrices, R rows, C columns.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.config import TrainConfig
from llm.kernels.processor import has_fast_bfloat16
from llm.kernels.training.backend import MuonMatrix, MuonRates, MuonUpdate
from llm.kernels.training.muon import LARGER, POLAR_EXPRESS
from llm.model.attention import GroupedQueryAttention

BETA1_BESIDE_MUON = 0.8
"""AdamW's share of momentum where Muon has the blocks: embeddings and the head then learned more than with 0.9."""


def schedule(step: int, config: TrainConfig) -> float:
    """The share of the peak rate at update number `step` (from 0): up in a line, then down to zero.

    Bergsma et al. 2025 compare ways down: a line to zero learns most.
    """
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    return (config.steps - step) / max(1, config.steps - warmup)


def orthogonal(matrices_NRC: Tensor) -> Tensor:
    """Give all rows of each matrix one length, and bring its singular values near one; in bfloat16 if that is fast.

    Rows of one length make the singular values more even (row equilibration; MuonEq 2026). The iteration is the Polar
    Express (Amsel et al. 2025), whose steps have coefficients of their own.
    """
    rows = matrices_NRC.shape[1]
    even_NRC = F.normalize(matrices_NRC, dim=-1) / (LARGER * rows**0.5)  # no singular value above one
    tall = rows > matrices_NRC.shape[2]
    low = torch.bfloat16 if has_fast_bfloat16(matrices_NRC.device) else torch.float32
    x = (even_NRC.mT if tall else even_NRC).to(low)
    for a, b, c in POLAR_EXPRESS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_NRC.dtype)


def balance_rows(updates_NRC: Tensor, squares_NR1: Tensor, beta2: float) -> Tensor:
    """Divide each row by the root of its average square, so that all rows move alike (NorMuon, Li et al. 2025).

    Takes the updates into the averages. What it returns has the norm of an orthogonal matrix of this shape, times
    sqrt(rows / columns) where there are more rows, so that it changes outputs alike for all shapes.
    """
    squares_NR1.lerp_(updates_NRC.square().mean(-1, keepdim=True), 1 - beta2)
    balanced_NRC = updates_NRC * squares_NR1.clamp(min=1e-10).rsqrt()
    # sqrt(min(R, C)) of an orthogonal matrix, times that of shapes, is the root of the rows for all of them.
    norm_N11 = balanced_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=1e-10)
    return balanced_NRC * (updates_NRC.shape[1] ** 0.5 / norm_N11)


def update_matrices(matrices: Sequence[MuonMatrix], rates: MuonRates) -> None:
    """Muon's update of matrices in place. Those of one shape are computed at once: many small products are slow.

    A weight loses `learning rate x update`, and decays only where that brings it nearer to zero, too (cautious weight
    decay, Chen et al. 2025).
    """
    parts_by_shape: dict[torch.Size, list[tuple[Tensor, ...]]] = defaultdict(list)
    for matrix in matrices:
        matrix.momentum_RC.lerp_(matrix.gradient_RC, 1 - rates.momentum)
        nesterov_RC = matrix.gradient_RC.lerp(matrix.momentum_RC, rates.momentum)
        tensors = (matrix.weight_RC, matrix.squares_R1, nesterov_RC)
        for part in zip(*[tensor.split(matrix.rows) for tensor in tensors], strict=True):
            parts_by_shape[part[0].shape].append(part)
    for parts in parts_by_shape.values():
        weights_NRC, squares_NR1, averages_NRC = [torch.stack(tensors) for tensors in zip(*parts, strict=True)]
        updates_NRC = balance_rows(orthogonal(averages_NRC), squares_NR1, rates.beta2)
        updates_NRC += rates.weight_decay * weights_NRC * (weights_NRC * updates_NRC >= 0)
        for number, (weight_RC, squares_R1, _) in enumerate(parts):
            squares_R1.copy_(squares_NR1[number])
            weight_RC.sub_(updates_NRC[number], alpha=rates.learning_rate)


class Muon(torch.optim.Optimizer):
    """Updates matrices by their orthogonalised Nesterov momentum, with cautious weight decay.

    A group's `rows` are those of each matrix that its weights hold one below the other; None for one matrix.
    """

    def __init__(
        self,
        matrices: list[Tensor] | list[dict[str, Any]],
        lr: float,
        weight_decay: float,
        update: MuonUpdate = update_matrices,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "rows": None})
        self.update = update

    @torch.no_grad()
    def step(self) -> None:  # pyrefly: ignore[bad-override]  # torch's takes a closure, which no training here has
        """Update every matrix that has a gradient."""
        matrices: dict[MuonRates, list[MuonMatrix]] = defaultdict(list)
        for group in self.param_groups:
            rates = MuonRates(learning_rate=group["lr"], weight_decay=group["weight_decay"])
            for weight_RC in group["params"]:
                if weight_RC.grad is None:
                    continue
                state = self.state[weight_RC]
                if not state:
                    state["momentum"] = torch.zeros_like(weight_RC)
                    state["squares"] = torch.zeros_like(weight_RC[:, :1])
                matrix = MuonMatrix(
                    weight_RC=weight_RC,
                    gradient_RC=weight_RC.grad,
                    momentum_RC=state["momentum"],
                    squares_R1=state["squares"],
                    rows=group["rows"] or (weight_RC.shape[0],),
                )
                matrices[rates].append(matrix)
        for rates, alike in matrices.items():  # in one call, which shares them out among threads
            self.update(alike, rates)


class Optimizers:
    """Several optimisers as one, each over weights of its own; a group's `peak` is its highest rate."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.groups: list[dict[str, Any]] = [group for part in parts for group in part.param_groups]
        for group in self.groups:
            group["peak"] = group["lr"]

    def step(self, share: float) -> None:
        """Update all weights with this share of the peak rates, and drop the gradients."""
        for group in self.groups:
            group["lr"] = share * group["peak"]
        for part in self.parts:
            part.step()
            part.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, to be saved."""
        tensors = {}
        for number, part in enumerate(self.parts):
            for index, state in part.state_dict()["state"].items():
                for key, tensor in state.items():
                    tensors[f"{number}.{index}.{key}"] = tensor
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back the state that `tensors` gave."""
        states: list[dict[int, dict[str, Tensor]]] = [defaultdict(dict) for _ in self.parts]
        for name, tensor in tensors.items():
            number, index, key = name.split(".", 2)
            states[int(number)][int(index)][key] = tensor
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(part.state_dict() | {"state": dict(state)})
        self.groups = [group for part in self.parts for group in part.param_groups]


def build_optimizer(model: nn.Module, config: TrainConfig, muon_update: MuonUpdate | None = None) -> Optimizers:
    """The configured optimisers over what is not frozen; only matrices that mix features decay."""
    by_muon: dict[tuple[int, ...] | None, list[Tensor]] = defaultdict(list)  # matrices by the rows of those in them
    decaying: list[Tensor] = []
    others: list[Tensor] = []
    rows = _stacked_rows(model)
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if config.optimizer == "muon" and weight.ndim == 2 and ".blocks." in f".{name}":
            by_muon[rows.get(weight)].append(weight)
        elif weight.ndim >= 2 and "embedding" not in name:
            decaying.append(weight)
        else:
            others.append(weight)
    parts: list[torch.optim.Optimizer] = []
    beta1 = 0.9
    if config.muon_learning_rate is not None:
        groups = [{"params": weights, "rows": rows} for rows, weights in by_muon.items()]
        update = muon_update or update_matrices
        parts.append(Muon(groups, lr=config.muon_learning_rate, weight_decay=config.weight_decay, update=update))
        beta1 = BETA1_BESIDE_MUON
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if groups:
        parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=(beta1, config.beta2), fused=True))
    return Optimizers(parts)


def _stacked_rows(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """Of each weight that holds queries, keys and values one below the other, the rows of these three."""
    rows = {}
    for module in model.modules():
        if isinstance(module, GroupedQueryAttention) and isinstance(module.query_key_value, nn.Linear):
            weight_RC = module.query_key_value.weight
            rows[weight_RC] = tuple(heads * len(weight_RC) // sum(module.heads) for heads in module.heads)
    return rows
