"""The optimisers and their learning-rate schedule.

AdamW (Loshchilov and Hutter 2019) scales each weight's step by the size of its own gradients. Muon (Jordan et al. 2024)
treats a matrix as a whole: it replaces the averaged gradient by a matrix near it whose singular values are all one, so
that rare directions move as far as frequent ones. It takes the matrices inside the blocks, AdamW all the rest.

Tensor names end in their shape: N matrices, R rows, C columns.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
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


def _directions(
    averages: Sequence[Tensor], squares: Sequence[Tensor], beta2: float
) -> tuple[list[Tensor], list[Tensor]]:
    """The updates of matrices from their averaged gradients, RC each, and the new averages of squares, R1 each.

    Those of one shape are computed at once: many small products are slow.
    """
    numbers_by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for number, average_RC in enumerate(averages):
        numbers_by_shape[average_RC.shape].append(number)
    updates, new_squares = list(averages), list(squares)
    for numbers in numbers_by_shape.values():
        squares_NR1 = torch.stack([squares[number] for number in numbers])
        orthogonal_NRC = orthogonal(torch.stack([averages[number] for number in numbers]))
        updates_NRC = balance_rows(orthogonal_NRC, squares_NR1, beta2)
        for number, update_RC, squares_R1 in zip(numbers, updates_NRC, squares_NR1, strict=True):
            updates[number], new_squares[number] = update_RC, squares_R1
    return updates, new_squares


def update_matrices(matrices: Sequence[MuonMatrix], rates: MuonRates) -> None:
    """Muon's update of matrices in place.

    A weight loses `learning rate x update`, and decays only where that brings it nearer to zero, too (cautious weight
    decay, Chen et al. 2025).
    """
    averages: list[Tensor] = []
    squares: list[Tensor] = []
    for matrix in matrices:
        matrix.momentum_RC.lerp_(matrix.gradient_RC, 1 - rates.momentum)
        nesterov_RC = matrix.gradient_RC.lerp(matrix.momentum_RC, rates.momentum)
        averages += nesterov_RC.split(matrix.rows)
        squares += matrix.squares_R1.split(matrix.rows)
    updates, squares = _directions(averages, squares, rates.beta2)
    first = 0
    for matrix in matrices:
        parts = slice(first, first + len(matrix.rows))
        first = parts.stop
        weight_RC = matrix.weight_RC
        matrix.squares_R1.copy_(torch.cat(squares[parts]))
        update_RC = torch.cat(updates[parts])
        decay_RC = rates.weight_decay * weight_RC * (weight_RC * update_RC >= 0)
        weight_RC.sub_(update_RC + decay_RC, alpha=rates.learning_rate)


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
                if weight_RC.grad is not None:
                    matrices[rates].append(self._matrix(weight_RC, weight_RC.grad, group["rows"]))
        for rates, alike in matrices.items():  # in one call, which shares them out among threads
            self.update(alike, rates)

    def _matrix(self, weight_RC: Tensor, gradient_RC: Tensor, rows: tuple[int, ...] | None) -> MuonMatrix:
        state = self.state[weight_RC]
        if not state:
            state["momentum"] = torch.zeros_like(weight_RC)
            state["squares"] = torch.zeros_like(weight_RC[:, :1])
        return MuonMatrix(
            weight_RC=weight_RC,
            gradient_RC=gradient_RC,
            momentum_RC=state["momentum"],
            squares_R1=state["squares"],
            rows=rows or (weight_RC.shape[0],),
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
        """The state as named tensors, to be saved."""
        tensors = {}
        for number, part in enumerate(self.parts):
            for index, state in part.state_dict()["state"].items():
                for key, tensor in state.items():
                    tensors[f"{number}.{index}.{key}"] = tensor
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back the state that `tensors` gave."""
        for number, part in enumerate(self.parts):
            state: dict[int, dict[str, Tensor]] = defaultdict(dict)
            for name, tensor in tensors.items():
                part_number, index, key = name.split(".", 2)
                if int(part_number) == number:
                    state[int(index)][key] = tensor
            part.load_state_dict(part.state_dict() | {"state": dict(state)})


def build_optimizer(model: nn.Module, config: TrainConfig, muon_update: MuonUpdate | None = None) -> Optimizers:
    """The configured optimisers over what is not frozen; only matrices that mix features decay."""
    matrices: list[Tensor] = []  # Muon's
    decaying: list[Tensor] = []
    others: list[Tensor] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        if config.optimizer == "muon" and weight.ndim == 2 and ".blocks." in f".{name}":
            matrices.append(weight)
        elif weight.ndim >= 2 and "embedding" not in name:
            decaying.append(weight)
        else:
            others.append(weight)
    parts: list[torch.optim.Optimizer] = []
    beta1 = 0.9
    if config.optimizer == "muon":
        assert config.muon_learning_rate is not None  # the config checks it
        groups = _by_rows(model, matrices)
        update = muon_update or update_matrices
        parts.append(Muon(groups, lr=config.muon_learning_rate, weight_decay=config.weight_decay, update=update))
        beta1 = BETA1_BESIDE_MUON
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if groups:
        parts.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=(beta1, config.beta2), fused=True))
    return Optimizers(parts)


def _by_rows(model: nn.Module, matrices: list[Tensor]) -> list[dict[str, Any]]:
    """Groups of matrices for Muon: those that hold queries, keys and values, by the rows of these, and the others."""
    stacked: dict[Tensor, tuple[int, ...]] = {}
    for module in model.modules():
        if isinstance(module, GroupedQueryAttention) and isinstance(module.query_key_value, nn.Linear):
            weight_RC = module.query_key_value.weight
            stacked[weight_RC] = tuple(heads * len(weight_RC) // sum(module.heads) for heads in module.heads)
    groups: dict[tuple[int, ...] | None, list[Tensor]] = defaultdict(list)
    for weight_RC in matrices:
        groups[stacked.get(weight_RC)].append(weight_RC)
    return [{"params": weights, "rows": rows} for rows, weights in groups.items()]
