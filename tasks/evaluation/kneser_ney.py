"""What counting alone predicts: n-grams with interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998).

The probability of a token after its last n-1 is its count there, less a discount, plus a share of what the model of
n-1 says; the share is what the discounts left over. Below the highest order a token counts once for each different
token that it came after: "Francisco" is frequent, but after "San" alone, so that after another word it is unlikely.
"""

from dataclasses import dataclass

import numpy as np

from llm.errors import UserError

FALLBACK = (0.5, 1.0, 1.5)  # discounts where too little was counted to estimate them


def discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from a count of 0, 1, 2 and of 3 or more: float64, 4.

    Estimated from how many n-grams were counted 1 to 4 times (Chen and Goodman 1998, equation 26), and FALLBACK where
    one of these numbers is 0 or gives a discount that is no part of the count.
    """
    n1, n2, n3, n4 = (float((counts == times).sum()) for times in range(1, 5))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 <= discount <= times for times, discount in enumerate(found, 1)):
            return np.array([0.0, *found])
    return np.array([0.0, *FALLBACK])


@dataclass(frozen=True)
class Level:
    """The n-grams of one order, as sorted numbers: two parallel arrays for the tokens, two for what is before them."""

    grams: np.ndarray
    """The n-grams that were counted, int64."""
    own: np.ndarray
    """The part of the probability of each that comes from its own count, float64."""
    contexts: np.ndarray
    """The first n-1 tokens of those, int64."""
    rest: np.ndarray
    """The share that each leaves to the lower order, float64."""


def _level(grams: np.ndarray, counts: np.ndarray, vocabulary_size: int) -> Level:
    taken = discounts(counts)[np.minimum(counts, 3)]
    contexts, first = np.unique(grams // vocabulary_size, return_index=True)
    totals = np.add.reduceat(counts, first).astype(np.float64)
    of_context = np.repeat(np.arange(len(contexts)), np.diff([*first, len(grams)]))
    return Level(grams, (counts - taken) / totals[of_context], contexts, np.add.reduceat(taken, first) / totals)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, missing: float) -> np.ndarray:
    """The value of each wanted key; `missing` for one that is not among the sorted keys."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], missing)


class KneserNey:
    """Modified Kneser-Ney of some order over the token ids 0 to `vocabulary_size` - 1.

    An n-gram is one number, its tokens the digits in base `vocabulary_size`: the last n-1 are the remainder, the first
    n-1 the quotient. Takes about 200 bytes a training token while it counts. Raises UserError for fewer tokens than
    the order, and for a vocabulary whose n-grams are no 64-bit numbers.
    """

    def __init__(self, tokens: np.ndarray, vocabulary_size: int, order: int = 3) -> None:
        if len(tokens) < order:
            raise UserError(f"{len(tokens)} tokens are fewer than one n-gram of {order}")
        if vocabulary_size**order >= 2**63:
            raise UserError(f"n-grams of {order} from {vocabulary_size} tokens do not fit 64 bits; take a lower order")
        self.vocabulary_size, self.order = vocabulary_size, order
        self.levels: list[Level] = []
        grams, counts = np.unique(self._grams(tokens, order), return_counts=True)
        for length in range(order, 0, -1):
            self.levels.insert(0, _level(grams, counts, vocabulary_size))
            grams, counts = np.unique(grams % vocabulary_size ** (length - 1), return_counts=True)

    def _grams(self, tokens: np.ndarray, length: int) -> np.ndarray:
        """Every run of `length` tokens as a number, int64."""
        tokens, number = tokens.astype(np.int64), np.zeros(len(tokens) - length + 1, np.int64)
        for place in range(length):
            number = number * self.vocabulary_size + tokens[place : place + len(number)]
        return number

    def probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """That of each token after those before it, float64: one fewer than order - 1 of them have none."""
        found = np.full(len(tokens) - self.order + 1, 1 / self.vocabulary_size)
        for length, level in enumerate(self.levels, 1):
            grams = self._grams(tokens[self.order - length :], length)
            left = _look_up(level.contexts, level.rest, grams // self.vocabulary_size, 1.0)
            found = _look_up(level.grams, level.own, grams, 0.0) + left * found
        return found
