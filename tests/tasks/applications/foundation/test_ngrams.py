from collections import Counter
from functools import cache

import numpy as np
import pytest

from tasks.applications.foundation.ngrams import FALLBACK, count_ngrams

SIZE = 7
TOKENS = np.random.default_rng(1).zipf(1.6, 400) % SIZE


def counts_of_counts(counted):
    """How many n-grams were counted once, twice, three and four times."""
    times = Counter(counted.values())
    return [times[number] for number in (1, 2, 3, 4)]


def brute_force(tokens, gram, order):
    """The textbook's recursion, with no array: the probability of the last token of `gram` after the others."""

    def grams(length):
        return [tuple(tokens[first : first + length]) for first in range(len(tokens) - length + 1)]

    @cache
    def counts(length):
        if length == order:
            return Counter(grams(length))
        return Counter(longer[1:] for longer in set(grams(length + 1)))  # once for each different token before it

    def probability(gram):
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
    text = np.random.default_rng(2).integers(0, SIZE, 40)
    padded = [int(text[0])] * (order - 1) + text.tolist()
    expected = [brute_force(TOKENS.tolist(), tuple(padded[n : n + order]), order) for n in range(len(text))]
    assert count_ngrams(TOKENS, SIZE, order).probabilities(text) == pytest.approx(expected, rel=1e-12)
    assert len(set(TOKENS.tolist())) == SIZE


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_after_any_tokens_sum_to_one(order):
    model = count_ngrams(TOKENS[TOKENS != 3], SIZE, order)  # 3 was never seen, and has a probability all the same
    contexts = np.random.default_rng(3).integers(0, SIZE, (20, order))
    for context in contexts:
        probabilities = [model.probabilities(np.array([*context, token]))[-1] for token in range(SIZE)]
        assert sum(probabilities) == pytest.approx(1, rel=1e-12)
        assert min(probabilities) > 0


def test_n_grams_of_a_large_vocabulary_are_counted():
    tokens = np.tile([199_999, 5, 199_998, 7, 3, 199_999, 5, 199_998, 7, 4], 40)
    probabilities = count_ngrams(tokens, 200_000).probabilities(np.array([199_999, 5, 199_998, 7, 3]))
    assert probabilities[-1] == pytest.approx(0.5, abs=0.05)
