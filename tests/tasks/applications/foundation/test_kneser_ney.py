from collections import Counter
from functools import cache

import numpy as np
import pytest

from tasks.applications.foundation.kneser_ney import FALLBACK, KneserNey, discounts, models

SIZE = 7
TOKENS = np.random.default_rng(1).zipf(1.6, 400) % SIZE


def counted(tokens: np.ndarray, vocabulary_size: int, order: int) -> KneserNey:
    return next(model for model in models(tokens, vocabulary_size) if model.order == order)


def counts_of_counts(counted: Counter) -> list[int]:
    """How many n-grams were counted once, twice, three and four times."""
    times = Counter(counted.values())
    return [times[number] for number in (1, 2, 3, 4)]


def brute_force(tokens: list[int], gram: tuple[int, ...], order: int) -> float:
    """The textbook's recursion, with no array: the probability of the last token of `gram` after the others."""

    def grams(length: int) -> list[tuple[int, ...]]:
        return [tuple(tokens[first : first + length]) for first in range(len(tokens) - length + 1)]

    @cache
    def counts(length: int) -> Counter:
        if length == order:
            return Counter(grams(length))
        return Counter(longer[1:] for longer in set(grams(length + 1)))  # once for each different token before it

    def probability(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / SIZE
        counted = counts(len(gram))
        n1, n2, n3, n4 = counts_of_counts(counted)
        if min(n1, n2, n3, n4) == 0:
            discount = [0, *FALLBACK]
        else:
            y = n1 / (n1 + 2 * n2)
            discount = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        beside = [count for neighbour, count in counted.items() if neighbour[:-1] == gram[:-1]]
        lower = probability(gram[1:])
        if not beside:
            return lower
        own = counted[gram] - discount[min(counted[gram], 3)]
        return (own + sum(discount[min(count, 3)] for count in beside) * lower) / sum(beside)

    return probability(gram)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_are_those_of_the_recursion_by_hand(order):
    model = counted(TOKENS, SIZE, order)
    text = np.random.default_rng(2).integers(0, SIZE, 40)
    expected = [brute_force(TOKENS.tolist(), tuple(text[i : i + order].tolist()), order) for i in range(41 - order)]
    assert model.probabilities(text) == pytest.approx(expected, rel=1e-12)
    assert len(set(TOKENS.tolist())) == SIZE


def test_discounts_are_estimated_from_how_many_were_counted_once_to_four_times():
    counts = np.repeat([1, 2, 3, 4], [8, 4, 3, 2])
    assert discounts(counts) == pytest.approx([0.0, 0.5, 2 - 3 * 0.5 * 3 / 4, 3 - 4 * 0.5 * 2 / 3])


def test_n_grams_of_any_order_and_vocabulary_are_counted():
    tokens = np.tile([199_999, 5, 199_998, 7, 3, 199_999, 5, 199_998, 7, 4], 40)
    probabilities = counted(tokens, 200_000, 5).probabilities(np.array([199_999, 5, 199_998, 7, 3]))
    assert probabilities == pytest.approx([0.5], abs=0.05)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_probabilities_after_any_tokens_sum_to_one(order):
    model = counted(TOKENS[TOKENS != 3], SIZE, order)  # 3 was never seen, and has a probability all the same
    contexts = np.random.default_rng(3).integers(0, SIZE, (20, order - 1))
    for context in contexts:
        probabilities = [model.probabilities(np.array([*context, token]))[0] for token in range(SIZE)]
        assert sum(probabilities) == pytest.approx(1, rel=1e-12)
        assert min(probabilities) > 0


def test_discounts_are_fixed_where_too_little_was_counted():
    assert discounts(np.array([1, 1, 5])).tolist() == [0.0, *FALLBACK]
    assert counted(np.array([0, 1, 2]), 3, 3).probabilities(np.array([0, 1, 2]))[0] > 0.5


def test_order_is_never_longer_than_the_text():
    assert [model.order for model in models(np.array([0, 1, 0]), 3)] == [1, 2, 3]
