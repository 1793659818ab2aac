"""LoRA: fine-tune a frozen model through thin matrices beside its own (Hu et al. 2021).

A fine-tune moves a big matrix W little and in few directions. So W stays as it is, and what is learned is the product
of two thin matrices, `W x + (alpha / rank) · up(down(x))`: of a 768 x 768 matrix with rank 8 that is 2 % of the
weights. `up` starts at zero, so the model starts as it was. Afterwards the product is added to W: a merged
model is an ordinary one, no slower and no bigger.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llm.config import LoRAConfig
from llm.errors import UserError


class LoRALinear(nn.Module):
    """A frozen linear layer and its low-rank update."""

    def __init__(self, frozen: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        device = frozen.weight.device
        self.down = nn.Linear(frozen.in_features, rank, bias=False, device=device)
        self.up = nn.Linear(rank, frozen.out_features, bias=False, device=device)
        self.scale = alpha / rank
        self.fast: nn.Module | None = None
        """Takes the place of `frozen` where gradients are on; evaluation and merging take `frozen`."""
        nn.init.normal_(self.down.weight, std=frozen.in_features**-0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map BTC as the frozen layer does, and add the update."""
        frozen = self.fast if self.fast is not None and torch.is_grad_enabled() else self.frozen
        return frozen(x_BTC) + self.up(self.scale * self.down(x_BTC))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The frozen layer with the update added to its weights."""
        self.frozen.weight += self.scale * self.up.weight @ self.down.weight
        return self.frozen


def add_lora(model: nn.Module, config: LoRAConfig) -> None:
    """Freeze the model, but for a classifier's head, and put an update beside every target of its blocks.

    Raises UserError for a target that the model does not have.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith("head."))
    found = set()
    for name, layer in list(model.named_modules()):
        parent, _, target = name.rpartition(".")
        if isinstance(layer, nn.Linear) and target in config.targets:
            setattr(model.get_submodule(parent), target, LoRALinear(layer, config.rank, config.alpha))
            found.add(target)
    if missing := set(config.targets) - found:
        raise UserError(f"lora targets: the model has no {', '.join(sorted(missing))}")


@torch.no_grad()
def replace_frozen(
    model: nn.Module, make: Callable[[nn.Linear, Tensor], nn.Module], forward: Callable[[], object]
) -> None:
    """Put what `make` makes in the place of frozen layers beside which updates are learned.

    It gets the layer and the largest magnitude of each input, I, in the batch that `forward` passes through the model.
    """
    layers = [module for module in model.modules() if isinstance(module, LoRALinear)]
    largest: dict[nn.Module, Tensor] = {}

    def note_largest(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        largest_I = inputs[0].float().flatten(0, -2).abs().amax(0)
        largest[layer] = torch.maximum(largest_I, largest.get(layer, largest_I))

    hooks = [layer.register_forward_pre_hook(note_largest) for layer in layers]
    try:
        if layers:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        layer.fast = make(layer.frozen, largest[layer])


def merge_lora(model: nn.Module) -> None:
    """Add every update to its layer; the model is an ordinary one again, and all of it can be trained."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoRALinear):
            parent, _, target = name.rpartition(".")
            setattr(model.get_submodule(parent), target, layer.merged())
    model.requires_grad_(True)
