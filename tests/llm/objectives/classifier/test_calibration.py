import numpy as np
import pytest
import torch

from llm.objectives.classifier.calibration import UnsureRates, best_threshold, fit_scale, unsure_bounds


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.0, 0.85), (0.25, 0.6), (0.5, 0.45), (1.0, 0.05)],
)
def test_threshold_is_the_lowest_that_keeps_the_budget_of_false_positives(rate, expected):
    probability = np.array([0.9, 0.3, 0.8, 0.5, 0.4, 0.1, 0.7])
    wanted = np.array([True, True, False, False, False, False, True])
    assert best_threshold(probability, wanted, rate) == pytest.approx(expected)


def test_threshold_keeps_its_budget_among_probabilities_of_one_and_near_ties():
    for high in (1.0, np.nextafter(1.0, 0), 0.5):
        probability = np.array([high, high, np.nextafter(high, 1), 0.2])
        wanted = np.array([False, True, True, True])
        threshold = best_threshold(probability, wanted, 0.0)
        assert not (probability > threshold)[~wanted].any()
        assert (probability > threshold)[2] == (high < 1)
    assert best_threshold(np.array([0.3, 0.9]), np.array([True, True]), 0.1) == 0.5


def test_scale_puts_right_logits_that_are_too_sure_and_lean_to_a_label():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20_000, 3, generator=generator) * 2
    true_logits = 0.5 * logits + torch.tensor([0.0, 0.4, -0.4])
    labels = torch.multinomial(true_logits.softmax(dim=-1), 1, generator=generator)[:, 0]
    scale, bias = fit_scale(logits, labels)
    assert scale == pytest.approx(0.5, rel=0.05)
    assert bias[1] - bias[2] == pytest.approx(0.8, abs=0.1)


def test_scale_is_finite_for_few_texts_that_are_told_apart_without_error():
    logits = torch.tensor([[5.0, -5.0], [-5.0, 5.0]])
    scale, bias = fit_scale(logits, torch.tensor([0, 1]))
    assert 0.5 < scale < 3
    assert bias == pytest.approx([0.0, 0.0], abs=1e-6)


PROBABILITY = np.array([0.05, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9])
IS_SPAM = np.array([False, False, True, False, True, False, True, True])


@pytest.mark.parametrize(
    ("rate", "threshold", "expected"),
    [(0.0, 0.5, (0.15, 0.75)), (0.25, 0.5, (0.45, 0.5)), (0.25, 0.95, (0.45, 0.95))],
)
def test_unsure_bounds_keep_budgets_of_errors_and_have_the_threshold_between_them(rate, threshold, expected):
    rates = UnsureRates(false_positive_rate=rate, false_negative_rate=rate)
    assert unsure_bounds(PROBABILITY, IS_SPAM, threshold=threshold, rates=rates) == pytest.approx(expected)
