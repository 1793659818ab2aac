import pytest
from paraphrases import BOUND, paraphrases

TESTED = ["What do caterpillars turn into?", "How do I crack a nut without a nutcracker?"]
LEARNED = ["Can I crack a walnut without a nutcracker?", "what do caterpillars turn into", "Why is the sea salty?"]


def test_paraphrases_are_found_without_six_words_in_a_row():
    pairs = paraphrases(TESTED, LEARNED)
    assert [pair[:2] for pair in pairs] == [(0, 1), (1, 0)]
    assert pairs[0].similarity == pytest.approx(1)
    assert BOUND <= pairs[1].similarity < 0.9
