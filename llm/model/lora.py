"""LoRA: fine-tune a frozen model through thin matrices beside its own (Hu et al. 2021).

A fine-tune moves a big matrix W little and in few directions. So W stays as it is, and what is learned is the product
of two thin matrices, `W x + (alpha / rank) · up(down(x))`: of a 768 x 768 matrix with rank 8 that is 2 % of the
weights. `up` starts at zero, so the model starts as it was. Afterwards the product is added to W: a merged
model is an ordinary one, no slower and no bigger. Adding a share of it interpolates between the model before and after:
it learns a little less and forgets far less (Wortsman et al. 2022).
"""

import torch
from torch import Tensor, nn

from llm.config import LoRAConfig
from llm.errors import UserError
from llm.model.gpt import GPT


class LoRALinear(nn.Module):
    """A frozen linear layer and its low-rank update."""

    def __init__(self, frozen: nn.Linear, rank: int, alpha: float, kept: float = 1.0) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        device = frozen.weight.device
        self.down = nn.Linear(frozen.in_features, rank, bias=False, device=device)
        self.up = nn.Linear(rank, frozen.out_features, bias=False, device=device)
        self.scale = alpha / rank
        self.kept = kept
        nn.init.normal_(self.down.weight, std=frozen.in_features**-0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Map BTC as the frozen layer does, and add the update."""
        y_BTC = self.frozen(x_BTC)
        return y_BTC + self.up(self.scale * self.down(x_BTC))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The frozen layer with the update, or the share of it that is kept, added to its weights."""
        self.frozen.weight += self.kept * self.scale * self.up.weight @ self.down.weight
        return self.frozen


def add_lora(model: nn.Module, config: LoRAConfig, last_blocks: int | None = None) -> None:
    """Freeze the model, but for a classifier's head, and put an update beside every target of its blocks.

    With `last_blocks` so many blocks, counted from the output, get updates; those below need no backward pass. Raises
    UserError for a target or a number of blocks that the model does not have.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith("head."))
    (gpt,) = [module for module in model.modules() if isinstance(module, GPT)]
    first = 0 if last_blocks is None else len(gpt.blocks) - last_blocks
    if first < 0:
        raise UserError(f"last_blocks: {last_blocks} is more than the model's {len(gpt.blocks)} blocks")
    targets = set()
    for name, layer in list(gpt.blocks[first:].named_modules()):
        target = name.rpartition(".")[-1]
        if isinstance(layer, nn.Linear) and target in config.targets:
            number, _, path = name.partition(".")
            updated = LoRALinear(layer, config.rank, alpha=config.alpha, kept=config.kept)
            gpt.blocks[first + int(number)].set_submodule(path, updated)
            targets.add(target)
    if missing := set(config.targets) - targets:
        raise UserError(f"lora targets: the model has no {', '.join(sorted(missing))}")


def merge_lora(model: nn.Module) -> None:
    """Add every update to its layer; the model is an ordinary one again, and all of it can be trained."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoRALinear):
            model.set_submodule(name, layer.merged())
    model.requires_grad_(True)
