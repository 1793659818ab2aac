"""The baseline that a user would pick instead: a linear model on TF-IDF of words and characters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from llm.objectives.classifier import ClassifierConfig
from llm.objectives.classifier.calibration import fit_scale
from llm.objectives.classifier.texts import row_texts

FEW = 100  # training texts, of which words and characters count that occur once


@dataclass(frozen=True)
class Reader:
    """A model of texts: the classifier, or its baseline."""

    config: ClassifierConfig
    """How it decides."""
    probabilities: Callable[[Sequence[str]], np.ndarray]
    """The probability of each label of each text, N x K."""


def fit_baseline(train: pd.DataFrame, validation: pd.DataFrame, config: ClassifierConfig) -> Reader:
    """Logistic regression, calibrated on validation, where its threshold and bounds are chosen as the
    classifier's are."""
    pipeline = linear_pipeline(len(train)).fit(texts_of(train, config.columns), train["label"])
    actual = np.array([config.labels.index(label) for label in validation["label"]])
    logits = _logits(pipeline, texts_of(validation, config.columns), config.labels)
    scale, bias = fit_scale(torch.from_numpy(logits), torch.from_numpy(actual))

    def probabilities(texts: Sequence[str]) -> np.ndarray:
        scaled = scale * torch.from_numpy(_logits(pipeline, texts, config.labels)) + torch.tensor(bias)
        return scaled.softmax(dim=-1).numpy()

    if config.false_positive_rate is not None:
        config = config.with_bounds(
            probabilities(texts_of(validation, config.columns)),
            actual,
            false_positive_rate=config.false_positive_rate,
            rates=config.unsure_rates,
        )
    return Reader(config=config, probabilities=probabilities)


def linear_pipeline(texts: int) -> Pipeline:
    """TF-IDF and logistic regression, for this many training texts."""
    few = texts < FEW
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=1 if few else 2, sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=1 if few else 3, sublinear_tf=True)
    learner = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    return make_pipeline(make_union(words, characters), learner)


def texts_of(table: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Rows as a model reads them that reads these columns."""
    return row_texts(table[column] for column in columns)


def _logits(pipeline: Pipeline, texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """The logits of the labels of each text, N x K."""
    logits = pipeline.decision_function(texts)
    if logits.ndim == 1:  # of two labels scikit-learn gives the second's alone
        logits = np.stack([-logits, logits], axis=1) / 2
    classes = list(pipeline.classes_)
    return logits[:, [classes.index(label) for label in labels]]
