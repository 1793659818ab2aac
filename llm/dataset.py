"""From token files to batches for next-token prediction.

The training example is the text itself: a window of T tokens is the input, the same window moved on by one is the
target, so that every position has a next token to predict. Which rows a batch holds is a function of the seed and the
batch's number alone: a run that goes on after a crash sees the order it would have seen.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from llm.errors import UserError
from llm.tokens import open_tokens


class BatchSampler:
    """Row numbers for batch after batch, epoch after epoch, each epoch in an order of its own.

    With `lengths`, of the rows, the batches of every `NEIGHBOURS` updates are put in order of length, so that a batch
    needs little padding.
    """

    NEIGHBOURS = 8

    def __init__(
        self, rows: int, batch_size: int, seed: int, *, lengths: np.ndarray | None = None, accumulated: int = 1
    ) -> None:
        if rows < 1:
            raise UserError("there is nothing to learn from: 0 rows")
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.lengths = lengths
        self.accumulated = accumulated
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        if self.lengths is None:
            return order
        size = self.NEIGHBOURS * self.accumulated * self.batch_size
        parts = []
        for first in range(0, self.rows, size):
            part = order[first : first + size]
            parts.append(part[np.argsort(self.lengths[part], kind="stable")])
        return np.concatenate(parts)

    def __getitem__(self, batch: int) -> np.ndarray:
        """The rows of batch number `batch`, int64, `batch_size` of them; it may span two epochs."""
        first = batch * self.batch_size
        rows = []
        for position in range(first, first + self.batch_size):
            epoch, index = divmod(position, self.rows)
            rows.append(self._order(epoch)[index])
        return np.array(rows)


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

    def batch(self, rows: np.ndarray, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Inputs and targets of these windows, both int64 BT on a device."""
        offsets = rows[:, None] * self.context_length + np.arange(self.context_length + 1)
        tokens = torch.from_numpy(self.tokens[offsets].astype(np.int64)).to(device)
        return tokens[:, :-1], tokens[:, 1:]

    def evaluation_batches(self, batches: int, batch_size: int) -> list[np.ndarray]:
        """Rows for about `batches` batches, spread evenly over the file, the same ones at each call."""
        rows = np.unique(np.linspace(0, len(self) - 1, batches * batch_size).astype(np.int64))
        return np.array_split(rows, max(1, round(len(rows) / batch_size)))


def pad(sequences: Sequence[Sequence[int]], value: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences filled up on the right to the longest, or to `length`, int64 BT, and their lengths, B.

    Attention is causal, so no real token can see the padding behind it.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    padded = torch.full((len(sequences), max(length, int(lengths.max()))), value)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    return padded, lengths
