"""Training states on disk, so that a run that was killed goes on as if it had not been."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from llm.files import write_atomic

logger = logging.getLogger(__name__)


def _step(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))


class Checkpoints:
    """The states of one training run, from which it can go on: `step-000150.safetensors`, the newest `keep` of them.

    A file holds the weights, the best weights so far, the optimiser's moments, and in its header the step and the
    history. Nothing else is needed: data order and dropout are functions of seed and step.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"), key=_step)

    def save(self, step: int, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Write a checkpoint atomically, then drop the oldest. `state` must be JSON."""
        tensors = {f"{group}/{name}": tensor.cpu() for group, part in groups.items() for name, tensor in part.items()}
        content = save(tensors, metadata={"state": json.dumps({**state, "step": step})})
        write_atomic(self.folder / f"step-{step:06}.safetensors", content)
        for old in self._files()[: -self.keep]:
            old.unlink()

    def newest(self) -> int:
        """The step of the newest checkpoint, 0 without one."""
        files = self._files()
        return _step(files[-1]) if files else 0

    def load(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The newest checkpoint that can be read, or None. One that cannot is passed over with a warning."""
        for file in reversed(self._files()):
            try:
                with safe_open(file, framework="pt") as content:
                    state = json.loads(content.metadata()["state"])
                    groups: dict[str, dict[str, Tensor]] = {}
                    for key in content.keys():  # noqa: SIM118 - a safetensors file is no dict
                        group, name = key.split("/", 1)
                        groups.setdefault(group, {})[name] = content.get_tensor(key)
                return groups, state
            except (SafetensorError, KeyError, TypeError, ValueError) as error:
                logger.warning("%s cannot be read (%s): taking the one before", file, error)
        return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors."""
    return {f"{index}.{key}": t for index, s in optimizer.state_dict()["state"].items() for key, t in s.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out."""
    whole = optimizer.state_dict()
    whole["state"] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        whole["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(whole)


def copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights now, as copies that later updates leave alone."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
