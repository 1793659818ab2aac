"""Groups of near duplicates among many texts: MinHash finds candidates (Broder 1997), which are compared exactly.

rensa computes the MinHashes.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from rensa import RMinHash  # pyrefly: ignore[missing-module-attribute]: compiled, without stubs
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.data.shingles import FIRST, Sets, mixed
from tasks.data.similarity import same

PERMUTATIONS = 128
MISSED = 1e-6  # chance that the bands miss two texts whose similarity is just the threshold
SEED = 1
BLOCK = 1024  # rows or pairs at a time, which bounds the memory
REACH = 1_000  # later rows with the same band that a row is compared with: all pairs of thousands would never end


def band_shape(threshold: float) -> tuple[int, int]:
    """The number of bands and of MinHashes a band: the longest bands, with the fewest false candidates, that miss at
    most MISSED."""
    rows = 1
    for longer in range(2, 17):
        if (1 - threshold**longer) ** (PERMUTATIONS // longer) <= MISSED:
            rows = longer
    return PERMUTATIONS // rows, rows


def bands(sets: Sets, threshold: float) -> np.ndarray:
    """A hash of each band of each text's MinHashes; uint64 [bands, texts]. Similar texts share at least one."""
    count, rows = band_shape(threshold)
    hashes = np.zeros((count, len(sets)), np.uint64)
    for start in range(0, len(sets), BLOCK):
        block = sets[start : start + BLOCK]
        ends = np.cumsum([0, *map(len, block)], dtype=np.uint64)
        digest = RMinHash.digest_matrix_from_flat_token_hashes
        matrix = digest(np.concatenate(block), ends, num_perm=count * rows, seed=SEED)
        min_hashes = np.array(matrix.to_rows(), np.uint64).T
        folded = hashes[:, start : start + len(block)]
        for row in range(rows):
            folded[:] = (folded + min_hashes[row::rows]) * FIRST
    return mixed(hashes)


def _neighbours(rows: np.ndarray, band: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs [n, 2] of rows with the same hash in a band: first each row with the next, then with the one after it, and
    so on."""
    order = np.argsort(band[rows], kind="stable")
    rows = rows[order]
    hashes = band[rows]
    left = np.arange(len(rows))
    for distance in range(1, min(REACH, len(rows) - 1) + 1):
        left = left[left < len(rows) - distance]
        left = left[hashes[left] == hashes[left + distance]]
        if not len(left):
            return
        yield np.stack([rows[left], rows[left + distance]], axis=1)


def first_of_groups(
    *,
    equal: np.ndarray,
    sizes: np.ndarray,
    bands: Iterable[np.ndarray],
    sets: Callable[[np.ndarray], Sets],
    threshold: float,
) -> np.ndarray:
    """The first row of each row's group of near duplicates, int64 [rows].

    `equal` is a hash of each row's set, `sizes` its shingles, `bands` gives one band after the other, uint64 [rows],
    and `sets` the shingles of some rows. Two rows belong together if the exact Jaccard similarity of their sets is at
    least `threshold`, or a chain of such rows joins them. Pairs that are already in one group are not compared. Only
    one band at a time is in memory.
    """
    _, first_equal, number = np.unique(equal, return_index=True, return_inverse=True)
    first = first_equal[number]
    rows = np.sort(first_equal)
    different = np.zeros(0, np.uint64)  # keys of pairs that were compared
    for band in bands:
        compared = [different]  # a pair comes once in a band
        for pairs in _neighbours(rows, band):
            pairs = pairs[_may_be_near(pairs, first, sizes, threshold=threshold)]
            pairs = pairs[~_are_among(_keys(pairs), different)]
            for start in range(0, len(pairs), BLOCK):
                block = pairs[start : start + BLOCK]
                is_near = _are_near(block, sets, threshold)
                first = _joined(first, block[is_near])
                compared.append(_keys(block[~is_near]))
        different = np.sort(np.concatenate(compared))
    return first


def _joined(first: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The first rows of groups when the groups of the rows in these pairs are one."""
    if not len(pairs):
        return first
    rows = len(first)
    left = np.append(np.arange(rows), pairs[:, 0])
    right = np.append(first, pairs[:, 1])
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(rows, rows))
    _, group = connected_components(graph, directed=False)
    _, first_of_group = np.unique(group, return_index=True)
    return first_of_group[group]


def _may_be_near(pairs: np.ndarray, first: np.ndarray, sizes: np.ndarray, *, threshold: float) -> np.ndarray:
    """Whether the rows of pairs are in different groups, and of sizes that allow the similarity; bool [pairs]."""
    pair_sizes = sizes[pairs]
    is_similar = pair_sizes.min(axis=1) >= threshold * pair_sizes.max(axis=1)
    return (first[pairs[:, 0]] != first[pairs[:, 1]]) & is_similar


def _keys(pairs: np.ndarray) -> np.ndarray:
    """Pairs [n, 2] as one number each, uint64 [n]."""
    return pairs[:, 0].astype(np.uint64) << np.uint64(32) | pairs[:, 1].astype(np.uint64)


def _are_among(keys: np.ndarray, sorted_keys: np.ndarray) -> np.ndarray:
    """Whether each key is one of the sorted ones; bool [keys]."""
    return np.searchsorted(sorted_keys, keys) != np.searchsorted(sorted_keys, keys, side="right")


def _are_near(pairs: np.ndarray, sets: Callable[[np.ndarray], Sets], threshold: float) -> np.ndarray:
    """Whether the exact similarity of each pair is at least `threshold`; bool [pairs]."""
    rows = np.unique(pairs)
    set_of = dict(zip(rows.tolist(), sets(rows), strict=True))
    return np.array([same(set_of[left], set_of[right], threshold) for left, right in pairs.tolist()], bool)
