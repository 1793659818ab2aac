import numpy as np
import pytest

from tasks.applications.foundation.cache import (
    STRENGTHS,
    add_cache,
    best_strengths,
    count_orders,
    document_numbers,
)

END, SIZE = 4, 5
TOKENS = np.random.default_rng(1).integers(0, SIZE, 120)


def brute_force(tokens: list[int], number: int, strengths: list[float | None]) -> float:
    """The probability of a token by the recursion, which looks at what its document said before it."""
    begin = max((n + 1 for n in range(number) if tokens[n] == END), default=0)
    probability = 1 / SIZE
    for order, strength in enumerate(strengths, 1):
        context = tokens[number - order + 1 : number]
        if strength is None or number - order + 1 < begin:
            continue
        earlier = [n for n in range(begin + order - 1, number) if tokens[n - order + 1 : n] == context]
        count = sum(tokens[n] == tokens[number] for n in earlier)
        probability = (count + strength * probability) / (len(earlier) + strength)
    return probability


@pytest.mark.parametrize("strengths", [[2.0], [None, 3.0], [4.0, 1.0, 0.5], [8.0, None, 2.0, 1.0]])
def test_cache_has_the_probabilities_of_the_recursion_by_hand(strengths):
    counts = count_orders(TOKENS, END, len(strengths))
    probabilities = add_cache(np.full(len(TOKENS), 1 / SIZE), counts, strengths)
    expected = [brute_force(TOKENS.tolist(), number, strengths) for number in range(len(TOKENS))]
    assert probabilities == pytest.approx(expected, rel=1e-12)


def test_cache_probabilities_of_all_next_tokens_sum_to_one():
    probabilities = []
    for token in range(SIZE):
        text = np.array([*TOKENS[:60], token])
        cached = add_cache(np.full(61, 1 / SIZE), count_orders(text, END, 4), [3.0, 2.0, 1.0, 1.0])
        probabilities.append(cached[-1])
    assert sum(probabilities) == pytest.approx(1, rel=1e-12)


def test_document_ends_with_its_end_token():
    assert document_numbers(np.array([1, END, END, 2, 3]), END).tolist() == [0, 0, 1, 2, 2]


def test_strengths_keep_what_helps_and_leave_out_what_does_not():
    uniform = np.full(600, 1 / SIZE)
    repeats = np.resize([0, 1, 2, 3, 0, 2, 1], 600)
    first, second = best_strengths(uniform, count_orders(repeats, END, 2))
    assert first != second == STRENGTHS[0]  # the last token says nearly all about the next
    noise = np.random.default_rng(2).integers(0, 4, 600)
    sure = np.where(noise >= 0, 1 / 4, 0)  # what is known of it already
    assert best_strengths(sure, count_orders(noise, END, 2))[1] in (None, STRENGTHS[-1])
