"""Tables that people open, as CSV: no cell is a formula, and names of slices are short."""

from typing import Any

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet computes


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before each text that a spreadsheet would run as a formula; numbers stay.

    Python writes a carriage return without quotes, and what follows it would begin a row: it becomes a line feed.
    """

    def safe(cell: Any) -> Any:
        if not isinstance(cell, str):
            return cell
        return ("'" if cell.startswith(FORMULA) else "") + cell.replace("\r", "\n")

    return table.map(safe)


def short_paths(paths: pd.Series) -> pd.Series:
    """Paths as slices are called: as many last parts of each as keep all apart."""
    whole = {path: path.split("/") for path in paths.unique()}
    short = {path: path for path in whole}
    for kept in range(max(map(len, whole.values()), default=0), 0, -1):
        fewer = {path: "/".join(parts[-kept:]) for path, parts in whole.items()}
        if len(set(fewer.values())) < len(fewer):
            break
        short = fewer
    return paths.map(short)
