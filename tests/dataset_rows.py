"""Tables as the rows of a dataset, in one part."""

from pathlib import Path

import numpy as np
import pandas as pd

from tasks.data.cleaning.record import Record
from tasks.data.dataset import Dataset
from tasks.data.rows import Rows, part_of_rows
from tasks.data.splits import Split
from tasks.data.table_parts import write_part

TEXTS = Dataset(params=Split, read=pd.DataFrame, text=lambda table: table["text"], expectations=list)
"""A dataset of which `text` is compared."""


def as_rows(table: pd.DataFrame, folder: Path, dataset: Dataset = TEXTS, threshold: float = 0.8) -> Rows:
    """A table as rows, whose part is in a folder. They have the table's column `split`, if there is one."""
    table = table if "id" in table else table.assign(id=[str(number) for number in range(len(table))])
    part = part_of_rows(table.drop(columns="split", errors="ignore"), dataset, threshold, record=Record())
    write_part(folder / "rows.arrow", part)
    rows = Rows.of(dataset, folder, [folder / "rows.arrow"])
    if "split" in table:
        rows.facts["split"] = table["split"].to_numpy()
    return rows


def as_table(rows: Rows) -> pd.DataFrame:
    """All rows as a table, with their split if it is drawn."""
    table = rows.read(rows.positions)
    return table.assign(split=rows.facts["split"]) if "split" in rows.facts else table


def split_of(rows: Rows) -> np.ndarray:
    """The split of each row."""
    return rows.facts["split"].to_numpy()
