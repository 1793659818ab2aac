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
from llm.training.workers import ALONE, Workers, redistribute, to_local

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
    its own. Nothing else is needed: data order and dropout are functions of seed and step. Workers that each hold a
    part of the weights write a file each, `step-000150.1-of-2.safetensors`, into one folder that all of them see; any
    other number of workers can go on from these.
    """

    NAME = re.compile(r"step-(\d+)(?:\.(\d+)-of-(\d+))?\.safetensors")

    def __init__(self, folder: Path, keep: int = 2, workers: Workers = ALONE) -> None:
        self.folder, self.keep, self.workers = folder, keep, workers
        self.saved_rows = self.saved_bytes = 0  # of the history's file

    def _complete(self) -> list[tuple[int, list[Path]]]:
        """The steps of which all files are there, and these in order; the newest step last."""
        files_of: dict[tuple[int, int], dict[int, Path]] = defaultdict(dict)  # by step and number of parts
        for file in self.folder.glob("step-*.safetensors"):
            if name := self.NAME.fullmatch(file.name):
                step, part, parts = [int(number or 1) for number in name.groups()]
                files_of[step, parts][part] = file
        complete = []
        for (step, parts), files in sorted(files_of.items()):
            if len(files) == parts:
                complete.append((step, [files[part] for part in sorted(files)]))
        return complete

    def save(self, step: int, groups: Groups, history: Sequence[Row] = ()) -> None:
        """Write a checkpoint atomically, then drop the oldest. Only the last row of an earlier history may change."""
        name = f"step-{step:06}"
        workers = self.workers
        if workers.sharded:
            name += f".{workers.rank + 1}-of-{workers.count}"
        elif workers.rank > 0:
            return  # which has nothing that the first has not
        tensors = {}
        for group, part in groups.items():
            for key, tensor in part.items():
                tensors[f"{group}/{key}"] = tensor.cpu()
        if workers.rank == 0:
            self._save_rows(history[:-1])
        state = {"step": step, "last_row": list(history[-1:]), "history_bytes": self.saved_bytes}
        content = json.dumps(state).encode()
        tensors[STATE] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        file = save(tensors, metadata={"sha256": _digest(tensors)})
        write_atomic(self.folder / f"{name}.safetensors", file)
        if workers.rank == 0:
            for _, old_files in self._complete()[: -self.keep]:
                for old_file in old_files:
                    old_file.unlink()

    def _save_rows(self, rows: Sequence[Row]) -> None:
        """Append the rows that the history's file lacks."""
        lines = "".join(f"{json.dumps(row)}\n" for row in rows[self.saved_rows :]).encode()
        append(self.folder / HISTORY, lines, length=self.saved_bytes)
        self.saved_rows = len(rows)
        self.saved_bytes += len(lines)

    def newest(self, until: float = math.inf) -> int | None:
        """The step of the newest checkpoint of those up to step `until`; None without one."""
        return max((step for step, _ in self._complete() if step <= until), default=None)

    def load(self) -> tuple[Groups, dict[str, Any]] | None:
        """Load the newest readable checkpoint, or return None. Unreadable ones are deleted with a warning.

        The state has the `step` and the `history`.
        """
        for _, files in reversed(self._complete()):
            try:
                parts = [_read(file) for file in files]
                _, state = parts[0]
                rows = self._read_rows(state["history_bytes"])
            except UserError as error:
                logger.warning("%s: taking the one before", error)
                if self.workers.rank == 0:
                    for file in files:
                        file.unlink(missing_ok=True)
                continue
            self.saved_rows, self.saved_bytes = len(rows), state["history_bytes"]
            history = rows + state["last_row"]
            return _join([tensors for tensors, _ in parts]), {"step": state["step"], "history": history}
        self.saved_rows = self.saved_bytes = 0
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


def _join(parts: list[dict[str, Tensor]]) -> Groups:
    """The tensors of all workers' files, whole, by group."""
    groups: Groups = defaultdict(dict)
    for key, first in parts[0].items():
        group, name = key.split("/", 1)
        is_split = len(parts) > 1 and first.ndim > 0
        groups[group][name] = torch.cat([part[key] for part in parts]) if is_split else first
    return dict(groups)


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one file. Raises UserError for one that is torn, was changed or is gone."""
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata()
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 - it is no dict
        if _digest(tensors) != metadata["sha256"]:
            raise ValueError("its sha256 is another")
        return tensors, json.loads(tensors.pop(STATE).numpy().tobytes())
    except (SafetensorError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error})") from None


def weights_here(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training moves; of each the part that this worker holds."""
    return {name: to_local(weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad}


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of `weights_here`, which later updates leave alone."""
    return {name: weight.clone() for name, weight in weights_here(model).items()}


@torch.no_grad()
def restore_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put back what `trained_weights` took out, or what all workers' parts of it come to."""
    for name, weight in model.named_parameters():
        if name in weights:
            saved = weights[name]
            local = to_local(weight)
            if saved.shape != local.shape:
                saved = to_local(redistribute(saved, weight))
            local.copy_(saved)
