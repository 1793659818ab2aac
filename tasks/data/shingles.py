"""Texts as sets of word 3-shingles, and MinHash to find those that are nearly the same (Broder 1997).

rensa computes the MinHashes; texts that share some are compared exactly. numpy finds words in code points, and a set is
an array of 64-bit hashes, so that no text becomes a list of words.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
from rensa import RMinHash
from scipy.sparse import csr_array

PERMUTATIONS = 128
MISSED = 1e-6  # chance that the bands miss two texts whose similarity is just the threshold
SEED = 1  # of MinHash
BLOCK = 1024  # rows at a time, which bounds the memory
HELD = 2**22  # shingles of the texts whose similarity is computed at a time
REACH = (
    1_000  # later rows with the same band that a row is compared with: comparing all pairs of thousands would never end
)
REMEMBERED = 2**24  # pairs known to differ
MARKS = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"  # dashes, quotes, an ellipsis
ODD, OTHER, BASE = (np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))

Sets = Sequence[np.ndarray]
"""For each text its shingles, uint64, sorted."""


@cache
def _values() -> np.ndarray:
    """The value of each code point in a word's hash, 0 if it belongs to no word (by `\\w`); uint64 [code points]."""
    points = np.arange(0x110000, dtype="<u4")
    values = np.zeros(len(points), np.uint64)
    for letters in re.finditer(r"\w+", points.tobytes().decode("utf-32-le", "surrogatepass")):
        values[letters.start() : letters.end()] = points[letters.start() : letters.end()] + np.uint64(1)
    return values


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE to the powers 1, 2, …, and its inverse to the powers 0, 1, …; uint64 [count]."""
    inverse = np.full(count, pow(int(BASE), -1, 2**64), np.uint64)
    inverse[0] = 1
    return np.cumprod(np.full(count, BASE)), np.cumprod(inverse)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Mix a hash so that each bit depends on all (the finaliser of SplitMix64, Steele et al. 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _lower(text: str) -> str:
    """The text in lower case, as ASCII if spaces can replace its other characters: that takes a quarter of the
    memory."""
    plain = text
    for mark in "" if text.isascii() else MARKS:
        plain = plain.replace(mark, " ")
    return (plain if plain.isascii() else text).lower()


def _points(lower: str) -> np.ndarray:
    if lower.isascii():
        return np.frombuffer(lower.encode(), np.uint8)
    return np.frombuffer(lower.encode("utf-32-le", "surrogatepass"), "<u4")


def _words(text: str) -> np.ndarray:
    """A hash of each word in lower case, uint64 [words]; for a text without words, one hash of the whole text."""
    points = _points(_lower(text))
    values = _values()[points]
    if not values.any():
        values = np.append(_points(text.lower()), np.uint64(0x110000)) + np.uint64(1)
    inside = values != 0
    starts = np.flatnonzero(inside & ~np.concatenate([[False], inside[:-1]]))
    powers, inverse = _powers(max(2**16, 1 << len(values).bit_length()))
    # Weight each letter by a power of its position in the text, and divide by the power of the word's start.
    return _mixed(np.add.reduceat(values * powers[: len(values)], starts) * inverse[starts])


def shingles(text: str) -> np.ndarray:
    """The set of a text's word 3-shingles, without case and punctuation, uint64, sorted.

    A text of fewer than three words is a single shingle.
    """
    words = _words(text)
    if len(words) < 3:
        return _mixed(words[:1] * ODD + words[-1:] + np.uint64(len(words)))
    found = np.sort(_mixed((words[:-2] * ODD + words[1:-1]) * OTHER + words[2:]))
    return found[np.append(found[:-1] != found[1:], True)]  # np.unique hashes before it sorts, which is slower


def whole(sets: Sets) -> np.ndarray:
    """A hash of each whole set, uint64 [texts]."""
    return _mixed(np.array([each.sum(dtype=np.uint64) + np.uint64(len(each)) for each in sets], np.uint64))


def text_hashes(texts: Iterable[str]) -> np.ndarray:
    """A hash of each text, without case and punctuation, uint64 [texts]."""
    return whole([shingles(text) for text in texts])


def uniform(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Pseudo-random numbers between 0 and 1 from hashes and a seed, float64 [hashes]."""
    return _mixed(hashes ^ _mixed(np.array([seed], np.uint64))) / 2.0**64


def band_shape(threshold: float) -> tuple[int, int]:
    """The number of bands and of MinHashes a band: the longest bands, with the fewest false candidates, that miss at
    most MISSED."""
    rows = max(r for r in range(1, 17) if r == 1 or (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED)
    return PERMUTATIONS // rows, rows


def bands(sets: Sets, threshold: float) -> np.ndarray:
    """A hash of each band of each text's MinHashes; uint64 [bands, texts]. Similar texts share at least one."""
    count, rows = band_shape(threshold)
    found = np.zeros((count, len(sets)), np.uint64)
    for begin in range(0, len(sets), BLOCK):
        some = sets[begin : begin + BLOCK]
        ends = np.cumsum([0, *map(len, some)], dtype=np.uint64)
        hashes = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(some), ends, count * rows, SEED).to_rows()
        least = np.array(hashes, np.uint64).T
        folded = found[:, begin : begin + len(some)]
        for row in range(rows):
            folded[:] = (folded + least[row::rows]) * ODD
    return _mixed(found)


def same(left: np.ndarray, right: np.ndarray, threshold: float) -> bool:
    """Whether the Jaccard similarity of two sets is at least `threshold`."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common >= threshold * (len(left) + len(right) - common)


class _Groups:
    """Groups of rows (a disjoint-set forest); a group is named by its first row."""

    def __init__(self, rows: int) -> None:
        self.first = np.arange(rows)

    def join(self, pairs: np.ndarray) -> None:
        """Merge the groups of the rows in these pairs [n, 2]."""
        for one, other in pairs.tolist():
            ends = []
            for row in (one, other):
                while self.first[row] != row:
                    row = self.first[row]
                ends.append(row)
            self.first[max(ends)] = min(ends)
        while not np.array_equal(self.first, shorter := self.first[self.first]):
            self.first = shorter


def _neighbours(rows: np.ndarray, band: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs [n, 2] of rows with the same hash in a band: first each row with the next, then with the one after it, and
    so on."""
    order = np.argsort(band[rows], kind="stable")
    rows = rows[order]
    values, place = band[rows], np.arange(len(rows))
    for distance in range(1, min(REACH, len(rows) - 1) + 1):
        place = place[place < len(rows) - distance]
        place = place[values[place] == values[place + distance]]
        if not len(place):
            return
        yield np.stack([rows[place], rows[place + distance]], axis=1)


def first_of_groups(
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
    groups = _Groups(len(equal))
    order = np.argsort(equal, kind="stable")
    begins = np.diff(equal[order], prepend=~equal[order[:1]]) != 0
    groups.first[order] = order[begins][np.cumsum(begins) - 1]
    rows, different = np.flatnonzero(groups.first == np.arange(len(equal))), np.zeros(0, np.uint64)
    for band in bands:
        more = [different]  # a pair comes once in a band
        for pairs in _neighbours(rows, band):
            size = sizes[pairs]
            pairs = pairs[
                (groups.first[pairs[:, 0]] != groups.first[pairs[:, 1]])
                & (size.min(axis=1) >= threshold * size.max(axis=1))
            ]
            keys = pairs[:, 0].astype(np.uint64) << np.uint64(32) | pairs[:, 1].astype(np.uint64)
            new = np.searchsorted(different, keys) == np.searchsorted(different, keys, side="right")
            pairs, keys = pairs[new], keys[new]
            block = np.cumsum(sizes[pairs].sum(axis=1)) // HELD
            for number in np.unique(block):
                chosen = pairs[block == number]
                known = np.unique(chosen)
                held = dict(zip(known.tolist(), sets(known), strict=True))
                near = np.array([same(held[one], held[other], threshold) for one, other in chosen.tolist()], bool)
                groups.join(chosen[near])
                more.append(keys[block == number][~near])
            if sum(map(len, more)) > REMEMBERED:
                more = [np.zeros(0, np.uint64)]  # compared again, which only takes time
        different = np.sort(np.concatenate(more))
    return groups.first


class Known:
    """Texts to compare others with: every text with every other one."""

    def __init__(self, sets: Sets) -> None:
        self.sizes = np.array([len(each) for each in sets], np.int64)
        self.vocabulary = np.unique(np.concatenate([*sets, np.zeros(0, np.uint32)]))
        self.matrix = self._matrix(sets)

    def _matrix(self, sets: Sets) -> csr_array:
        """A matrix of texts (rows) by known shingles (columns)."""
        found = np.concatenate([*sets, np.zeros(0, np.uint32)])
        ends, size = np.cumsum([0, *map(len, sets)]), len(self.vocabulary)
        place = np.searchsorted(self.vocabulary, found)
        has = self.vocabulary[np.minimum(place, size - 1)] == found if size else np.zeros(len(found), bool)
        columns, ends = place[has].astype(np.int32), np.append(0, np.cumsum(has))[ends]
        return csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(sets), size))

    def common(self, sets: Sets) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Indices of known texts and of others that share shingles, and how many they share."""
        others = self._matrix(sets).T.tocsr()
        for start in range(0, self.matrix.shape[0], BLOCK):
            found = (self.matrix[start : start + BLOCK] @ others).tocoo()
            yield found.row.astype(np.int64) + start, found.col.astype(np.int64), found.data

    def pairs(self, sets: Sets, threshold: float) -> np.ndarray:
        """Indices [n, 2] of known texts and of others whose Jaccard similarity is at least `threshold`."""
        sizes, found = np.array([len(each) for each in sets], np.int64), [np.zeros((0, 2), np.int64)]
        for left, right, common in self.common(sets):
            near = common >= threshold * (self.sizes[left] + sizes[right] - common)
            found.append(np.stack([left[near], right[near]], axis=1))
        return np.concatenate(found)


def near_pairs(left: Sequence[str], right: Sequence[str], threshold: float) -> np.ndarray:
    """Indices [n, 2] of texts of `left` and of `right` that are near duplicates of each other; chains do not count."""
    left_sets = [shingles(text) for text in left]
    right_sets = [shingles(text) for text in right]
    return Known(left_sets).pairs(right_sets, threshold)


def _bound(threshold: float) -> int:
    """The bound below which a share of 1 - `threshold` of all hashes lies, by their first 32 bits."""
    return int((1 - threshold) * 2**32)


def prefix(each: np.ndarray, threshold: float) -> np.ndarray:
    """The first shingles of a set, so many that two near duplicates share one of them; uint32 [prefix].

    A share of at least `threshold` of each set is common to both, so not all of these can be among the rest (Chaudhuri
    et al. 2006). If more shingles are below `_bound`, all of those.
    """
    count = len(each) - int(threshold * len(each)) + 1
    below = np.searchsorted(each, np.uint64(_bound(threshold) << 32))
    return (each[: max(count, below)] >> np.uint64(32)).astype(np.uint32)


class Prefixes:
    """Texts to compare others with by prefixes of their sets: it finds candidates for `Known`."""

    def __init__(self, sets: Sets, threshold: float) -> None:
        self.threshold = threshold
        prefixes = [prefix(each, threshold) for each in sets]
        self.sizes = np.array([len(each) for each in sets], np.int64)
        self.known, self.above = Known(prefixes), self.sizes - self._below(prefixes)

    def _below(self, prefixes: Sets) -> np.ndarray:
        return np.array([np.searchsorted(each, _bound(self.threshold)) for each in prefixes], np.int64)

    def candidates(self, sizes: np.ndarray, prefixes: Sets) -> np.ndarray:
        """Indices [n, 2] of known texts and of others that may be near duplicates, by sizes of sets and prefixes.

        Besides the common part of the prefixes, all shingles above `_bound` may be common.
        """
        above, found = sizes - self._below(prefixes), [np.zeros((0, 2), np.int64)]
        for left, right, common in self.known.common(prefixes):
            most = common + np.minimum(self.above[left], above[right])
            near = most >= self.threshold * (self.sizes[left] + sizes[right] - most)
            found.append(np.stack([left[near], right[near]], axis=1))
        return np.concatenate(found)
