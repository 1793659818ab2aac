import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from llm.objectives.classifier.linear import STRENGTH, Sparse, Views, fit

RANDOM = np.random.default_rng(1)
COUNTS = RANDOM.poisson(0.3, size=(90, 40)).astype(np.float64)
STATES = RANDOM.normal(size=(90, 3))
ODDS = COUNTS[:, :5].sum(axis=1) - COUNTS[:, 5:10].sum(axis=1) + STATES[:, 0]
LABELS = (ODDS > 0).astype(int)


def sparse() -> Sparse:
    rows, columns = COUNTS.nonzero()
    starts = np.searchsorted(rows, np.arange(len(COUNTS)))
    values = COUNTS[rows, columns]
    return Sparse.of(torch.from_numpy(columns * 7), torch.from_numpy(values), torch.from_numpy(starts))


def fitted(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logits of all texts."""
    views = Views(sparse(), torch.from_numpy(STATES))
    learned_N = torch.from_numpy(weights)
    head = fit(views, torch.from_numpy(labels), learned_N=learned_N, classes=int(labels.max()) + 1)
    return head.logits(views).numpy()


def expected(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The margins of scikit-learn's machine. The bias is held as the other weights are."""
    features = np.concatenate([COUNTS, STATES, np.ones((90, 1))], axis=1)
    machine = LinearSVC(C=STRENGTH, dual=False, tol=1e-9, max_iter=10_000, fit_intercept=False)
    return machine.fit(features, labels, weights).decision_function(features)


@pytest.mark.parametrize("left_out", [0, 30])
def test_fit_gives_the_margins_of_scikit_learn_on_the_texts_that_count(left_out):
    weights = np.where(np.arange(90) < left_out, 0.0, RANDOM.uniform(0.5, 2, size=90))
    logits = fitted(LABELS, weights)
    assert logits[:, 1] - logits[:, 0] == pytest.approx(expected(LABELS, weights), abs=2e-3)


def test_fit_tells_each_of_three_labels_from_the_others_as_scikit_learn():
    labels = np.digitize(ODDS, [-1, 1])
    weights = np.ones(90)
    assert fitted(labels, weights) == pytest.approx(expected(labels, weights), abs=2e-3)
