"""The baseline that a user would pick instead of the classifier: logistic regression on TF-IDF."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union

from llm.objectives.classifier.calibration import fit_scale
from llm.objectives.classifier.model import ClassifierConfig, email_texts, f1_score

LEAST = 1e-12  # probability: of none there is no logarithm


class Reader(NamedTuple):
    """A model of mails: the classifier, or its baseline."""

    config: ClassifierConfig
    """How it decides."""
    probabilities: Callable[[Sequence[str]], np.ndarray]
    """The probability of each label of each text, N x K."""


def texts_of(table: pd.DataFrame) -> list[str]:
    """The mails as a model reads them."""
    return email_texts(table["subject"], table["body"])


def numbers_of(names: Iterable[str], labels: Sequence[str]) -> np.ndarray:
    """Labels as their numbers."""
    return np.array([labels.index(name) for name in names])


def fit_baseline(train: pd.DataFrame, validation: pd.DataFrame, config: ClassifierConfig) -> Reader:
    """The baseline, calibrated on validation, where its threshold and bounds are chosen as the classifier's are."""
    labels = config.labels
    model, actual = choose_regression(train, validation, labels), numbers_of(validation["label"], labels)
    order = numbers_of(labels, list(model.classes_))

    def uncalibrated(texts: Sequence[str]) -> np.ndarray:
        return model.predict_proba(texts)[:, order]

    calibrated = calibration(uncalibrated(texts_of(validation)), actual)
    if config.false_positive_rate is not None:
        probability = calibrated(uncalibrated(texts_of(validation)))
        config = config.with_bounds(probability, actual, config.false_positive_rate, config.unsure_rates)
    return Reader(config, lambda texts: calibrated(uncalibrated(texts)))


def choose_regression(train: pd.DataFrame, validation: pd.DataFrame, labels: Sequence[str]) -> Pipeline:
    """Logistic regression on TF-IDF of words, or of words and characters, by the better F1 on validation.

    Mails that share no words, a few or of a script without spaces, are told apart by characters.
    """
    both = (_fitted(features, train) for features in (_words(), make_union(_words(), _characters())))
    models = list(filter(None, both)) or [_fitted(_characters(fewest=1), train)]
    actual, texts = numbers_of(validation["label"], labels), texts_of(validation)
    return max(models, key=lambda model: f1_score(actual, numbers_of(model.predict(texts), labels), len(labels)))


def _words() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)


def _characters(fewest: int = 3) -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=fewest, sublinear_tf=True)


def _fitted(features: TfidfVectorizer | FeatureUnion, train: pd.DataFrame) -> Pipeline | None:
    """Logistic regression on features of the mails; None where no term is in enough of them."""
    try:
        known = features.fit_transform(texts_of(train))
    except ValueError as error:
        if "no terms remain" in str(error) or "empty vocabulary" in str(error):
            return None
        raise
    regression = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    return make_pipeline(features, regression.fit(known, train["label"]))


def calibration(probability: np.ndarray, actual: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """How to calibrate a model's probabilities, N x K, by those of texts with these labels, as the classifier's are."""

    def logits(probability: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(probability).clamp_min(LEAST).log()

    scale, bias = fit_scale(logits(probability), torch.from_numpy(actual))
    return lambda given: (scale * logits(given) + torch.tensor(bias)).softmax(dim=-1).numpy()
