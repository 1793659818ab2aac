import numpy as np
import pytest
import torch
from torch.nn import functional as F

from llm.objectives.classifier.calibration import best_threshold, fit_mixture


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.0, 0.85), (0.25, 0.6), (0.5, 0.45), (1.0, 0.05)],
)
def test_the_threshold_is_the_lowest_that_keeps_the_budget_of_false_positives(rate, expected):
    probability = np.array([0.9, 0.3, 0.8, 0.5, 0.4, 0.1, 0.7])
    wanted = np.array([True, True, False, False, False, False, True])
    assert best_threshold(probability, wanted, rate) == pytest.approx(expected)


def test_a_threshold_keeps_its_budget_among_probabilities_of_one_and_near_ties():
    for high in (1.0, np.nextafter(1.0, 0), 0.5):
        probability = np.array([high, high, np.nextafter(high, 1), 0.2])
        wanted = np.array([False, True, True, True])
        threshold = best_threshold(probability, wanted, 0.0)
        assert not (probability > threshold)[~wanted].any()
        assert (probability > threshold)[2] == (high < 1)
    assert best_threshold(np.array([0.3, 0.9]), np.array([True, True]), 0.1) == 0.5


def test_a_mixture_has_the_weights_and_biases_that_made_the_labels():
    generator = torch.Generator().manual_seed(1)
    one, other, noise = (torch.randn(20_000, 3, generator=generator) * 2 for _ in range(3))
    made = 0.5 * one + 1.5 * other + torch.tensor([0.0, 0.4, -0.4])
    labels = torch.multinomial(made.softmax(dim=-1), 1, generator=generator)[:, 0]
    weights, bias = fit_mixture([one, other, noise], labels)
    assert weights[:2] == pytest.approx([0.5, 1.5], rel=0.05)
    assert weights[2] < 0.05
    assert bias[1] - bias[2] == pytest.approx(0.8, abs=0.1)


def test_the_weight_of_one_model_is_the_temperature_that_fits_best():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5_000, 2, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]
    (weight,), bias = fit_mixture([logits * 4], labels)
    assert weight == pytest.approx(0.25, rel=0.1)

    def loss(weight: float) -> float:
        return F.cross_entropy(logits.double() * 4 * weight + torch.tensor(bias), labels).item()

    assert loss(weight) <= min(loss(weight * 1.02), loss(weight / 1.02))


def test_few_texts_that_are_told_apart_without_error_give_finite_weights():
    logits = torch.tensor([[5.0, -5.0], [-5.0, 5.0]])
    (weight,), bias = fit_mixture([logits], torch.tensor([0, 1]))
    assert 0.5 < weight < 3
    assert bias == pytest.approx([0.0, 0.0], abs=1e-6)
