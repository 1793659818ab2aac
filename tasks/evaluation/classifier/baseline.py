"""The baseline that a user would pick instead of the classifier: logistic regression on TF-IDF."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from llm.objectives.classifier.calibration import fit_scale
from llm.objectives.classifier.model import ClassifierConfig, row_texts

LEAST = 1e-12  # probability: of none there is no logarithm
MAIL = ("subject", "body")
"""The columns of a mail."""


class Reader(NamedTuple):
    """A model of texts: the classifier, or its baseline."""

    config: ClassifierConfig
    """How it decides."""
    probabilities: Callable[[Sequence[str]], np.ndarray]
    """The probability of each label of each text, N x K."""


def texts_of(table: pd.DataFrame, columns: Sequence[str] = MAIL) -> list[str]:
    """Rows as a model reads them that reads these columns."""
    return row_texts(table[column] for column in columns)


def numbers_of(names: Iterable[str], labels: Sequence[str]) -> np.ndarray:
    """Labels as their numbers."""
    return np.array([labels.index(name) for name in names])


def fit_baseline(train: pd.DataFrame, validation: pd.DataFrame, config: ClassifierConfig) -> Reader:
    """The baseline, calibrated on validation, where its threshold and bounds are chosen as the classifier's are."""
    labels = config.labels
    model, actual = fit_regression(train, config.columns), numbers_of(validation["label"], labels)
    order = numbers_of(labels, list(model.classes_))

    def uncalibrated(texts: Sequence[str]) -> np.ndarray:
        return model.predict_proba(texts)[:, order]

    calibrated = calibration(uncalibrated(texts_of(validation, config.columns)), actual)
    if config.false_positive_rate is not None:
        probability = calibrated(uncalibrated(texts_of(validation, config.columns)))
        config = config.with_bounds(probability, actual, config.false_positive_rate, config.unsure_rates)
    return Reader(config, lambda texts: calibrated(uncalibrated(texts)))


def fit_regression(train: pd.DataFrame, columns: Sequence[str] = MAIL) -> Pipeline:
    """Logistic regression on TF-IDF of words and characters.

    If the texts share no words (there are few, or their script has no spaces), it uses characters alone, including rare
    ones.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    texts = texts_of(train, columns)
    try:
        features = make_union(words, _characters(fewest=3))
        known = features.fit_transform(texts)
    except ValueError as error:
        if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
            raise
        features = _characters(fewest=1)
        known = features.fit_transform(texts)
    regression = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    return make_pipeline(features, regression.fit(known, train["label"]))


def _characters(fewest: int) -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=fewest, sublinear_tf=True)


def calibration(probability: np.ndarray, actual: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """How to calibrate a model's probabilities, N x K, by those of texts with these labels, as the classifier's are."""

    def logits(probability: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(probability).clamp_min(LEAST).log()

    scale, bias = fit_scale(logits(probability), torch.from_numpy(actual))
    return lambda given: (scale * logits(given) + torch.tensor(bias)).softmax(dim=-1).numpy()
