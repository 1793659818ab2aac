"""The exact Jaccard similarity of texts, by their sets of shingles."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from tasks.data.shingles import Sets, shingles

BLOCK = 1024  # rows at a time, which bounds the memory


def same(left: np.ndarray, right: np.ndarray, threshold: float) -> bool:
    """Whether the Jaccard similarity of two sets is at least `threshold`."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common >= threshold * (len(left) + len(right) - common)


class ShingleMatrix:
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
        for start in range(0, len(self.sizes), BLOCK):
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
    return ShingleMatrix(left_sets).pairs(right_sets, threshold)
