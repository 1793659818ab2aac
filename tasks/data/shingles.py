"""Texts as sets of word 3-shingles.

numpy finds words in code points, and a set is an array of 64-bit hashes, so that no text becomes a list of words.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache

import numpy as np

MARKS = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026"  # dashes, quotes, an ellipsis
FIRST = np.uint64(0x9E3779B97F4A7C15)  # odd factors
SECOND = np.uint64(0xC2B2AE3D27D4EB4F)
BASE = np.uint64(0x165667B19E3779F9)


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


def mixed(hashes: np.ndarray) -> np.ndarray:
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
    return mixed(np.add.reduceat(values * powers[: len(values)], starts) * inverse[starts])


def shingles(text: str) -> np.ndarray:
    """The set of a text's word 3-shingles, without case and punctuation, uint64, sorted.

    A text of fewer than three words is a single shingle.
    """
    words = _words(text)
    if len(words) < 3:
        return mixed(words[:1] * FIRST + words[-1:] + np.uint64(len(words)))
    hashes = np.sort(mixed((words[:-2] * FIRST + words[1:-1]) * SECOND + words[2:]))
    return hashes[np.append(hashes[:-1] != hashes[1:], True)]  # np.unique hashes before it sorts, which is slower


def whole(sets: Iterable[np.ndarray]) -> np.ndarray:
    """A hash of each whole set, uint64 [texts]."""
    hashes = [shingle_set.sum(dtype=np.uint64) + np.uint64(len(shingle_set)) for shingle_set in sets]
    return mixed(np.array(hashes, np.uint64))


def text_hashes(texts: Iterable[str]) -> np.ndarray:
    """A hash of each text, without case and punctuation, uint64 [texts]."""
    return whole(shingles(text) for text in texts)


def uniform(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Pseudo-random numbers between 0 and 1 from hashes and a seed, float64 [hashes]."""
    return mixed(hashes ^ mixed(np.array([seed], np.uint64))) / 2.0**64
