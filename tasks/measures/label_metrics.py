"""The metrics of a score table of labels."""

from functools import partial

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from llm.objectives.classifier.calibration import best_threshold
from tasks.measures.intervals import share
from tasks.measures.metrics import Metric
from tasks.measures.scores import BASELINE, TEST

PROBABILITY = "_probability"
"""How the measures of probabilities end, one a label."""
FALSE_POSITIVE_RATE = 0.005
"""Of what should pass, the share that may be lost where `recall_at` looks."""


def label_metrics(table: pd.DataFrame) -> list[Metric]:
    """The metrics of a score table of labels, which labels.py describes.

    F1 is that of the second of two labels, such as spam, and the mean over the labels where there are more. Where one
    label passes, there are precision and recall of the others together, ROC-AUC, `false_positive_rate` (the share of
    what should pass that is given another label), and `recall_at_fpr_0.005`: what is caught where one in 200 is lost.
    Behavioural texts have the share right of each label and, where a file has all labels, the balanced accuracy.
    """
    measures = list(table["measure"].unique())
    labels = [name.removesuffix(PROBABILITY) for name in measures if name.endswith(PROBABILITY)]
    names, stopped = ", ".join(labels), ", ".join(labels[1:])
    actual, predicted = f"actual {names}", f"predicted {names}"
    probabilities = tuple(f"{label}{PROBABILITY}" for label in labels)
    f1 = partial(f1_of, labels=len(labels))
    beside = frozenset({BASELINE})
    metrics = [
        Metric("accuracy", ("right",), logs=beside),
        Metric("f1", (actual, predicted), f1),
        Metric("calibration_error", (actual, *probabilities), calibration_error, resampled=False, logs=beside),
    ]
    if f"is {stopped}" in measures:
        called = (f"is {stopped}", f"called {stopped}")
        chances = (called[0], *probabilities[1:])
        passes = {"part": TEST, "expected": labels[0]}
        at_rate = frozenset({BASELINE, "gain"})
        metrics += [
            Metric("false_positive_rate", called[1:], where=passes, logs=beside | {"interval"}),
            Metric("roc_auc", chances, roc_auc, resampled=False, logs=beside),
            Metric(f"recall_at_fpr_{FALSE_POSITIVE_RATE}", chances, recall_at, logs=at_rate),
            Metric("precision", called, precision, logs=frozenset()),
            Metric("recall", called, recall, logs=frozenset()),
        ]
    if "unsure" in measures:
        metrics.append(Metric("unsure_share", ("unsure",), logs=beside))
        metrics.append(Metric("sure_errors", ("unsure", "right"), sure_errors, logs=beside))
    behavioural = table[table["behavioural"].notna()]
    for part, rows in behavioural.groupby("part"):
        tested = sorted(rows["expected"].unique())
        for label in tested:
            where = {"part": str(part), "expected": label}
            metrics.append(Metric(f"{part}_{label}", ("right",), where=where, logs=beside))
        if tested == sorted(labels):
            balanced = partial(balanced_accuracy, labels=len(labels))
            metrics.append(Metric(f"{part}_balanced_accuracy", (actual, "right"), balanced, where={"part": str(part)}))
    return metrics


def f1_of(actual: np.ndarray, predicted: np.ndarray, labels: int) -> float:
    """F1 of label 1 of two, or its mean over more, of those that a text has or is given."""
    counted = [1] if labels == 2 else range(labels)
    scores = []
    for label in counted:
        size = np.sum(actual == label) + np.sum(predicted == label)
        if size:
            scores.append(2 * np.sum((actual == label) & (predicted == label)) / size)
    return float(np.mean(scores)) if scores else 0.0


def balanced_accuracy(actual: np.ndarray, right: np.ndarray, labels: int) -> float:
    """The mean over labels of the share of each that is right; a threshold moves it less than either share."""
    shares = [share(right * (actual == label), actual == label) for label in range(labels)]
    return float(np.mean(shares))


def precision(actual: np.ndarray, called: np.ndarray) -> float:
    """Of what is called so, the share that is; 0 where nothing is."""
    return share(actual * called, called)


def recall(actual: np.ndarray, called: np.ndarray) -> float:
    """Of what is so, the share that is called so; 0 where nothing is."""
    return share(actual * called, actual)


def sure_errors(unsure: np.ndarray, right: np.ndarray) -> float:
    """Of the sure answers, the share that is wrong."""
    return share((1 - unsure) * (1 - right), 1 - unsure)


def roc_auc(actual: np.ndarray, *chances: np.ndarray) -> float:
    """How often what is looked for has a higher probability than another text; `chances` are of the labels but one."""
    return roc_auc_score(actual, np.sum(chances, axis=0))


def recall_at(actual: np.ndarray, *chances: np.ndarray) -> float:
    """Recall at the lowest threshold whose false positive rate is within FALSE_POSITIVE_RATE; `chances` are the
    probabilities of the labels that are looked for, which are not 0."""
    is_looked_for = actual > 0
    probability = np.sum(chances, axis=0)
    threshold = best_threshold(probability, is_looked_for, FALSE_POSITIVE_RATE)
    return share((probability > threshold) & is_looked_for, is_looked_for)


def calibration_error(actual: np.ndarray, *probabilities: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the likeliest label (Guo et al. 2017): mean gap of confidence and accuracy, by bin.

    `actual` are label numbers, `probabilities` those of each label.
    """
    probability = np.stack(probabilities, axis=1)
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == actual
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(number, weights=confidence - right)
    return float(np.abs(gaps).sum() / len(actual))
