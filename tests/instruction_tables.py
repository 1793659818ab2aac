"""Tables of instructions as the dataset writes them, for tests."""

from pathlib import Path

import pandas as pd


def write(folder: Path, split: str, **columns: list) -> None:
    """A split of the dataset; columns that are not given are empty."""
    size = len(columns["instruction"])
    empty = {"input": [""] * size, "answers": [[]] * size, "history": [[]] * size, "system": [""] * size}
    empty["wording"] = columns["instruction"]
    table = {"id": [f"{split}{n}" for n in range(size)], "source": ["s"] * size, "kind": ["k"] * size}
    pd.DataFrame(table | empty | columns).to_parquet(folder / f"{split}.parquet")
