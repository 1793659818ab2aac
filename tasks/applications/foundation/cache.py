"""N-grams that learn as they read: what a document has said so far is likely to come again (Kuhn and De Mori 1990).

The longer a context, the fewer of its tokens a document has shown. So each order starts from the probability of the
order below, as if that had been counted `strength` times (MacKay and Peto 1995):
p = (count + strength p_below) / (seen + strength). Below the first order stands a model that was counted on other text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STRENGTHS = tuple(2.0**exponent for exponent in range(16))


@dataclass(frozen=True)
class Order:
    """Counts of one order in the document before each of N tokens, int64."""

    seen: np.ndarray
    """How often the context of the token, the `order - 1` tokens before it, occurred earlier."""
    count: np.ndarray
    """How often the token itself followed that context."""


def _earlier(keys: np.ndarray) -> np.ndarray:
    """How often the value of each key stands at earlier positions, int64 N."""
    order = np.argsort(keys, kind="stable")
    is_new = np.diff(keys[order], prepend=keys[order[0]] - 1) != 0
    first = np.maximum.accumulate(np.where(is_new, np.arange(len(keys)), 0))
    count = np.empty(len(keys), np.int64)
    count[order] = np.arange(len(keys)) - first
    return count


def document_numbers(tokens: np.ndarray, end: int) -> np.ndarray:
    """The number of the document of each token, from 0, int64 N; the token `end` is the last of its document."""
    return np.concatenate([[0], np.cumsum(tokens[:-1] == end)])


def count_orders(tokens: np.ndarray, end: int, orders: int) -> list[Order]:
    """The counts of orders 1 to `orders` before each token, in its own document alone."""
    tokens = tokens.astype(np.int64)
    contexts = document = document_numbers(tokens, end)
    starts = np.flatnonzero(np.diff(document, prepend=-1))
    counts = []
    for _ in range(orders):
        grams = np.unique(contexts * (tokens.max() + 1) + tokens, return_inverse=True)[1]
        counts.append(Order(seen=_earlier(contexts), count=_earlier(grams)))
        longer = np.roll(grams, 1)
        longer[starts] = len(tokens) + starts  # a document begins without a context: numbers that no n-gram has
        contexts = np.unique(longer, return_inverse=True)[1]
    return counts


def add_cache(probabilities: np.ndarray, counts: Sequence[Order], strengths: Sequence[float | None]) -> np.ndarray:
    """The probability of each token when a model's are mixed with the counts; an order without strength is left out."""
    for order, strength in zip(counts, strengths, strict=True):
        if strength is not None:
            probabilities = (order.count + strength * probabilities) / (order.seen + strength)
    return probabilities


def best_strengths(probabilities: np.ndarray, counts: Sequence[Order]) -> list[float | None]:
    """The strength of each order with which tokens of a model's `probabilities` are likeliest, chosen from STRENGTHS.

    The orders are chosen from the first; one that does not help at any strength gets None.
    """
    strengths: list[float | None] = []
    for number in range(len(counts)):
        choices: list[float | None] = [None, *STRENGTHS]
        mixtures = [add_cache(probabilities, counts[: number + 1], [*strengths, choice]) for choice in choices]
        bits = [-np.log2(mixture).sum() for mixture in mixtures]
        strengths.append(choices[int(np.argmin(bits))])
    return strengths
