"""Near duplicates: MinHash finds candidates (Broder 1997), whose shingles are then compared exactly.

rensa computes the MinHashes.
"""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from rensa import RMinHash  # pyrefly: ignore[missing-module-attribute]: compiled, without stubs
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.data.shingles import shingles, whole

PERMUTATIONS = 128
MISSED = 1e-6  # chance that the bands miss two texts whose similarity is just the threshold
SEED = 1
BLOCK = 1024  # texts at a time, which bounds the memory
REACH = 1_000  # later rows of the same band that a row is compared with: all pairs of thousands would never end

logger = logging.getLogger(__name__)


def first_of_groups(texts: Sequence[str], threshold: float) -> np.ndarray:
    """The index of the first text of each text's group of near duplicates, int64 [texts].

    Two texts belong together if the sets of their word 3-shingles, in lower case, have a Jaccard similarity of at least
    `threshold`, or if a chain of such texts joins them. Memory holds 128 numbers a text: `texts` may be read from a
    file.
    """
    if not len(texts):
        return np.zeros(0, np.int64)
    equal, sizes, sketches = _sketches(texts)
    _, first_equal, number = np.unique(equal, return_index=True, return_inverse=True)
    first = first_equal[number]
    rows = np.sort(first_equal)
    different: set[tuple[int, int]] = set()
    length = _band_length(threshold)
    for start in range(0, PERMUTATIONS - length + 1, length):
        band = _hash_of_band(sketches[rows, start : start + length])
        for pairs in _neighbours(rows, band):
            pair_sizes = sizes[pairs]
            may_be_near = pair_sizes.min(axis=1) >= threshold * pair_sizes.max(axis=1)
            near: list[tuple[int, int]] = []
            for left, right in pairs[may_be_near & (first[pairs[:, 0]] != first[pairs[:, 1]])].tolist():
                if (left, right) in different:
                    continue
                if are_near(texts[left], texts[right], threshold):
                    near.append((left, right))
                else:
                    different.add((left, right))
            first = _joined(first, near)
    return first


def are_near(left: str, right: str, threshold: float) -> bool:
    """Whether the Jaccard similarity of two texts' shingles is at least `threshold`."""
    left_set = shingles(left)
    right_set = shingles(right)
    common = len(np.intersect1d(left_set, right_set, assume_unique=True))
    return common >= threshold * (len(left_set) + len(right_set) - common)


def _sketches(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A hash of each text's set of shingles, uint64, its size, int64, and MinHashes, uint32 [texts, PERMUTATIONS]."""
    equal: list[np.ndarray] = []
    sizes: list[int] = []
    sketches: list[np.ndarray] = []
    for start in range(0, len(texts), BLOCK):
        sets = [shingles(texts[index]) for index in range(start, min(start + BLOCK, len(texts)))]
        lengths = list(map(len, sets))
        ends = np.cumsum([0, *lengths], dtype=np.uint64)
        digest = RMinHash.digest_matrix_from_flat_token_hashes
        matrix = digest(np.concatenate(sets), ends, num_perm=PERMUTATIONS, seed=SEED)
        sketches.append(np.array(matrix.to_rows(), np.uint32))
        equal.append(whole(sets))
        sizes += lengths
    return np.concatenate(equal), np.array(sizes), np.concatenate(sketches)


def _band_length(threshold: float) -> int:
    """The MinHashes of a band: as many as possible, for few false candidates, that miss at most MISSED."""
    length = 1
    for longer in range(2, 17):
        if (1 - threshold**longer) ** (PERMUTATIONS // longer) <= MISSED:
            length = longer
    return length


def _hash_of_band(sketches: np.ndarray) -> np.ndarray:
    """A number for each row of MinHashes, equal for equal rows."""
    return np.unique(sketches, axis=0, return_inverse=True)[1].reshape(-1)


def _neighbours(rows: np.ndarray, band: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs [n, 2] of rows with the same band: first each row with the next, then with the one after it, and so on."""
    order = np.argsort(band, kind="stable")
    rows = rows[order]
    hashes = band[order]
    left = np.arange(len(rows))
    for distance in range(1, min(REACH, len(rows) - 1) + 1):
        left = left[left < len(rows) - distance]
        left = left[hashes[left] == hashes[left + distance]]
        if not len(left):
            return
        yield np.stack([rows[left], rows[left + distance]], axis=1)


def _joined(first: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """The first rows of groups when the groups of the rows in these pairs are one."""
    if not pairs:
        return first
    rows = len(first)
    left, right = np.array(pairs).T
    edges = (np.append(np.arange(rows), left), np.append(first, right))
    graph = coo_array((np.ones(len(edges[0]), bool), edges), shape=(rows, rows))
    group = connected_components(graph, directed=False)[1]
    _, first_of_group = np.unique(group, return_index=True)
    return first_of_group[group]
