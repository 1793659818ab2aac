"""What counting alone predicts: n-grams with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998).

The probability of a token after its last n-1 is its count there, less a discount, plus a share of what the model of
n-1 says; the share is what the discounts left over. Below the highest order a token counts once for each different
token that it came after: "Francisco" is frequent, but after "San" alone, so that after another word it is unlikely.
"""

from dataclasses import dataclass

import numpy as np

ORDER = 5
"""Tokens of the longest n-grams: of two to five the best on the validation split of the default corpus."""
FALLBACK = (0.5, 1.0, 1.5)  # discounts where too little was counted to estimate them


def discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from a count of 0, 1, 2 and of 3 or more: float64, 4.

    Estimated from how many n-grams were counted 1 to 4 times (Chen and Goodman 1998, equation 26), and FALLBACK where
    one of these numbers is 0 or gives a discount that is no part of the count.
    """
    _, n1, n2, n3, n4 = np.bincount(counts[counts <= 4], minlength=5).astype(float).tolist()
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        estimates = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= discount <= times for times, discount in enumerate(estimates, 1)):
            return np.array([0.0, *estimates])
    return np.array([0.0, *FALLBACK])


@dataclass(frozen=True)
class Level:
    """The n-grams of one order. Each is a number: the place of its first n-1 tokens among the n-grams of the order
    below, times the size of the vocabulary, plus its last token."""

    grams: np.ndarray
    """Those of the training text, sorted, int64."""
    own: np.ndarray
    """The part of the probability of each that comes from its own count, float64."""
    contexts: np.ndarray
    """The places of what is before their last tokens, sorted, int64."""
    left: np.ndarray
    """The share that each leaves to the lower order, float64."""


def _level(grams: np.ndarray, counts: np.ndarray, vocabulary_size: int) -> Level:
    """The level of n-grams with their counts, of which some may be 0."""
    counted, own = counts > 0, np.zeros(len(grams))
    counts = counts[counted]
    discounted = discounts(counts)[np.minimum(counts, 3)]
    contexts, first = np.unique(grams[counted] // vocabulary_size, return_index=True)
    totals = np.add.reduceat(counts, first).astype(np.float64)
    own[counted] = (counts - discounted) / np.repeat(totals, np.diff([*first, len(counts)]))
    left = np.add.reduceat(discounted, first) / totals
    return Level(grams=grams, own=own, contexts=contexts, left=left)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, *, missing: float) -> np.ndarray:
    """The value of each wanted key; `missing` for one that is not among the sorted keys."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], missing)


@dataclass(frozen=True)
class KneserNey:
    """Modified Kneser-Ney over the token ids 0 to `vocabulary_size` - 1; its longest n-grams have as many tokens as it
    has levels."""

    vocabulary_size: int
    levels: tuple[Level, ...]

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """That of each token after those before it, float64; what is before the first is taken to be like it."""
        tokens = np.concatenate([np.full(len(self.levels) - 1, tokens[0]), tokens]).astype(np.int64)
        probabilities = np.full(len(tokens) + 1, 1 / self.vocabulary_size)
        places = np.zeros(len(tokens) + 1, np.int64)
        for length, level in enumerate(self.levels):
            grams = places[:-1] * self.vocabulary_size + tokens[length:]
            left = _look_up(level.contexts, level.left, places[:-1], missing=1.0)
            own = _look_up(level.grams, level.own, grams, missing=0.0)
            probabilities = own + left * probabilities[1:]
            places = _look_up(level.grams, np.arange(len(level.grams)), grams, missing=-1)
        return probabilities


def count_ngrams(tokens: np.ndarray, vocabulary_size: int, order: int = ORDER) -> KneserNey:
    """The n-grams of a text, of `order` tokens at most, counted in about 200 bytes a token."""
    tokens = tokens.astype(np.int64)
    levels: list[Level] = []
    grams, places, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    for length in range(1, min(order, len(tokens))):
        longer, first, its_places, its_counts = np.unique(
            places[:-1] * vocabulary_size + tokens[length:], return_index=True, return_inverse=True, return_counts=True
        )
        before = np.bincount(places[first + 1], minlength=len(grams))  # different tokens before each n-gram
        levels.append(_level(grams, before, vocabulary_size))
        grams, places, counts = longer, its_places, its_counts
    return KneserNey(vocabulary_size, (*levels, _level(grams, counts, vocabulary_size)))
