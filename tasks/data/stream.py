"""A dataset of any size, from rows to tokens: texts are in parts on disk, and memory holds a few facts about each row.

These are its source, length and split, some hashes while near duplicates are searched, one band of MinHashes at a time,
and the state of drawing splits: at most a few hundred bytes a row. The rules are the same as for tables, applied part
by part.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import tiktoken

from tasks.data.cleaning.record import Record, drop
from tasks.data.inbox import join_inbox
from tasks.data.shingles import Prefixes, Sets, band_shape, bands, first_of_groups, prefix, same, shingles, whole
from tasks.data.splits import DUPLICATES, SPLITS
from tasks.data.table_parts import column, make_parts, read_part, with_record, write_part
from tasks.data.tokens import encode, write_files

CHECKED = 16 * 2**20  # characters of the rows that are checked against expectations at a time
HELD_OUT = 2**20  # shingles of the rows of validation and test that are compared with all others
LEARNED = 100_000_000  # characters that a tokenizer is trained on
OUT = -1  # the split of a dropped row

logger = logging.getLogger(__name__)

Codes = np.ndarray
"""The split of each row of a part, as its index in SPLITS; int8 [rows]."""


def texts_to_arrow(texts: Iterable[str]) -> pa.Array:
    """Texts as a column of a part."""
    return pa.array(texts, pa.large_string())


def rows_to_part(table: pd.DataFrame, record: Record, threshold: float) -> pa.Table:
    """A table of id, source and text as a part, with the hashes that find near duplicates."""
    sets = [shingles(text) for text in table["text"]]
    columns = {name: texts_to_arrow(table[name]) for name in ("id", "source", "text")}
    columns |= {
        "length": pa.array(table["text"].str.len(), pa.int32()),
        "key": pa.array(pd.util.hash_array(table["id"].to_numpy(object), categorize=False), pa.uint64()),
        "equal": pa.array(whole(sets), pa.uint64()),
        "shingles": pa.array([len(each) for each in sets], pa.int32()),
        "prefix": pa.array([prefix(each, threshold) for each in sets], pa.list_(pa.uint32())),
    }
    columns |= {_band(n): pa.array(band, pa.uint64()) for n, band in enumerate(bands(sets, threshold))}
    return with_record(pa.table(columns), record)


def _band(number: int) -> str:
    return f"band_{number:03}"


@dataclass(frozen=True)
class Stream:
    """Rows whose texts are in parts on disk."""

    folder: Path
    """The folder of its parts, and of parts made from them."""
    parts: list[Path]
    """Made by `rows_to_part`."""
    facts: pd.DataFrame
    """Source, length and, after `split`, split of each row; the index is its position among all rows of the parts."""

    @classmethod
    def of(cls, folder: Path, parts: list[Path]) -> "Stream":
        """All rows of some parts."""
        sources = pa.chunked_array([read_part(path, ["source"])["source"].combine_chunks() for path in parts])
        source = sources.dictionary_encode().unify_dictionaries().combine_chunks().to_pandas()
        return cls(folder, parts, pd.DataFrame({"source": source, "length": column(parts, "length").astype(np.int64)}))

    @cached_property
    def starts(self) -> np.ndarray:
        """The position of each part's first row, and of the end."""
        return np.cumsum([0, *(read_part(path, ["length"]).num_rows for path in self.parts)])

    @property
    def units(self) -> np.ndarray:
        """The hash by which each row is split, as `text_hashes` gives it; uint64 [rows]."""
        return column(self.parts, "equal")[self.facts.index]

    def rows(self, places: np.ndarray, columns: list[str]) -> pd.DataFrame:
        """Some columns of the rows at these positions, in this order, with the positions as index."""
        starts = self.starts
        part = np.searchsorted(starts, places, side="right") - 1
        found = []
        for number in np.unique(part):
            chosen = places[part == number]
            table = read_part(self.parts[number], columns).take(pa.array(chosen - starts[number]))
            found.append(table.to_pandas().set_index(pd.Index(chosen)))
        if not found:
            return pd.DataFrame({name: pd.Series(dtype=str) for name in columns})
        return pd.concat(found).loc[places]

    def by_part(self) -> Iterator[np.ndarray]:
        """The positions of the rows of each part in turn."""
        ends = np.searchsorted(self.facts.index.to_numpy(), self.starts)
        yield from np.split(self.facts.index.to_numpy(), ends[1:-1])

    def codes(self) -> Iterator[tuple[Path, Codes]]:
        """Each part with the splits of its rows."""
        starts = self.starts
        of_all = np.full(starts[-1], OUT, np.int8)
        of_all[self.facts.index] = pd.Categorical(self.facts["split"], SPLITS).codes
        yield from zip(self.parts, np.split(of_all, starts[1:-1]), strict=True)

    def batches(self) -> Iterator[pd.DataFrame]:
        """Tables of id, source and text, of about CHECKED characters each.

        Rows with a repeated id are in the last one.
        """
        keys = pd.Series(column(self.parts, "key")[self.facts.index], self.facts.index)
        apart, size, batch = keys.duplicated(keep=False), 0, [self.facts.index[:0].to_numpy()]
        for places in self.by_part():
            places = places[~apart[places].to_numpy()]
            batch.append(places)
            size += self.facts["length"][places].sum()
            if size >= CHECKED:
                yield self.rows(np.concatenate(batch), ["id", "source", "text"])
                size, batch = 0, []
        batch.append(self.facts.index[apart].to_numpy())
        if sum(map(len, batch)) or len(self.facts) == 0:
            yield self.rows(np.concatenate(batch), ["id", "source", "text"])


def without_duplicates(stream: Stream, threshold: float) -> Stream:
    """Like `deduplicate` of tasks/data/splits.py, for all rows of the parts."""
    parts, places = stream.parts, stream.facts.index.to_numpy()

    def sets(rows: np.ndarray) -> Sets:
        return [shingles(text) for text in stream.rows(rows, ["text"])["text"]]

    each_band = (column(parts, _band(number)) for number in range(band_shape(threshold)[0]))
    equal = column(parts, "equal")
    first = first_of_groups(equal, column(parts, "shingles"), each_band, sets, threshold)
    repeated = first != places
    exact = len(equal) - len(np.unique(equal))
    logger.info(
        "%d rows: %d equal and %d near duplicates dropped, %d left",
        len(places), exact, repeated.sum() - exact, (~repeated).sum(),
    )  # fmt: skip
    names = stream.rows(np.unique(first[repeated]), ["id"])["id"]
    for some in stream.by_part():
        out = some[repeated[some]]
        rows = stream.rows(out, ["id", "source", "text"])
        drop(DUPLICATES, rows, "as " + names[first[out]].set_axis(rows.index), rows["text"])
    return replace(stream, facts=stream.facts[~repeated])


def _pairs(stream: Stream, sets: Sets, threshold: float) -> Iterator[np.ndarray]:
    """Indices [n, 2] of these sets and positions of the stream's rows that are near duplicates, for one part at a
    time."""
    known = Prefixes(sets, threshold)
    for path, places, start in zip(stream.parts, stream.by_part(), stream.starts[:-1], strict=True):
        table = read_part(path, ["shingles", "prefix"]).take(pa.array(places - start))
        prefixes = table["prefix"].combine_chunks()
        each = np.split(prefixes.values.to_numpy(), prefixes.offsets.to_numpy()[1:-1])[: len(places)]
        pairs = known.candidates(table["shingles"].to_numpy(), each)
        others, number = np.unique(places[pairs[:, 1]], return_inverse=True)
        held = [shingles(text) for text in stream.rows(others, ["text"])["text"]]
        near = [same(sets[one], held[other], threshold) for one, other in zip(pairs[:, 0], number, strict=True)]
        yield np.stack([pairs[:, 0], others[number]], axis=1)[np.array(near, bool)]


def overlap_of_stream(stream: Stream, threshold: float, seed: int) -> int:
    """Count the rows of validation and test that have a near duplicate in an earlier split.

    Like `overlap` of tasks/data/splits.py, but if they have more than HELD_OUT shingles, only a sample of them is
    compared with all others.
    """
    order = pd.Series(pd.Categorical(stream.facts["split"], SPLITS).codes, stream.facts.index)
    held, sizes = order.index[order > 0].to_numpy(), column(stream.parts, "shingles")
    drawn = np.random.default_rng(seed).permutation(held)
    drawn = np.sort(drawn[np.cumsum(sizes[drawn]) <= HELD_OUT])
    if len(drawn) < len(held):
        logger.info("%d of %d rows of validation and test are held against all before them", len(drawn), len(held))
    before = replace(stream, facts=stream.facts[order < 2])
    sets, found = [shingles(text) for text in stream.rows(drawn, ["text"])["text"]], set()
    for pairs in _pairs(before, sets, threshold):
        found.update(pairs[order[pairs[:, 1]].to_numpy() < order[drawn[pairs[:, 0]]].to_numpy(), 0].tolist())
    return len(found)


def with_inbox(
    stream: Stream,
    left: pd.DataFrame,
    threshold: float,
    text: Callable[[pd.DataFrame], pd.Series],
    mask: Callable[[pd.DataFrame], pd.DataFrame],
) -> Stream:
    """Like `join_inbox` of tasks/data/inbox.py; new rows are masked."""
    sets = [shingles(each) for each in text(left)]
    near = np.unique(np.concatenate([pairs[:, 1] for pairs in _pairs(stream, sets, threshold)]))
    table = stream.rows(near, ["id", "source", "text"]).assign(split=stream.facts["split"][near], place=near)
    joined = join_inbox(table, left, threshold, text=text, forms=text)
    new = mask(joined[joined["place"].isna()].drop(columns=["split", "place"]))
    write_part(stream.folder / "inbox.arrow", rows_to_part(new, Record(), threshold))
    end = stream.starts[-1]
    facts = stream.facts.drop(index=near[~np.isin(near, joined["place"])]).astype({"source": object})
    more = pd.DataFrame(
        {"source": new["source"].to_numpy(object), "length": new["text"].str.len().to_numpy(), "split": SPLITS[0]},
        range(end, end + len(new)),
    )
    facts = pd.concat([facts, more]).astype({"source": "category"})
    return replace(stream, parts=[*stream.parts, stream.folder / "inbox.arrow"], facts=facts)


def texts_to_learn(stream: Stream, seed: int) -> Iterator[str]:
    """The texts of train; a sample of the rows if they have more than LEARNED characters."""
    train = stream.facts[stream.facts["split"] == SPLITS[0]]
    drawn = train.sample(frac=1, random_state=seed)
    drawn = train.loc[drawn.index[drawn["length"].cumsum() <= LEARNED].sort_values()]
    if len(drawn) < len(train):
        logger.info(
            "a tokenizer is trained on %d of %d rows, %.1f M characters",
            len(drawn), len(train), drawn["length"].sum() / 1e6,
        )  # fmt: skip
    for places in replace(stream, facts=drawn).by_part():
        yield from stream.rows(places, ["text"])["text"]


def _token_part(encoding: tiktoken.Encoding, job: tuple[Path, Codes]) -> pa.Table:
    path, codes = job
    texts, columns = read_part(path, ["text"])["text"], {}
    for number, split in enumerate(SPLITS):
        tokens, counts = encode(encoding, texts.take(pa.array(np.flatnonzero(codes == number))).to_pylist())
        columns[split] = pa.array([tokens], pa.large_binary())
        columns |= {f"{split} {name}": pa.array([count]) for name, count in counts.items()}
    return pa.table(columns)


def _token_pieces(paths: Iterable[Path]) -> Iterator[dict[str, tuple[memoryview, dict[str, int]]]]:
    for path in paths:
        table = read_part(path)
        yield {
            split: (
                memoryview(table[split][0].as_buffer()),
                {name: table[f"{split} {name}"][0].as_py() for name in ("documents", "tokens", "bytes")},
            )
            for split in SPLITS
        }


def write_stream(encoding: tiktoken.Encoding, stream: Stream, folder: Path) -> dict[str, Any]:
    """Write the token files and their `meta.json` (tasks/data/tokens.py), on all cores."""
    parts = make_parts(stream.folder / "tokens", stream.codes(), partial(_token_part, encoding), len(stream.parts))
    return write_files(encoding, SPLITS, _token_pieces(parts), folder)
