"""Token files of tables of texts, whole in memory: what those of a corpus in parts are held against."""

from pathlib import Path
from typing import Any

import pandas as pd
import tiktoken

from tasks.data.tokens import encode, write_files


def write_tokens(encoding: tiktoken.Encoding, splits: dict[str, pd.DataFrame], folder: Path) -> dict[str, Any]:
    """Write the texts of each split as `write_files` does, and return what meta.json holds."""
    pieces = [{split: encode(encoding, table["text"].tolist())} for split, table in splits.items()]
    return write_files(encoding, pieces, folder)
