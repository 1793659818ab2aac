"""From token files to batches for next-token prediction.

The training example is the text itself: a window of T tokens is the input, the same window moved on by one is the
target, so that every position has a next token to predict. Which rows a batch holds is a function of the seed and the
batch's number alone: a run that goes on after a crash sees the order it would have seen.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.errors import UserError


class BatchSampler:
    """Row numbers for batch after batch, epoch after epoch, each epoch in an order of its own.

    With `lengths`, of the rows, every `NEIGHBOURS` batches are put in order of length, so that a batch needs little
    padding.
    """

    NEIGHBOURS = 8

    def __init__(self, rows: int, batch_size: int, seed: int, lengths: np.ndarray | None = None) -> None:
        if rows < 1:
            raise UserError("there is nothing to learn from: 0 rows")
        self.rows, self.batch_size, self.seed, self.lengths = rows, batch_size, seed, lengths
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        if self.lengths is None:
            return order
        size = self.NEIGHBOURS * self.batch_size
        parts = (order[first : first + size] for first in range(0, self.rows, size))
        return np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])

    def __getitem__(self, batch: int) -> np.ndarray:
        """The rows of batch number `batch`, int64, `batch_size` of them; it may span two epochs."""
        first = batch * self.batch_size
        return np.array([self._order(i // self.rows)[i % self.rows] for i in range(first, first + self.batch_size)])


class Shards:
    """Several memory-mapped token files as if they were one array."""

    def __init__(self, files: Sequence[np.ndarray]) -> None:
        self.files, self.dtype = files, files[0].dtype
        self.starts = np.cumsum([0, *map(len, files)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, places: int | slice | np.ndarray) -> np.ndarray:
        """The tokens at these places, in an array of their shape."""
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        places = np.asarray(places)
        places = np.where(places < 0, places + len(self), places)
        shard = np.searchsorted(self.starts, places, side="right") - 1
        found = np.empty(places.shape, self.dtype)
        for number in np.unique(shard):
            here = shard == number
            found[here] = self.files[number][places[here] - self.starts[number]]
        return found


Tokens = np.ndarray | Shards


def open_tokens(meta: Mapping[str, Any], split: str, place: Callable[[str], Path]) -> Tokens:
    """The tokens of a split, memory-mapped; `place` says where a file of that name is.

    Raises UserError for a shard that has not as many tokens as `meta.json` says.
    """
    shards = meta["splits"][split].get("shards")
    if not shards:
        return np.memmap(place(f"{split}.bin"), dtype=meta["dtype"], mode="r")
    files = [np.memmap(place(shard["file"]), dtype=meta["dtype"], mode="r") for shard in shards]
    for file, shard in zip(files, shards, strict=True):
        if len(file) != shard["tokens"]:
            raise UserError(f"{shard['file']}: {len(file)} tokens, not {shard['tokens']} as meta.json has it")
    return Shards(files)


class TokenWindows:
    """Memory-mapped token files as windows of `context_length` tokens that do not overlap.

    Those of fewer tokens are one window, shorter than that. Raises UserError where there is none to predict.
    """

    def __init__(self, folder: Path, split: str, context_length: int) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        self.tokens = open_tokens(meta, split, folder.joinpath)
        if len(self.tokens) < 2:
            raise UserError(f"{folder}/{split}.bin: {len(self.tokens)} tokens leave none to predict; bring more text")
        self.context_length = min(context_length, len(self.tokens) - 1)
        self.bytes_per_token = meta["splits"][split]["bytes"] / meta["splits"][split]["tokens"]

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context_length

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets of these windows, both int64 BT."""
        offsets = rows[:, None] * self.context_length + np.arange(self.context_length + 1)
        tokens = torch.from_numpy(self.tokens[offsets].astype(np.int64))
        return tokens[:, :-1], tokens[:, 1:]

    def evaluation_batches(self, batches: int, batch_size: int, workers: int = 1) -> list[np.ndarray]:
        """Rows for about `batches` batches, spread evenly over the file, the same ones at each call.

        For each of some `workers` as many. Raises UserError where there are fewer rows than workers.
        """
        rows = np.unique(np.linspace(0, len(self) - 1, batches * batch_size).astype(np.int64))
        if len(rows) < workers:
            raise UserError(f"{len(rows)} windows to evaluate on are too few for {workers} workers")
        rounds = max(1, round(len(rows) / batch_size / workers))
        return np.array_split(rows, min(rounds, len(rows) // workers) * workers)


def pad(sequences: list[list[int]], value: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences filled up on the right to the longest, or to `length`, int64 BT, and their lengths, B.

    Attention is causal, so no real token can see the padding behind it.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.full((len(sequences), max(length, int(lengths.max()))), value)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    return padded, lengths
