"""Token files on disk, memory-mapped: one a split, or shards where a split is large."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm.errors import UserError


class Shards:
    """Several memory-mapped token files as if they were one array."""

    def __init__(self, files: Sequence[np.ndarray]) -> None:
        self.files = files
        self.dtype = files[0].dtype
        self.starts = np.cumsum([0, *map(len, files)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, positions: int | slice | np.ndarray) -> np.ndarray:
        """The tokens at these positions, in an array of their shape."""
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(len(self)))
        positions = np.asarray(positions)
        positions = np.where(positions < 0, positions + len(self), positions)
        shards = np.searchsorted(self.starts, positions, side="right") - 1
        tokens = np.empty(positions.shape, self.dtype)
        for number in np.unique(shards):
            in_shard = shards == number
            tokens[in_shard] = self.files[number][positions[in_shard] - self.starts[number]]
        return tokens


Tokens = np.ndarray | Shards


def open_tokens(meta: Mapping[str, Any], split: str, locate: Callable[[str], Path]) -> Tokens:
    """The tokens of a split, memory-mapped; `locate` gives the path of a file of that name.

    Raises UserError for a file that has not as many tokens as `meta.json` says, or none.
    """
    shards = meta["splits"][split].get("shards")
    dtype = np.dtype(meta["dtype"])
    files = []
    for shard in shards or [{"file": f"{split}.bin", "tokens": meta["splits"][split]["tokens"]}]:
        path = locate(shard["file"])
        count = path.stat().st_size / dtype.itemsize
        if count != shard["tokens"]:
            raise UserError(f"{path}: {count:g} tokens, not {shard['tokens']} as meta.json has it")
        if not count:
            raise UserError(f"{path}: no tokens; bring more text")
        files.append(np.memmap(path, dtype=dtype, mode="r"))
    return Shards(files) if shards else files[0]
