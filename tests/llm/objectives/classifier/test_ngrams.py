from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from llm.objectives.classifier.ngrams import NgramModel

RANDOM = np.random.default_rng(1)
TEXTS = [RANDOM.integers(0, 30, size=size).tolist() for size in RANDOM.integers(1, 20, size=80)]
LABELS = [int(sum(text) / len(text) > 15) for text in TEXTS]


def fitted(labels: list[int], count: int = 2, weights: list[float] | None = None) -> NgramModel:
    model = NgramModel(2**18, count)
    model.fit(TEXTS, torch.tensor(labels), torch.tensor(weights or [1.0] * count))
    return model


@pytest.mark.parametrize("balanced", [False, True])
def test_it_is_the_logistic_regression_on_tf_idf_of_scikit_learn(balanced):
    def grams(text: list[int]) -> list[str]:
        return [*map(str, text), *(f"{a} {b}" for a, b in pairwise(text))]

    features = TfidfVectorizer(analyzer=grams, min_df=2, sublinear_tf=True)
    rows = features.fit_transform(TEXTS)
    theirs = LogisticRegression(C=10.0, class_weight="balanced" if balanced else None, max_iter=2000, tol=1e-8)
    theirs.fit(rows, LABELS)
    counts = np.bincount(LABELS)
    ours = fitted(LABELS, weights=(len(LABELS) / (2 * counts)).tolist() if balanced else None)
    logits = ours(TEXTS)
    assert (logits[:, 1] - logits[:, 0]).numpy() == pytest.approx(theirs.decision_function(rows), abs=0.02)


def test_more_than_two_labels_are_told_apart():
    labels = [min(2, int(sum(text) / len(text) / 10)) for text in TEXTS]
    assert (fitted(labels, 3)(TEXTS).argmax(dim=1) == torch.tensor(labels)).float().mean() > 0.95


def test_equal_texts_give_equal_weights_and_a_text_is_told_alone_as_among_others():
    one, other = fitted(LABELS), fitted(LABELS)
    assert torch.equal(one.weight, other.weight)
    assert torch.allclose(one(TEXTS), torch.cat([one([text]) for text in TEXTS]), atol=1e-6)


def test_a_text_of_which_nothing_is_known_has_the_bias():
    model = fitted(LABELS)
    assert torch.equal(model([[999, 998]])[0], model.bias)


def test_its_weights_are_no_parameters_and_come_back_with_the_others():
    model = fitted(LABELS)
    assert list(model.parameters()) == []
    again = NgramModel(2**18, 2)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(TEXTS), model(TEXTS))
