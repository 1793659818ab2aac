"""How good the classifier is, beside the baseline that a user would pick instead."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline, make_union

from llm.applications.classifier import (
    Classifier,
    email_texts,
    probabilities,
)
from llm.config import Config
from llm.device import Compute
from tasks.data.mail import clean_mail
from tasks.evaluation import Evaluation
from tasks.evaluation.statistics import interval, picture, with_interval
from tasks.training.setup import split_file


class Evaluate(Config):
    """How the classifier is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Emails a forward pass."""


def _words() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)


def _characters() -> TfidfVectorizer:
    return TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=3, sublinear_tf=True)


def _texts(table: pd.DataFrame) -> list[str]:
    return email_texts(table["subject"], table["body"])


def _baseline(train: pd.DataFrame, validation: pd.DataFrame, spam: str) -> Pipeline:
    """What a user would pick instead: logistic regression on TF-IDF of words, or of words and characters.

    The one of the two that is better on validation.
    """
    best, best_f1 = None, -1.0
    for features in (_words(), make_union(_words(), _characters())):
        model = make_pipeline(features, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
        model.fit(email_texts(train["subject"], train["body"]), train["label"])
        found = f1_score(
            validation["label"] == spam, model.predict(email_texts(validation["subject"], validation["body"])) == spam
        )
        if found > best_f1:
            best, best_f1 = model, found
    return best


def _f1(actual: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 over the last axis of boolean arrays."""
    hits = (actual & predicted).sum(axis=-1)
    return 2 * hits / np.maximum(1, actual.sum(axis=-1) + predicted.sum(axis=-1))


def _recall_at(actual: np.ndarray, probability: np.ndarray, false_positive_rate: float) -> float:
    """The recall of the lowest threshold that calls at most that share of the ham spam."""
    wrong, right, _ = roc_curve(actual, probability)
    return float(right[wrong <= false_positive_rate].max())


def _calibration_error(actual: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error of the labels (Guo et al. 2017): mean gap between confidence and accuracy, by bin."""
    confidence, right = np.maximum(probability, 1 - probability), (probability >= 0.5) == actual
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[place == n].mean() - right[place == n].mean()) * (place == n).mean() for n in set(place)]
    return float(sum(gaps))


def _behavioural(name: str) -> pd.DataFrame | None:
    """The mails that were written to try a classifier of this dataset; none for one of one's own."""
    file = Path("data/behavioural") / name / "test.jsonl"
    if not file.exists():
        return None
    table = pd.read_json(file, lines=True, dtype=False)
    cleaned = [clean_mail(*row) for row in zip(table["subject"], table["body"], strict=True)]
    return table.assign(subject=[subject for subject, _ in cleaned], body=[body for _, body in cleaned])


def _thinned(curve: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """At most `points` rows of a curve, its ends among them."""
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, points).astype(int))]


def _slices(test: pd.DataFrame, spam: str) -> pd.DataFrame:
    """Rows, share that is spam, and how many of its ham and spam are right, by label, by source and by length."""
    words = test["body"].str.split().map(len)
    lengths = pd.cut(words, [-1, 50, 200, 500, np.inf], labels=["to 50", "51 to 200", "201 to 500", "over 500"])
    parts = {"label": test["label"], "source": test["source"].str.split("/").str[-1], "words": lengths.astype(str)}
    tables = []
    for name, values in parts.items():
        rows = test.assign(slice=values, is_spam=test["label"] == spam)
        rows["ham_right"] = rows["right"].where(~rows["is_spam"])
        rows["spam_right"] = rows["right"].where(rows["is_spam"])
        counts = {"rows": ("right", "size"), "spam": ("is_spam", "mean")}
        shares = {each: (each, "mean") for each in ("ham_right", "spam_right", "baseline_right")}
        tables.append(rows.groupby("slice").agg(**counts, **shares).astype(float).reset_index().assign(by=name))
    return pd.concat(tables)[["by", "slice", "rows", "spam", "ham_right", "spam_right", "baseline_right"]]


def _worst(test: pd.DataFrame, count: int = 10) -> str:
    """The mails that were got wrong with the greatest confidence, to read."""
    wrong = test[~test["right"]]
    sure = (wrong["spam_probability"] - 0.5).abs().sort_values(ascending=False, kind="stable")
    lines = ["# The worst errors of the classifier"]
    for row in wrong.loc[sure.index].head(count).itertuples():
        text = " ".join(f"{row.subject} | {row.body}".split())[:400]
        lines.append(f"**{row.id}**: is {row.label}, spam with {row.spam_probability:.4f}\n\n> {text}")
    return "\n\n".join(lines) + "\n"


def _pictures(actual: np.ndarray, found: dict[str, np.ndarray], evidence: Path) -> None:
    """ROC, precision and recall, and reliability, of the classifier and its baseline."""
    with picture(evidence / "roc.svg", "false positive rate", "true positive rate") as axes:
        for name, probability in found.items():
            axes.plot(*roc_curve(actual, probability)[:2], label=name)
        axes.set(xlim=(-0.002, 0.1), ylim=(0.5, 1.01))
    with picture(evidence / "precision_recall.svg", "recall", "precision") as axes:
        for name, probability in found.items():
            precision, recall, _ = precision_recall_curve(actual, probability)
            axes.plot(recall, precision, label=name)
        axes.set(xlim=(0.5, 1.01), ylim=(0.5, 1.01))
    with picture(evidence / "reliability.svg", "probability of spam", "share that is spam") as axes:
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for name, probability in found.items():
            place = np.minimum((probability * 10).astype(int), 9)
            points = sorted((probability[place == n].mean(), actual[place == n].mean()) for n in set(place))
            axes.plot(*zip(*points, strict=True), marker="o", label=name)


def _confusion(actual: np.ndarray, predicted: np.ndarray, labels: Sequence[str], path: Path) -> None:
    counts = np.array([[(actual == a).dot(predicted == p) for p in (False, True)] for a in (False, True)])
    with picture(path, "predicted", "actual") as axes:
        axes.imshow(counts, cmap="Blues", vmin=0)
        axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=labels, yticklabels=labels)
        for (row, column), count in np.ndenumerate(counts):
            light = count > counts.max() / 2
            axes.text(column, row, str(count), ha="center", va="center", color="white" if light else "black")


def measure(
    model: Classifier,
    encoding: tiktoken.Encoding,
    data: Path,
    base: Path,
    params: Evaluate,
    compute: Compute,
    evidence: Path,
) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and ROC-AUC of spam on test, beside the baseline's; all else as evidence.

    `f1` has its interval, and `f1_gain` is its lead over the baseline, paired by mail. `recall_at_fpr_0.005` is what is
    caught where one ham in 200 is lost. `everyday_ham` and `everyday_spam` are the shares of the behavioural mails that
    are right.
    """
    train, validation, test = (pd.read_parquet(split_file(data, split)) for split in ("train", "validation", "test"))
    labels, spam = model.config.labels, model.config.labels[1]
    actual = (test["label"] == spam).to_numpy()
    baseline = _baseline(train, validation, spam)
    its_spam = list(baseline.classes_).index(spam)

    def both(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of spam, the model's and the baseline's."""
        ours = probabilities(model, encoding, _texts(table), params.batch_size)
        return ours, baseline.predict_proba(_texts(table))[:, its_spam]

    probability, its_probability = both(test)
    predicted, its_predicted = model.decide(probability), its_probability >= 0.5
    names = np.array(labels)
    table = {"id": test["id"], "actual": names[actual.astype(int)], "predicted": names[predicted.astype(int)]}
    pd.DataFrame({**table, "spam_probability": probability.round(4)}).to_csv(evidence / "predictions.csv", index=False)
    false_positive, true_positive, _ = roc_curve(actual, probability)
    precision, recall, _ = precision_recall_curve(actual, probability)
    roc = pd.DataFrame({"false_positive_rate": false_positive, "true_positive_rate": true_positive})
    _thinned(roc).to_csv(evidence / "roc.csv", index=False, float_format="%.5f")
    precision_recall = pd.DataFrame({"recall": recall, "precision": precision})
    _thinned(precision_recall).to_csv(evidence / "precision_recall.csv", index=False, float_format="%.5f")
    test = test.assign(spam_probability=probability, right=predicted == actual, baseline_right=its_predicted == actual)
    _slices(test, spam).to_csv(evidence / "slices.csv", index=False, float_format="%.4f")
    (evidence / "errors.md").write_text(_worst(test))
    _pictures(actual, {"classifier": probability, "baseline": its_probability}, evidence)
    _confusion(actual, predicted, labels, evidence / "confusion.svg")

    f1, its_f1 = _f1(actual, predicted), _f1(actual, its_predicted)
    gain = interval(lambda a, p, b: _f1(a, p) - _f1(a, b), actual, predicted, its_predicted)
    metrics = {
        "accuracy": accuracy_score(actual, predicted),
        "precision": precision_score(actual, predicted, zero_division=0),
        "recall": recall_score(actual, predicted),
        **with_interval("f1", float(f1), interval(_f1, actual, predicted)),
        "roc_auc": roc_auc_score(actual, probability),
        "recall_at_fpr_0.005": _recall_at(actual, probability, 0.005),
        "calibration_error": _calibration_error(actual, probability),
        "baseline_f1": float(its_f1),
        "baseline_roc_auc": roc_auc_score(actual, its_probability),
        "baseline_recall_at_fpr_0.005": _recall_at(actual, its_probability, 0.005),
        **with_interval("f1_gain", float(f1 - its_f1), gain),
    }
    if (everyday := _behavioural(data.name)) is not None:
        metrics |= _measure_everyday(everyday, *both(everyday), model, spam, evidence)
    return metrics


def _measure_everyday(
    mails: pd.DataFrame,
    probability: np.ndarray,
    its_probability: np.ndarray,
    model: Classifier,
    spam: str,
    evidence: Path,
) -> dict[str, float]:
    """The shares of behavioural ham and spam that are right, of model and baseline; a row a mail as evidence."""
    actual = (mails["label"] == spam).to_numpy()
    right, its_right = model.decide(probability) == actual, (its_probability >= 0.5) == actual
    columns = {"spam_probability": probability.round(4), "right": right, "baseline_right": its_right}
    mails[["id", "label", "slice"]].assign(**columns).to_csv(evidence / "behavioural.csv", index=False)
    return {
        "everyday_ham": float(right[~actual].mean()),
        "everyday_spam": float(right[actual].mean()),
        "baseline_everyday_ham": float(its_right[~actual].mean()),
        "baseline_everyday_spam": float(its_right[actual].mean()),
    }


EVALUATION = Evaluation(params=Evaluate, measure=measure)
