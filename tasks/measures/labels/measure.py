"""The figures of a classifier on the test split, next to its baseline's, and the files that a reviewer reads."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
from pydantic import Field
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from llm.config import Config
from llm.device import Compute
from llm.generation.packed import pack_for_reading
from llm.loaded_model import LoadedModel
from llm.objectives.classifier import Classifier, ClassifierConfig, f1_score, probabilities
from tasks.measures.intervals import interval, with_interval
from tasks.measures.labels.baseline import (
    Reader,
    fit_baseline,
    has_one_that_passes,
    numbers_of,
    recall_at,
    texts_of,
)
from tasks.measures.labels.behavioural import measure_behavioural
from tasks.measures.labels.evidence import draw_confusion, draw_curves, slices, worst
from tasks.measures.tables import for_spreadsheets
from tasks.training.setup import split_file


class Evaluate(Config):
    """How the classifier is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Texts a forward pass."""


Further = Callable[[pd.DataFrame, Reader, Reader, Path], dict[str, float]]
"""Metrics of one application alone, from its test split, model and baseline, and the folder for its evidence."""


def no_further(test: pd.DataFrame, ours: Reader, its: Reader, evidence: Path) -> dict[str, float]:
    """No metrics."""
    return {}


def calibration_error(actual: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the likeliest label (Guo et al. 2017): mean gap of confidence and accuracy, by bin.

    `actual` are numbers, N, `probability` is N x K.
    """
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == actual
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[place == n].mean() - right[place == n].mean()) * (place == n).mean() for n in set(place)]
    return float(sum(gaps))


def figures(actual: np.ndarray, probability: np.ndarray, config: ClassifierConfig) -> dict[str, float]:
    """The figures that model and baseline both have, by their probabilities and how they decide."""
    predicted, labels = config.decide(probability), len(config.labels)
    found = {
        "accuracy": float((predicted == actual).mean()),
        "f1": f1_score(actual, predicted, labels),
        "calibration_error": calibration_error(actual, probability),
    }
    if has_one_that_passes(config):
        chances = config.looked_for(probability)
        found |= {
            "false_positive_rate": float((predicted[actual == 0] > 0).mean()),
            "roc_auc": roc_auc_score(actual > 0, chances),
            "recall_at_fpr_0.005": recall_at(actual, chances),
        }
    if config.unsure is not None:
        unsure, wrong = config.is_unsure(probability), predicted != actual
        found["unsure_share"] = float(unsure.mean())
        found["sure_errors"] = float((wrong & ~unsure).sum() / max(1, (~unsure).sum()))
    return found


def measure(
    model: Classifier,
    encoding: tiktoken.Encoding,
    data: Path,
    base: Path,
    params: Evaluate,
    compute: Compute,
    evidence: Path,
    further: Further = no_further,
) -> dict[str, float]:
    """Accuracy and F1 on test beside the baseline's, and all that a reviewer reads as evidence.

    F1 is that of the second of two labels, such as spam, and the mean over the labels where there are more. `f1` has
    its interval, and `f1_gain` is its lead over the baseline, paired by text. Where a label passes, there are precision
    and recall of the others together, ROC-AUC, `false_positive_rate`, the share of ham that is given another label by
    the threshold that validation chose, and `recall_at_fpr_0.005`, what is caught where one ham in 200 is lost.
    `everyday_ham` and `everyday_spam` are the shares of the behavioural mails that are right. The model reads them as
    it is served. The baseline is the stronger of a logistic regression and a linear SVM on validation (baseline.csv
    names it). It has its threshold by the same rule, from the same share of validation's ham, and its probabilities are
    calibrated there, too. `further` adds metrics of the application's own.
    """
    model.gpt = pack_for_reading(model.gpt)
    train, validation, test = (pd.read_parquet(split_file(data, split)) for split in ("train", "validation", "test"))
    labels, columns = model.config.labels, model.config.columns
    ours = Reader(model.config, partial(probabilities, LoadedModel(model, encoding), batch_size=params.batch_size))
    its = fit_baseline(train, validation, model.config, evidence)
    actual, names = numbers_of(test["label"], labels), np.array(labels)
    probability, its_probability = (each.probabilities(texts_of(test, columns)) for each in (ours, its))
    predicted, its_predicted = ours.config.decide(probability), its.config.decide(its_probability)

    def f1(actual: np.ndarray, predicted: np.ndarray) -> float:
        return f1_score(actual, predicted, len(labels))

    def lead(actual: np.ndarray, ours: np.ndarray, its: np.ndarray) -> float:
        return recall_at(actual, ours) - recall_at(actual, its)

    metrics = figures(actual, probability, ours.config)
    baseline = figures(actual, its_probability, its.config)
    metrics |= {f"baseline_{name}": value for name, value in baseline.items()}
    gain = interval(lambda a, p, b: f1(a, p) - f1(a, b), actual, predicted, its_predicted)
    metrics |= with_interval("f1", metrics["f1"], interval(f1, actual, predicted))
    metrics |= with_interval("f1_gain", metrics["f1"] - baseline["f1"], gain)
    if has_one_that_passes(ours.config):
        spam, its_spam = (ours.config.looked_for(each) for each in (probability, its_probability))
        is_spam, is_caught = actual > 0, predicted > 0
        lost = is_caught[~is_spam]
        ends = interval(lead, actual, spam, its_spam)
        metrics |= {
            **with_interval("false_positive_rate", metrics["false_positive_rate"], interval(np.mean, lost)),
            **with_interval("recall_at_fpr_0.005_gain", lead(actual, spam, its_spam), ends),
            "precision": precision_score(is_spam, is_caught, zero_division=0),
            "recall": recall_score(is_spam, is_caught),
        }
        draw_curves(is_spam.astype(int), {"classifier": spam, "baseline": its_spam}, evidence)
    metrics |= further(test, ours, its, evidence)
    metrics |= measure_behavioural(data.name, pd.concat([train, validation]), ours, its, evidence)

    given = {"id": test["id"], "actual": test["label"], "predicted": names[predicted]}
    each = {f"{label}_probability": probability[:, n].round(4) for n, label in enumerate(labels)}
    for_spreadsheets(pd.DataFrame(given | each)).to_csv(evidence / "predictions.csv", index=False)
    test = test.assign(
        predicted=names[predicted],
        probability=probability[np.arange(len(test)), predicted],
        right=predicted == actual,
        baseline_right=its_predicted == actual,
    )
    slices(test, labels, columns[-1]).to_csv(evidence / "slices.csv", index=False, float_format="%.4f")
    (evidence / "errors.md").write_text(worst(test, LoadedModel(model, encoding)))
    draw_confusion(actual, predicted, labels, evidence / "confusion.svg")
    return metrics
