"""Training in several processes: which part of a batch is whose, and what the workers tell each other.

Each worker takes its part of every batch; the mean of their gradients is that of the whole batch, so that they all take
the step that one alone would take. With DDP each holds all weights. With FSDP2 each holds a part of every matrix, a
`DTensor`, and borrows the rest, a block at a time, for as long as it computes with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from llm.errors import UserError
from llm.model.gpt import GPT, Block

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass
class Workers:
    """The processes that train one model; alone without arguments. Every method but `part` is called by all at once."""

    rank: int = 0
    """This one's number, from 0."""
    count: int = 1
    """How many they are."""
    sharded: bool = False
    """Whether each holds a part of the weights (FSDP2), or all of them (DDP)."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where this one computes."""
    _wrapped: list[Any] = field(default_factory=list)
    """The modules that DDP or FSDP2 wraps: they have methods that nn.Module lacks."""

    def part(self, rows: np.ndarray) -> np.ndarray:
        """This worker's rows of a batch. Raises UserError where the batch can't be shared out evenly."""
        if len(rows) % self.count:
            raise UserError(f"batch_size {len(rows)} is no multiple of {self.count} workers")
        return rows[self.rank :: self.count]

    def wrap(self, model: nn.Module, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`loss(model, …)` as a function of the rest; its backward pass leaves the mean of all workers' gradients.

        Call it before the optimiser is built: FSDP2 replaces the weights by this worker's parts of them.
        """
        if self.count > 1 and self.sharded:
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # half a second

            self._wrapped = [fully_shard(module) for module in model.modules() if isinstance(module, Block)]
            self._wrapped.append(fully_shard(model))
            if isinstance(model, GPT):
                register_fsdp_forward_method(model, "hidden_states")
            for module in self._wrapped:  # what inference mode would allocate, training could not use
                module.unshard()
                module.reshard()
        elif self.count > 1:
            self._wrapped = [DistributedDataParallel(_Loss(model, loss))]
            return self._wrapped[0]
        return partial(loss, model)

    def synchronise(self, *, now: bool) -> None:
        """Whether the next backward pass exchanges gradients, or only adds up this worker's own."""
        for module in self._wrapped:
            if self.sharded:
                module.set_requires_gradient_sync(now, recurse=False)
            else:
                module.require_backward_grad_sync = now

    def release(self) -> None:
        """Give back borrowed weights, as after an evaluation, which has no backward pass that would."""
        for module in self._wrapped if self.sharded else ():
            module.reshard()

    def sums(self, *values: float) -> list[float]:
        """Each value summed over the workers."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def mean(self, value: float) -> float:
        """The mean of a value over the workers."""
        return self.sums(value / self.count)[0]

    def any(self, flag: bool, /) -> bool:  # noqa: FBT001
        """Whether it is so for one of them at least."""
        return self.sums(flag)[0] > 0


class _Loss(nn.Module):
    """A loss as a module, which is what DDP wraps."""

    def __init__(self, model: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *inputs: Any) -> Any:
        """What the loss gives."""
        return self.loss(self.model, *inputs)


ALONE = Workers()


def _is_part(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether it is a `DTensor`, whose module takes half a second to import and is there where one was made."""
    return hasattr(tensor, "device_mesh")


def full_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor of which each worker holds a part."""
    return tensor.full_tensor() if _is_part(tensor) else tensor


def to_local(tensor: Tensor) -> Tensor:
    """This worker's part of a tensor; they share memory."""
    return tensor.to_local() if _is_part(tensor) else tensor


def redistribute(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that all workers hold, spread over them as `like` is."""
    if not _is_part(like) or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * like.device_mesh.ndim
    return DTensor.from_local(tensor, like.device_mesh, everywhere, run_check=False).redistribute(
        placements=like.placements
    )
