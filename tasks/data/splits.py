"""Near duplicates, and splits that they do not straddle."""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Self

import numpy as np
import pandas as pd
from datasketch import MinHash, MinHashLSH
from pydantic import Field, model_validator
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from llm.config import Config, Rate

SPLITS = ("train", "validation", "test")
PERMUTATIONS = 128
MISSED = 1e-6  # chance that the index overlooks two texts whose similarity is just the threshold
BLOCK = 1024  # rows compared at a time, which bounds the memory

logger = logging.getLogger(__name__)


class Split(Config):
    """How a table is de-duplicated and split."""

    seed: int = Field(ge=0)
    """Decides which rows go to which split."""
    validation: Rate
    """Share of the rows that choices are made on."""
    test: Rate
    """Share of the rows that only `evaluate` opens."""
    near_duplicate: float = Field(gt=0, le=1)
    """Jaccard similarity of word 3-shingles from which on two texts count as near duplicates."""

    train_only: tuple[str, ...] = ()
    """Sources, as globs, whose rows are learned from and never measured on, as written or made-up ones."""

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing for train")
        return self


def _normalise(text: str) -> str:
    """The words of `text` in lower case; `text` itself where it has none."""
    return " ".join(re.findall(r"\w+", text.lower())) or text


def _shingles(texts: Iterable[str]) -> csr_array:
    """Which normalised text (row) has which word 3-shingle (column); a shorter text is its own only shingle."""
    rows = []
    for text in texts:
        words = text.split(" ")
        hashes = pd.util.hash_array(np.array(words if len(words) > 2 else [text], dtype=object), categorize=False)
        if len(words) > 2:
            first, second, third = hashes[:-2], hashes[1:-1], hashes[2:]
            hashes = (first * np.uint64(0x9E3779B97F4A7C15) + second) * np.uint64(0xC2B2AE3D27D4EB4F) + third
        rows.append(np.unique(hashes))
    ends = np.cumsum([0, *map(len, rows)])
    shingles, columns = np.unique(np.concatenate(rows), return_inverse=True)
    return csr_array((np.ones(ends[-1], np.int32), columns.astype(np.int32), ends), shape=(len(rows), len(shingles)))


def _sizes(shingles: csr_array) -> np.ndarray:
    return np.diff(shingles.indptr)


def _index(threshold: float) -> MinHashLSH:
    """An index with the longest bands, and so the fewest false candidates, that miss at most MISSED of the pairs."""
    rows = max(r for r in range(1, 17) if r == 1 or (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED)
    return MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))


def _candidates(shingles: csr_array, threshold: float) -> np.ndarray:
    """Pairs of rows [n, 2] that may be similar, by MinHash and locality-sensitive hashing (Broder 1997)."""
    index, pairs = _index(threshold), []
    columns = (row.tolist() for row in np.split(shingles.indices, shingles.indptr[1:-1]))
    for row, sketch in enumerate(MinHash.generator(columns, num_perm=PERMUTATIONS, seed=1, hashfunc=int)):
        pairs += [(earlier, row) for earlier in sorted(index.query(sketch))]
        index.insert(row, sketch, check_duplication=False)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _similar(shingles: csr_array, pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Those of the pairs [n, 2] whose exact Jaccard similarity reaches the threshold."""
    sizes = _sizes(shingles)[pairs]
    pairs = pairs[sizes.min(axis=1) >= threshold * sizes.max(axis=1)]
    common = [
        shingles[block[:, 0]].multiply(shingles[block[:, 1]]).sum(axis=1)
        for block in np.array_split(pairs, len(pairs) // BLOCK + 1)
    ]
    common = np.concatenate(common)
    return pairs[common >= threshold * (_sizes(shingles)[pairs].sum(axis=1) - common)]


def near_duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Number the groups of near duplicates, in the order of their first texts; int64 [len(texts)].

    Two texts belong together when their sets of word 3-shingles, in lower case, have a Jaccard similarity of at
    least `threshold`, or when a chain of such texts joins them.
    """
    if not len(texts):
        return np.zeros(0, dtype=np.int64)
    row, unique = pd.factorize(np.array([_normalise(text) for text in texts], dtype=object))
    shingles = _shingles(unique)
    left, right = _similar(shingles, _candidates(shingles, threshold), threshold).T
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(unique), len(unique)))
    return pd.factorize(connected_components(graph, directed=False)[1][row])[0]


def deduplicate(table: pd.DataFrame, text: pd.Series, threshold: float) -> pd.DataFrame:
    """Keep the first row of each group of exact or near duplicates of `text`, which goes with the rows of `table`."""
    repeated = pd.Series(near_duplicates(text.tolist(), threshold)).duplicated().to_numpy()
    exact = int(text.duplicated().sum())
    logger.info(
        "%d rows: %d exact and %d near duplicates dropped, %d left",
        len(table), exact, repeated.sum() - exact, (~repeated).sum(),
    )  # fmt: skip
    return table[~repeated].reset_index(drop=True)


def split(
    table: pd.DataFrame, params: Split, *, groups: pd.Series | None = None, stratify: str | None = None
) -> pd.DataFrame:
    """Add the column `split`: train, validation or test, in the shares of `params` and drawn with its seed.

    Rows of one group stay together. Each value of the column `stratify` is shared out by itself; a group belongs to
    that of its first row, and one larger than a split's share of it goes to train. Rows whose column `source` is one
    of `params.train_only` go to train, too, and count in no share.
    """
    if params.train_only:
        learned = table["source"].map(lambda name: any(fnmatchcase(name, each) for each in params.train_only))
        rest = None if groups is None else groups[~learned]
        parted = split(table[~learned], params.model_copy(update={"train_only": ()}), groups=rest, stratify=stratify)
        return table.assign(split=parted["split"].reindex(table.index, fill_value="train"))
    group = pd.factorize(groups if groups is not None else np.arange(len(table)))[0]
    first = ~pd.Series(group).duplicated().to_numpy()
    units = pd.DataFrame({"size": np.bincount(group)})
    units["stratum"] = table[stratify].to_numpy()[first] if stratify else ""
    units = units.sample(frac=1, random_state=params.seed)
    units["rows"] = units.groupby("stratum")["size"].transform("sum")
    smallest = min(share for share in (params.validation, params.test, 1.0) if share)
    units["large"] = units["size"] > np.maximum(smallest * units["rows"], 1)
    units = units.sort_values("large", kind="stable")
    middle = (units.groupby("stratum")["size"].cumsum() - units["size"] / 2) / units["rows"]
    units["split"] = np.select(
        [middle < params.validation, middle < params.validation + params.test], ["validation", "test"], "train"
    )
    return table.assign(split=units["split"].sort_index().to_numpy()[group])


def _blocks(rows: csr_array) -> Iterator[csr_array]:
    yield from (rows[start : start + BLOCK] for start in range(0, rows.shape[0], BLOCK))


def overlap(table: pd.DataFrame, text: pd.Series, threshold: float) -> int:
    """Count the rows of validation and test that have a near duplicate in a split before theirs.

    Every row is compared with every other, with no index and no groups, so that this can judge what they made.
    """
    if table.empty:
        return 0
    shingles = _shingles(map(_normalise, text))
    order = table["split"].map(SPLITS.index).to_numpy()
    found = 0
    for number in (1, 2):
        earlier, later = shingles[order < number], shingles[order == number]
        for block in _blocks(later):
            common = (block @ earlier.T).tocoo()
            union = _sizes(block)[common.row] + _sizes(earlier)[common.col] - common.data
            found += len(np.unique(common.row[common.data >= threshold * union]))
    return found
