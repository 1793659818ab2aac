from collections import Counter

import numpy as np
import pytest

from tasks.evaluation.kneser_ney import FALLBACK, KneserNey, discounts

SIZE = 7
TOKENS = np.random.default_rng(1).zipf(1.6, 400) % SIZE


def brute_force(tokens: list[int], gram: tuple[int, ...]) -> float:
    """The textbook's recursion, with no array: the probability of the last token of `gram` after the others."""

    def counts(length: int) -> Counter:
        if length == 3:
            return Counter(zip(tokens, tokens[1:], tokens[2:], strict=False))
        return Counter(longer[1:] for longer in counts(length + 1))  # once for each different token before it

    def probability(gram: tuple[int, ...]) -> float:
        if not gram:
            return 1 / SIZE
        counted = counts(len(gram))
        n1, n2, n3, n4 = (sum(count == times for count in counted.values()) for times in (1, 2, 3, 4))
        if min(n1, n2, n3, n4) == 0:
            taken = [0, *FALLBACK]
        else:
            y = n1 / (n1 + 2 * n2)
            taken = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        beside = [count for other, count in counted.items() if other[:-1] == gram[:-1]]
        lower = probability(gram[1:])
        if not beside:
            return lower
        own = counted[gram] - taken[min(counted[gram], 3)]
        return (own + sum(taken[min(count, 3)] for count in beside) * lower) / sum(beside)

    return probability(gram)


def test_probabilities_are_those_of_the_recursion_by_hand():
    model = KneserNey(TOKENS, SIZE)
    text = np.random.default_rng(2).integers(0, SIZE, 60)
    expected = [brute_force(TOKENS.tolist(), tuple(text[i : i + 3].tolist())) for i in range(58)]
    assert model.probabilities(text) == pytest.approx(expected, rel=1e-12)
    assert len(set(TOKENS.tolist())) == SIZE
    assert discounts(np.unique(model._grams(TOKENS, 3), return_counts=True)[1])[1] != FALLBACK[0]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_after_any_tokens_the_probabilities_sum_to_one(order):
    model = KneserNey(TOKENS[TOKENS != 3], SIZE, order)  # 3 was never seen, and has a probability all the same
    contexts = np.random.default_rng(3).integers(0, SIZE, (20, order - 1))
    for context in contexts:
        found = [model.probabilities(np.array([*context, token]))[0] for token in range(SIZE)]
        assert sum(found) == pytest.approx(1, rel=1e-12)
        assert min(found) > 0


def test_too_little_to_estimate_discounts_from_takes_fixed_ones():
    assert discounts(np.array([1, 1, 5])).tolist() == [0.0, *FALLBACK]
    assert KneserNey(np.array([0, 1, 2]), 3).probabilities(np.array([0, 1, 2]))[0] > 0.5


def test_what_can_not_be_counted_is_said():
    with pytest.raises(ValueError, match="2 tokens are fewer than one n-gram of 3"):
        KneserNey(np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="n-grams of 4 from 100000 tokens do not fit 64 bits"):
        KneserNey(np.arange(9), 100_000, 4)
