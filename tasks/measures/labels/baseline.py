"""The baseline that a user would pick instead: a linear model on TF-IDF of words and characters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_union
from sklearn.svm import LinearSVC

from llm.objectives.classifier import ClassifierConfig, f1_score
from llm.objectives.classifier.calibration import fit_scale
from tasks.measures.labels.rows import MAIL, numbers_of, texts_of
from tasks.measures.labels.scores import FALSE_POSITIVE_RATE, recall_at


@dataclass(frozen=True)
class Reader:
    """A model of texts: the classifier, or its baseline."""

    config: ClassifierConfig
    """How it decides."""
    probabilities: Callable[[Sequence[str]], np.ndarray]
    """The probability of each label of each text, N x K."""


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
    validation_features = csr_matrix(features.transform(texts_of(validation, config.columns)))
    actual = numbers_of(validation["label"], config.labels)
    readers = []
    strengths = []
    for name, learner in LEARNERS.items():
        model = learner().fit(train_features, train["label"])
        logits = margins(model, validation_features, config.labels)
        calibrated = calibration(logits, actual)
        probability = calibrated(logits)
        decides = config
        if config.false_positive_rate is not None:
            decides = config.with_bounds(
                probability, actual, false_positive_rate=config.false_positive_rate, rates=config.unsure_rates
            )
        linear = LinearReader(features=features, model=model, calibrated=calibrated, labels=config.labels)
        readers.append(Reader(config=decides, probabilities=linear.probabilities))
        strengths.append({"learner": name, **_strength(decides, probability, actual)})
    table = pd.DataFrame(strengths)
    chosen = int(table["score"].argmax())
    if evidence is not None:
        table.assign(chosen=table.index == chosen).to_csv(evidence / "baseline.csv", index=False, float_format="%.4f")
    return readers[chosen]


def margins(model: Learner, features: csr_matrix, labels: Sequence[str]) -> np.ndarray:
    """A linear model's logits of the labels, N x K."""
    logits = model.decision_function(features)
    if logits.ndim == 1:  # of two labels scikit-learn gives the second's alone
        logits = np.stack([-logits, logits], axis=1) / 2
    return logits[:, numbers_of(labels, list(model.classes_))]


@dataclass(frozen=True)
class LinearReader:
    """A fitted linear model over TF-IDF, calibrated."""

    features: Features
    model: Learner
    calibrated: Calibration
    labels: tuple[str, ...]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """The probability of each label of each text, N x K."""
        return self.calibrated(margins(self.model, csr_matrix(self.features.transform(texts)), self.labels))


def _strength(config: ClassifierConfig, probability: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """The figures of a reader with these probabilities, N x K, and the score that decides between readers."""
    f1 = float(f1_score(actual, config.decide(probability), len(config.labels)))
    if not has_one_that_passes(config):
        return {"f1": f1, "score": f1}
    recall = recall_at(actual, config.looked_for(probability))
    return {"f1": f1, f"recall_at_fpr_{FALSE_POSITIVE_RATE}": recall, "score": (f1 + recall) / 2}


def fit_features(train: pd.DataFrame, columns: Sequence[str] = MAIL) -> tuple[Features, csr_matrix]:
    """TF-IDF of words and characters, fitted, and that of the texts of `train`, N x features.

    If the texts share no words (there are few, or their script has no spaces), it uses characters alone, including rare
    ones.
    """
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    texts = texts_of(train, columns)
    try:
        features = make_union(words, _characters(fewest=3))
        return features, csr_matrix(features.fit_transform(texts))
    except ValueError as error:
        if "no terms remain" not in str(error) and "empty vocabulary" not in str(error):
            raise
        features = _characters(fewest=1)
        return features, csr_matrix(features.fit_transform(texts))


def _characters(fewest: int) -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=fewest, sublinear_tf=True)


def calibration(logits: np.ndarray, actual: np.ndarray) -> Calibration:
    """How a model's logits, N x K, become probabilities: calibrated by these of texts with labels `actual`, as the
    classifier's are."""
    scale, bias = fit_scale(torch.from_numpy(logits), torch.from_numpy(actual))

    def calibrated(logits: np.ndarray) -> np.ndarray:
        scaled = scale * torch.from_numpy(logits) + torch.tensor(bias)
        return scaled.softmax(dim=-1).numpy()

    return calibrated


def has_one_that_passes(config: ClassifierConfig) -> bool:
    """Whether the labels are the one that passes and what is looked for: with two, or where there is a threshold."""
    return len(config.labels) == 2 or config.threshold is not None
