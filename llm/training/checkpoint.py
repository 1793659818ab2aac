"""Training states on disk, so that a run that was killed goes on as if it had not been."""

import hashlib
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from llm.errors import UserError
from llm.files import append, write_atomic
from llm.training.objective import Row

logger = logging.getLogger(__name__)

Groups = dict[str, dict[str, Tensor]]
"""Tensors by name, in groups such as `model`."""

STATE = "state"  # among the tensors, as bytes: their digest covers it
HISTORY = "history.jsonl"  # without the last row, which an interrupted evaluation completes later


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over all that a file holds."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        whole.update(name.encode())
        whole.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return whole.hexdigest()


class Checkpoints:
    """The states of one training run, from which it can go on: `step-000150.safetensors`, the newest `keep` of them.

    A file holds the trained weights, the best of them so far, the optimiser's moments, the step and the last row of the
    history. All checkpoints share `history.jsonl`, which has the earlier rows; each knows how many of its bytes are
    its own. Nothing else is needed: data order and dropout are functions of seed and step.
    """

    NAME = re.compile(r"step-(\d+)\.safetensors")

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.saved_rows = self.saved_bytes = 0  # of the history's file

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:06}.safetensors"

    def _steps(self) -> list[int]:
        """The steps that have a checkpoint, the newest last."""
        names = [self.NAME.fullmatch(file.name) for file in self.folder.glob("step-*.safetensors")]
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, groups: Groups, history: Sequence[Row] = ()) -> None:
        """Write a checkpoint atomically, then drop the oldest. Only the last row of an earlier history may change."""
        rows = history[:-1]
        lines = "".join(f"{json.dumps(row)}\n" for row in rows[self.saved_rows :]).encode()
        append(self.folder / HISTORY, lines, length=self.saved_bytes)
        self.saved_rows = len(rows)
        self.saved_bytes += len(lines)
        tensors = {f"{group}/{key}": tensor.cpu() for group, named in groups.items() for key, tensor in named.items()}
        state = {"step": step, "last_row": list(history[-1:]), "history_bytes": self.saved_bytes}
        tensors[STATE] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
        write_atomic(self._path(step), save(tensors, metadata={"sha256": _digest(tensors)}))
        for old_step in self._steps()[: -self.keep]:
            self._path(old_step).unlink()

    def newest(self, until: float = math.inf) -> int | None:
        """The step of the newest checkpoint of those up to step `until`; None without one."""
        return max((step for step in self._steps() if step <= until), default=None)

    def load(self) -> tuple[Groups, dict[str, Any]] | None:
        """Load the newest readable checkpoint, or return None. Unreadable ones are deleted with a warning.

        The state has the `step` and the `history`.
        """
        self.saved_rows = self.saved_bytes = 0
        for step in reversed(self._steps()):
            try:
                groups, state = _read(self._path(step))
                rows = self._read_rows(state["history_bytes"])
            except UserError as error:
                logger.warning("%s: taking the one before", error)
                self._path(step).unlink(missing_ok=True)
                continue
            self.saved_rows, self.saved_bytes = len(rows), state["history_bytes"]
            return groups, {"step": state["step"], "history": rows + state["last_row"]}
        return None

    def _read_rows(self, length: int) -> list[Row]:
        """The rows in so many bytes of the history's file. Raises UserError where they are torn or gone."""
        path = self.folder / HISTORY
        try:
            content = path.read_bytes()[:length]
            if len(content) < length:
                raise ValueError(f"it has {len(content)} of {length} bytes")
            return [json.loads(line) for line in content.splitlines()]
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error})") from None


def _read(file: Path) -> tuple[Groups, dict[str, Any]]:
    """Tensors and state of one file. Raises UserError for one that is torn, was changed or is gone."""
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata()
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 - it is no dict
        if _digest(tensors) != metadata["sha256"]:
            raise ValueError("its sha256 is another")
        state = json.loads(tensors.pop(STATE).numpy().tobytes())
    except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error})") from None
    groups: Groups = defaultdict(dict)
    for key, tensor in tensors.items():
        group, name = key.split("/", 1)
        groups[group][name] = tensor
    return dict(groups), state


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training moves."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of `weights_of`, which later updates leave alone."""
    return {name: weight.clone() for name, weight in weights_of(model).items()}


@torch.no_grad()
def restore_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put back what `trained_weights` took out."""
    for name, weight in model.named_parameters():
        if name in weights:
            weight.copy_(weights[name])
