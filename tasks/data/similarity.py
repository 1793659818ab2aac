"""The exact Jaccard similarity of texts, by their sets of shingles, and quick ways to find those that are similar."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from tasks.data.shingles import Sets, shingles

BLOCK = 1024  # rows at a time, which bounds the memory


def same(left: np.ndarray, right: np.ndarray, threshold: float) -> bool:
    """Whether the Jaccard similarity of two sets is at least `threshold`."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common >= threshold * (len(left) + len(right) - common)


class Known:
    """Texts to compare others with: every text with every other one."""

    def __init__(self, sets: Sets) -> None:
        self.sizes = _sizes(sets)
        self.vocabulary = np.unique(_joined(sets))
        self.matrix = self._matrix(sets)

    def _matrix(self, sets: Sets) -> csr_array:
        """A matrix of texts (rows) by shingles of the vocabulary (columns)."""
        values = _joined(sets)
        size = len(self.vocabulary)
        column = np.searchsorted(self.vocabulary, values)
        is_known = np.isin(values, self.vocabulary)
        ends = np.append(0, np.cumsum(is_known))[np.append(0, np.cumsum(_sizes(sets)))]
        ones = np.ones(ends[-1], np.int32)
        return csr_array((ones, column[is_known].astype(np.int32), ends), shape=(len(sets), size))

    def common(self, sets: Sets) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Indices of known texts and of others that share shingles, and how many they share."""
        columns = self._matrix(sets).T.tocsr()
        for start in range(0, self.matrix.shape[0], BLOCK):
            counts = (self.matrix[start : start + BLOCK] @ columns).tocoo()
            yield counts.row.astype(np.int64) + start, counts.col.astype(np.int64), counts.data

    def pairs(self, sets: Sets, threshold: float) -> np.ndarray:
        """Indices [n, 2] of known texts and of others whose Jaccard similarity is at least `threshold`."""
        sizes = _sizes(sets)
        pairs = [np.zeros((0, 2), np.int64)]
        for left, right, common in self.common(sets):
            is_near = common >= threshold * (self.sizes[left] + sizes[right] - common)
            pairs.append(np.stack([left[is_near], right[is_near]], axis=1))
        return np.concatenate(pairs)


def _sizes(sets: Sets) -> np.ndarray:
    return np.array([len(shingle_set) for shingle_set in sets], np.int64)


def _joined(sets: Sets) -> np.ndarray:
    return np.concatenate([*sets, np.zeros(0, np.uint32)])


def near_pairs(left: Sequence[str], right: Sequence[str], threshold: float) -> np.ndarray:
    """Indices [n, 2] of texts of `left` and of `right` that are near duplicates of each other; chains do not count."""
    left_sets = [shingles(text) for text in left]
    right_sets = [shingles(text) for text in right]
    return Known(left_sets).pairs(right_sets, threshold)


def _bound(threshold: float) -> int:
    """The bound below which a share of 1 - `threshold` of all hashes lies, by their first 32 bits."""
    return int((1 - threshold) * 2**32)


def prefix(shingle_set: np.ndarray, threshold: float) -> np.ndarray:
    """The first shingles of a set, so many that two near duplicates share one of them; uint32 [prefix].

    A share of at least `threshold` of each set is common to both, so not all of these can be among the rest (Chaudhuri
    et al. 2006). If more shingles are below `_bound`, all of those.
    """
    count = len(shingle_set) - int(threshold * len(shingle_set)) + 1
    below = np.searchsorted(shingle_set, np.uint64(_bound(threshold) << 32))
    return (shingle_set[: max(count, below)] >> np.uint64(32)).astype(np.uint32)


class Prefixes:
    """Texts to compare others with by prefixes of their sets: it finds candidates for `Known`."""

    def __init__(self, sets: Sets, threshold: float) -> None:
        self.threshold = threshold
        prefixes = [prefix(shingle_set, threshold) for shingle_set in sets]
        self.sizes = _sizes(sets)
        self.known = Known(prefixes)
        self.above = self._above(self.sizes, prefixes)

    def _above(self, sizes: np.ndarray, prefixes: Sets) -> np.ndarray:
        """How many shingles of each set are above `_bound`."""
        below = [np.searchsorted(values, _bound(self.threshold)) for values in prefixes]
        return sizes - np.array(below, np.int64)

    def candidates(self, sizes: np.ndarray, prefixes: Sets) -> np.ndarray:
        """Indices [n, 2] of known texts and of others that may be near duplicates, by sizes of sets and prefixes.

        Besides the common part of the prefixes, all shingles above `_bound` may be common.
        """
        above = self._above(sizes, prefixes)
        pairs = [np.zeros((0, 2), np.int64)]
        for left, right, common in self.known.common(prefixes):
            most = common + np.minimum(self.above[left], above[right])
            may_be_near = most >= self.threshold * (self.sizes[left] + sizes[right] - most)
            pairs.append(np.stack([left[may_be_near], right[may_be_near]], axis=1))
        return np.concatenate(pairs)
