"""Token files on disk, memory-mapped: one a split, or shards where a split is large."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm.errors import UserError


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

    Raises UserError for a file that has not as many tokens as `meta.json` says, or none.
    """
    shards, dtype = meta["splits"][split].get("shards"), np.dtype(meta["dtype"])
    files = []
    for shard in shards or [{"file": f"{split}.bin", "tokens": meta["splits"][split]["tokens"]}]:
        path = place(shard["file"])
        count = path.stat().st_size / dtype.itemsize
        if count != shard["tokens"]:
            raise UserError(f"{path}: {count:g} tokens, not {shard['tokens']} as meta.json has it")
        if not count:
            raise UserError(f"{path}: no tokens; bring more text")
        files.append(np.memmap(path, dtype=dtype, mode="r"))
    return Shards(files) if shards else files[0]
