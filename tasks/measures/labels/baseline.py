"""The baseline that a user would pick instead of the classifier: a linear model on TF-IDF of words and characters."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_union
from sklearn.svm import LinearSVC

from llm.objectives.classifier import ClassifierConfig, f1_score
from llm.objectives.classifier.calibration import best_threshold, fit_scale
from llm.objectives.classifier.texts import row_texts

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


Features = FeatureUnion | TfidfVectorizer
Learner = LogisticRegression | LinearSVC
Calibration = Callable[[np.ndarray], np.ndarray]
"""From logits to probabilities, N x K."""

LEARNERS: dict[str, Callable[[], Learner]] = {
    "logistic regression": lambda: LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000),
    "linear support vector machine": lambda: LinearSVC(C=1.0, class_weight="balanced", random_state=1),
}
"""The linear models of which the stronger on validation is the baseline."""


def fit_baseline(
    train: pd.DataFrame, validation: pd.DataFrame, config: ClassifierConfig, evidence: Path | None = None
) -> Reader:
    """The stronger of LEARNERS on TF-IDF. `evidence` gets baseline.csv: the figures of each on validation, and which is
    chosen.

    Each is calibrated on validation, where its threshold and bounds are chosen as the classifier's are. The baseline is
    the one with the highest score on validation, of equals the first. The score is the mean of F1 and of the recall
    where 0.5 % of the texts that should pass are lost; without a label that passes it is F1.
    """
    features, train_features = fit_features(train, config.columns)
    validation_features = features.transform(texts_of(validation, config.columns))
    actual = numbers_of(validation["label"], config.labels)
    readers, rows = [], []
    for name, learner in LEARNERS.items():
        model = learner().fit(train_features, train["label"])
        logits = margins(model, validation_features, config.labels)
        calibrated = calibration(logits, actual)
        probability = calibrated(logits)
        decides = config
        if config.false_positive_rate is not None:
            decides = config.with_bounds(probability, actual, config.false_positive_rate, config.unsure_rates)
        readers.append(Reader(decides, partial(_probabilities, features, model, calibrated, config.labels)))
        rows.append({"learner": name, **_strength(decides, probability, actual)})
    table = pd.DataFrame(rows)
    chosen = int(table["score"].argmax())
    if evidence is not None:
        table.assign(chosen=table.index == chosen).to_csv(evidence / "baseline.csv", index=False, float_format="%.4f")
    return readers[chosen]


def margins(model: Learner, features: csr_matrix, labels: Sequence[str]) -> np.ndarray:
    """A linear model's logits of the labels, N x K."""
    found = model.decision_function(features)
    if found.ndim == 1:  # of two labels scikit-learn gives the second's alone
        found = np.stack([-found, found], axis=1) / 2
    return found[:, numbers_of(labels, list(model.classes_))]


def _probabilities(
    features: Features, model: Learner, calibrated: Calibration, labels: Sequence[str], texts: Sequence[str]
) -> np.ndarray:
    """The probability of each label of each text, N x K."""
    return calibrated(margins(model, features.transform(texts), labels))


def _strength(config: ClassifierConfig, probability: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """The figures of a reader with these probabilities, N x K, and the score that decides between readers."""
    f1 = f1_score(actual, config.decide(probability), len(config.labels))
    if not has_one_that_passes(config):
        return {"f1": f1, "score": f1}
    recall = recall_at(actual, config.looked_for(probability))
    return {"f1": f1, "recall_at_fpr_0.005": recall, "score": (f1 + recall) / 2}


def fit_features(train: pd.DataFrame, columns: Sequence[str] = MAIL) -> tuple[Features, csr_matrix]:
    """TF-IDF of words and characters, fitted, and that of the texts of `train`, N x features.

    If the texts share no words (there are few, or their script has no spaces), it uses characters alone, including rare
    ones.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    texts = texts_of(train, columns)
    try:
        features = make_union(words, _characters(fewest=3))
        return features, features.fit_transform(texts)
    except ValueError as error:
        if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
            raise
        features = _characters(fewest=1)
        return features, features.fit_transform(texts)


def _characters(fewest: int) -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=fewest, sublinear_tf=True)


def calibration(logits: np.ndarray, actual: np.ndarray) -> Calibration:
    """How a model's logits, N x K, become probabilities: calibrated by these of texts with labels `actual`, as the
    classifier's are."""
    scale, bias = fit_scale(torch.from_numpy(logits), torch.from_numpy(actual))
    return lambda logits: (scale * torch.from_numpy(logits) + torch.tensor(bias)).softmax(dim=-1).numpy()


def has_one_that_passes(config: ClassifierConfig) -> bool:
    """Whether the labels are the one that passes and what is looked for: with two, or where there is a threshold."""
    return len(config.labels) == 2 or config.threshold is not None


def recall_at(actual: np.ndarray, probability: np.ndarray, false_positive_rate: float = 0.005) -> float:
    """Recall at the lowest threshold whose false positive rate is within the given one; of what is not 0."""
    spam = actual > 0
    caught = probability[spam] > best_threshold(probability, spam, false_positive_rate)
    return float(caught.sum() / max(1, spam.sum()))
