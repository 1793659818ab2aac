"""Measures of labels: answers as a served model gives them, scored row by row, and the metrics of their table."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from llm.objectives.classifier import UNSURE, f1_score
from llm.objectives.classifier.calibration import best_threshold
from tasks.measures.intervals import share
from tasks.measures.metrics import Metric
from tasks.measures.scores import BASELINE, TEST

PROBABILITY = "_probability"
FALSE_POSITIVE_RATE = 0.005
"""Of what should pass, the share that may be lost where `recall_at` looks."""


def score_labels(rows: pd.DataFrame, answers: pd.DataFrame, *, one_passes: bool = False) -> pd.DataFrame:
    """The measures of answers to rows; a row without an answer is wrong.

    `answers` are as a served model gives them: `label`, which may be UNSURE, `leaning` (versions of before are always
    sure, and have none), the probability of each label, and `error`. `one_passes` says that the first of more than two
    labels passes and the others are looked for; of two it always does.
    """
    labels = labels_of(answers.columns)
    number = {label: n for n, label in enumerate(labels)}
    leaning = answers["leaning" if "leaning" in answers else "label"]
    actual = rows["expected"].map(number).to_numpy(float)
    predicted = leaning.map(number).fillna(-1).to_numpy(float)
    chances = answers[[f"{label}{PROBABILITY}" for label in labels]].astype(float).fillna(0.0)
    likeliest = chances.to_numpy()[np.arange(len(rows)), np.maximum(predicted, 0).astype(int)]
    scored = chances.assign(right=(predicted == actual).astype(float), confidence=likeliest)
    scored[f"actual {', '.join(labels)}"] = actual
    scored[f"predicted {', '.join(labels)}"] = predicted
    if "leaning" in answers:
        scored["unsure"] = (answers["label"] == UNSURE).astype(float)
    if one_passes or len(labels) == 2:
        stopped = ", ".join(labels[1:])
        scored[f"is {stopped}"] = (actual > 0).astype(float)
        scored[f"called {stopped}"] = (predicted > 0).astype(float)
    shown = chances[f"{labels[1]}{PROBABILITY}"] if len(labels) == 2 else scored["confidence"]
    of = f"{labels[1]} " if len(labels) == 2 else ""  # the threshold is for that one
    texts = zip(answers["label"], shown, answers["error"], strict=True)
    return scored.assign(answer=[_text(label, f"{of}{chance:.3f}", error) for label, chance, error in texts])


def _text(label: object, probability: str, error: object) -> str:
    """An answer as people read it."""
    return f"{label} ({probability})" if isinstance(label, str) else f"no answer: {error}"


def labels_of(columns: Iterable[str]) -> list[str]:
    """The labels that have a probability."""
    return [name.removesuffix(PROBABILITY) for name in columns if name.endswith(PROBABILITY)]


def label_metrics(table: pd.DataFrame) -> list[Metric]:
    """The metrics of a score table of labels.

    F1 is that of the second of two labels, such as spam, and the mean over the labels where there are more. Where one
    label passes, there are precision and recall of the others together, ROC-AUC, `false_positive_rate` (the share of
    what should pass that is given another label), and `recall_at_fpr_0.005`: what is caught where one in 200 is lost.
    Behavioural texts have the share right of each label and, where a file has all labels, the balanced accuracy.
    """
    measures = set(table["measure"])
    labels = labels_of(table["measure"].unique())
    names, stopped = ", ".join(labels), ", ".join(labels[1:])
    decided = (f"actual {names}", f"predicted {names}")
    probabilities = tuple(f"{label}{PROBABILITY}" for label in labels)
    beside = frozenset({BASELINE})
    metrics = [
        Metric("accuracy", ("right",), logs=beside),
        Metric("f1", decided, partial(f1_of, labels=len(labels))),
        Metric("calibration_error", (decided[0], *probabilities), calibration_error, resampled=False, logs=beside),
    ]
    if f"is {stopped}" in measures:
        called = (f"is {stopped}", f"called {stopped}")
        chances = (called[0], *probabilities[1:])
        passes = {"part": TEST, "expected": labels[0]}
        at_rate = frozenset({BASELINE, "gain"})
        metrics += [
            Metric("false_positive_rate", called[1:], where=passes, logs=beside | {"interval"}),
            Metric("roc_auc", chances, roc_auc, resampled=False, logs=beside),
            Metric(f"recall_at_fpr_{FALSE_POSITIVE_RATE}", chances, recall_at_rate, logs=at_rate),
            Metric("precision", called, precision, logs=frozenset()),
            Metric("recall", called, recall, logs=frozenset()),
        ]
    if "unsure" in measures:
        metrics.append(Metric("unsure_share", ("unsure",), logs=beside))
        metrics.append(Metric("sure_errors", ("unsure", "right"), sure_errors, logs=beside))
    behavioural = table.loc[table["behavioural"].notna(), ["part", "expected"]].drop_duplicates()
    for part, label in sorted(behavioural.itertuples(index=False)):
        name, where = f"{part}_{label}", {"part": part, "expected": label}
        metrics.append(Metric(name, ("right",), where=where, logs=beside))
    balanced = partial(balanced_accuracy, labels=len(labels))
    for part, part_labels in behavioural.groupby("part")["expected"]:
        if set(part_labels) == set(labels):
            name, where = f"{part}_balanced_accuracy", {"part": str(part)}
            metrics.append(Metric(name, (decided[0], "right"), balanced, where=where))
    return metrics


def f1_of(actual: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """F1 over the last axis, of label numbers."""
    return f1_score(actual, predicted, labels)


def balanced_accuracy(actual: np.ndarray, right: np.ndarray, labels: int) -> np.ndarray:
    """The mean over labels of the share of each that is right; a threshold moves it less than either share."""
    shares = [share(right * (actual == label), actual == label) for label in range(labels)]
    return np.mean(shares, axis=0)


def precision(actual: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Of what is called so, the share that is; 0 where nothing is."""
    return share(actual * called, called)


def recall(actual: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Of what is so, the share that is called so; 0 where nothing is."""
    return share(actual * called, actual)


def sure_errors(unsure: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of the sure answers, the share that is wrong."""
    return share((1 - unsure) * (1 - right), 1 - unsure)


def roc_auc(actual: np.ndarray, *chances: np.ndarray) -> float:
    """How often what is looked for has a higher probability than another text; `chances` are of the labels but one."""
    return roc_auc_score(actual, np.sum(chances, axis=0))


def recall_at(actual: np.ndarray, probability: np.ndarray, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float:
    """Recall at the lowest threshold whose false positive rate is within the given one; of what is not 0."""
    is_looked_for = actual > 0
    caught = probability[is_looked_for] > best_threshold(probability, is_looked_for, false_positive_rate)
    return float(caught.sum() / max(1, is_looked_for.sum()))


def recall_at_rate(actual: np.ndarray, *chances: np.ndarray) -> np.ndarray:
    """`recall_at` over the last axis; `chances` are the probabilities of the labels that are looked for."""
    over_last_axis = np.vectorize(recall_at, signature="(n),(n)->()")
    return over_last_axis(actual, np.sum(chances, axis=0))


def calibration_error(actual: np.ndarray, *probabilities: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the likeliest label (Guo et al. 2017): mean gap of confidence and accuracy, by bin.

    `actual` are label numbers, `probabilities` those of each label.
    """
    probability = np.stack(probabilities, axis=1)
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == actual
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(number, minlength=bins)
    gaps = np.bincount(number, weights=confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / counts.sum())
