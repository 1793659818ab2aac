import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from llm.objectives.classifier.linear import STRENGTH, Sparse, fit

RANDOM = np.random.default_rng(1)
COUNTS = RANDOM.poisson(0.3, size=(90, 40)).astype(np.float64)
STATES = RANDOM.normal(size=(90, 3))
ODDS = COUNTS[:, :5].sum(axis=1) - COUNTS[:, 5:10].sum(axis=1) + STATES[:, 0]
LABELS = (ODDS > 0).astype(int)


def sparse() -> Sparse:
    rows, columns = COUNTS.nonzero()
    starts = np.searchsorted(rows, np.arange(len(COUNTS)))
    return Sparse.of(*(torch.from_numpy(each) for each in (columns * 7, COUNTS[rows, columns], starts)))


def fitted(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logits of all texts."""
    texts, states = sparse(), torch.from_numpy(STATES)
    found = fit(texts, states, torch.from_numpy(labels), torch.from_numpy(weights), int(labels.max()) + 1)
    return found.logits(texts, states).numpy()


def theirs(labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The margins of scikit-learn's machine. The bias is held as the other weights are."""
    both = np.concatenate([COUNTS, STATES, np.ones((90, 1))], axis=1)
    machine = LinearSVC(C=STRENGTH, dual=False, tol=1e-9, max_iter=10_000, fit_intercept=False)
    return machine.fit(both, labels, weights).decision_function(both)


@pytest.mark.parametrize("left_out", [0, 30])
def test_it_is_the_linear_machine_of_scikit_learn_on_both_views_of_the_texts_that_count(left_out):
    weights = np.where(np.arange(90) < left_out, 0.0, RANDOM.uniform(0.5, 2, size=90))
    logits = fitted(LABELS, weights)
    assert logits[:, 1] - logits[:, 0] == pytest.approx(theirs(LABELS, weights), abs=2e-3)


def test_more_than_two_labels_are_each_told_from_the_others():
    labels = np.digitize(ODDS, [-1, 1])
    weights = np.ones(90)
    assert fitted(labels, weights) == pytest.approx(theirs(labels, weights), abs=2e-3)


def test_equal_texts_give_equal_weights():
    assert np.array_equal(fitted(LABELS, np.ones(90)), fitted(LABELS, np.ones(90)))
