"""Token files on disk, memory-mapped, one a split."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm.errors import UserError


def open_tokens(meta: Mapping[str, Any], split: str, locate: Callable[[str], Path]) -> np.ndarray:
    """The tokens of a split, memory-mapped; `locate` gives the path of a file of that name.

    Raises UserError for a file that has not as many tokens as `meta.json` says, or none.
    """
    dtype = np.dtype(meta["dtype"])
    path = locate(f"{split}.bin")
    count = path.stat().st_size / dtype.itemsize
    if count != meta["splits"][split]["tokens"]:
        raise UserError(f"{path}: {count:g} tokens, not {meta['splits'][split]['tokens']} as meta.json has it")
    if not count:
        raise UserError(f"{path}: no tokens; bring more text")
    return np.memmap(path, dtype=dtype, mode="r")
