"""The rows of a dataset, however many: texts are in parts on disk, and memory holds a few facts about each row.

These are its source, label, group, length and split. A small dataset has one part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.data.cleaning.record import Record, drop
from tasks.data.dataset import Dataset, Table, Texts
from tasks.data.minhash import bands
from tasks.data.shingles import shingles, text_hashes, whole
from tasks.data.splits import SPLITS
from tasks.data.table_parts import column, read_part, with_record, write_part

BATCH = 16 * 2**20  # characters of the rows that are checked against expectations at a time
LEFT_OUT = -1  # the split of a dropped row
HASH = "hash:"  # begins the columns of a part that are no columns of its dataset

SplitCodes = np.ndarray
"""The split of each row of a part, as its index in SPLITS; int8 [rows]."""


def band_column(number: int) -> str:
    """The column of a part with the hashes of one band of MinHashes."""
    return f"{HASH}band_{number:03}"


def part_of_rows(table: Table, dataset: Dataset, threshold: float, *, record: Record) -> pa.Table:
    """A table as a part: with its hashes, which find near duplicates, and the record of its cleaning."""
    text = dataset.text(table)
    sets = [shingles(value) for value in text]
    equal = whole(sets)
    columns = {
        "length": pa.array(text.str.len(), pa.int32()),
        "id": pa.array(pd.util.hash_array(table["id"].to_numpy(object), categorize=False), pa.uint64()),
        "unit": pa.array(text_hashes(table[dataset.groups]) if dataset.groups else equal, pa.uint64()),
        "equal": pa.array(equal, pa.uint64()),
        "shingles": pa.array([len(shingle_set) for shingle_set in sets], pa.int32()),
    }
    part = pa.Table.from_pandas(table, preserve_index=False)
    for name, values in columns.items():
        part = part.append_column(HASH + name, values)
    for number, band in enumerate(bands(sets, threshold)):
        part = part.append_column(band_column(number), pa.array(band, pa.uint64()))
    return with_record(part, record)


def as_frame(part: pa.Table) -> Table:
    """Columns of a part for pandas; lists stay lists."""
    table = part.to_pandas()
    for name in part.schema.names:
        if pa.types.is_list(part.schema.field(name).type):
            table[name] = pd.Series(part[name].to_pylist(), dtype=object)
    return table


@dataclass(frozen=True)
class Rows:
    """The rows of a dataset."""

    dataset: Dataset
    folder: Path
    """The folder of its parts, and of parts made from them."""
    parts: list[Path]
    """Made by `part_of_rows`."""
    facts: Table
    """Source, label and group, if the dataset has them, length and, once drawn, split of each row that is not dropped.

    The index is its position among all rows of the parts.
    """

    @classmethod
    def of(cls, dataset: Dataset, folder: Path, parts: list[Path]) -> "Rows":
        """All rows of some parts."""
        columns = read_part(parts[0]).schema.names
        kept = [name for name in ("source", "label", dataset.groups) if name and name in columns]
        tables = [read_part(path, [*kept, f"{HASH}length"]) for path in parts]
        facts = pa.concat_tables(tables, promote_options="permissive")
        facts = facts.rename_columns([*kept, "length"])
        categories = [name for name in kept if name == "source"]
        facts = facts.to_pandas(categories=categories, ignore_metadata=True)
        return cls(dataset=dataset, folder=folder, parts=parts, facts=facts)

    @cached_property
    def starts(self) -> np.ndarray:
        """The position of each part's first row, and of the end."""
        sizes = [read_part(path, ["id"]).num_rows for path in self.parts]
        return np.cumsum([0, *sizes])

    @property
    def positions(self) -> np.ndarray:
        """The positions of all rows."""
        return self.facts.index.to_numpy()

    def hashes(self, name: str) -> np.ndarray:
        """A column of hashes of all rows; `unit` is the one by which a row is split."""
        return column(self.parts, HASH + name)[self.positions]

    def read(self, positions: np.ndarray, columns: list[str] | None = None) -> Table:
        """The rows at these positions, in this order, with the positions as index; perhaps only some columns."""
        numbers = np.searchsorted(self.starts, positions, side="right") - 1
        tables = []
        for number in np.unique(numbers) if len(positions) else [0]:
            chosen = positions[numbers == number]
            part = read_part(self.parts[number])
            part = part.select(columns or [name for name in part.schema.names if not name.startswith(HASH)])
            table = as_frame(part.take(pa.array(chosen - self.starts[number])))
            tables.append(table.set_index(pd.Index(chosen)))
        return pd.concat(tables).loc[positions] if len(tables) > 1 else tables[0].loc[positions]

    def texts(self, positions: np.ndarray) -> Texts:
        """The texts at these positions by which rows are compared."""
        return self.dataset.text(self.read(positions))

    def positions_by_part(self) -> list[np.ndarray]:
        """The positions of the rows of each part."""
        ends = np.searchsorted(self.positions, self.starts)
        return np.split(self.positions, ends[1:-1])

    def codes_by_part(self) -> Iterator[tuple[Path, SplitCodes]]:
        """Each part with the splits of its rows."""
        codes = np.full(self.starts[-1], LEFT_OUT, np.int8)
        codes[self.positions] = self.split_codes()
        yield from zip(self.parts, np.split(codes, self.starts[1:-1]), strict=True)

    def split_codes(self) -> SplitCodes:
        """The split of each row, as its index in SPLITS; int8 [rows]."""
        return pd.Categorical(self.facts["split"], SPLITS).codes

    def split_tables(self) -> Iterator[tuple[str, Table]]:
        """The rows of each split, as trainings and evaluations read them.

        They get a column `unit`: by it a review knows which of its test rows another version trained on.
        """
        units = pd.Series(self.hashes("unit").view(np.int64), self.positions)  # MLflow has no uint64
        for split in SPLITS:
            table = self.read(self.positions[self.facts["split"] == split])
            table = table.drop(columns=self.dataset.groups) if self.dataset.groups else table
            yield split, table.assign(unit=units)

    def batches(self) -> Iterator[Table]:
        """Tables of all rows, of about BATCH characters each. Rows with a repeated id are in the last one."""
        is_repeated = pd.Series(self.hashes("id"), self.positions).duplicated(keep=False)
        batch = [self.positions[:0]]
        size = 0
        for positions in self.positions_by_part():
            single = positions[~is_repeated[positions].to_numpy()]
            batch.append(single)
            size += self.facts["length"][single].sum()
            if size >= BATCH:
                yield self.read(np.concatenate(batch))
                batch = [self.positions[:0]]
                size = 0
        batch.append(self.positions[is_repeated])
        if sum(map(len, batch)) or self.facts.empty:
            yield self.read(np.concatenate(batch))

    def without(self, rule: str, reasons: pd.Series, text: Callable[[Table], Texts] | None = None) -> "Rows":
        """The rows without those that have a reason; these are recorded with their text. The index has positions."""
        reasons = reasons.dropna()
        dropped = replace(self, facts=self.facts.loc[reasons.index])
        for positions in dropped.positions_by_part():
            if len(positions):
                table = self.read(positions)
                drop(rule, table, reasons=reasons[positions], text=(text or self.dataset.text)(table))
        return replace(self, facts=self.facts.drop(index=reasons.index))

    def with_train_rows(self, table: Table, threshold: float) -> "Rows":
        """The rows, and those of a table in the train split."""
        path = self.folder / "inbox.arrow"
        write_part(path, part_of_rows(table, self.dataset, threshold, record=Record()))
        facts = Rows.of(self.dataset, self.folder, [path]).facts
        facts = facts.assign(split=SPLITS[0]).set_index(facts.index + self.starts[-1])
        both_facts = pd.concat([self.facts, facts]).astype({"source": "category"} if "source" in facts else {})
        return replace(self, parts=[*self.parts, path], facts=both_facts)
