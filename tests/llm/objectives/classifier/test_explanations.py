import numpy as np
import pytest

from llm.objectives.classifier.explanations import in_words, moved_by

LABELS = ("billing", "press", "sales")


def by_words(texts: list[str]) -> np.ndarray:
    """Probabilities of LABELS: each grows with how often the text has its name."""
    odds = 1.0 + np.array([[text.count(label) for label in LABELS] for text in texts])
    return odds / odds.sum(axis=1, keepdims=True)


def test_phrases_have_the_label_that_loses_most_without_them_the_strongest_first():
    text = f"one two\nthree press four a b c d e sales sales {'sales' * 30} 4 5"
    strong, weak = moved_by(by_words, LABELS, text)
    assert (weak.text, weak.label) == ("one two three press four", "press")
    assert (strong.text, strong.label) == (f"sales sales {'sales' * 30} 4 5", "sales")
    # the odds of sales are 33 : 3 with all words, and 1 : 3 without the phrase
    assert strong.effect == pytest.approx(np.log(33 / 3) - np.log(1 / 3))
    assert in_words([strong]) == f"like sales: “{strong.text[:80]}”"
    assert moved_by(by_words, LABELS, " ") == []


def test_long_text_is_read_once_for_each_of_forty_phrases():
    read = []

    def by_recorded(texts: list[str]) -> np.ndarray:
        read.extend(texts)
        return by_words(texts)

    moved_by(by_recorded, LABELS, " ".join(f"w{n}" for n in range(1000)))
    assert len(read) == 41
