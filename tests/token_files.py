"""Token files of tables of texts."""

from pathlib import Path
from typing import Any

import pandas as pd
import tiktoken

from tasks.data import tokens


def write_tokens(encoding: tiktoken.Encoding, splits: dict[str, pd.DataFrame], folder: Path) -> dict[str, Any]:
    """Write the texts of each split, and return what meta.json holds."""
    rows = pd.concat([table[["text"]].assign(split=split) for split, table in splits.items()], ignore_index=True)
    rows["length"] = rows["text"].str.len()
    return tokens.write_tokens(encoding, rows, rows["text"].tolist(), folder=folder)
