"""How good the classifier is, beside the baseline that a user would pick instead."""

import pandas as pd

from tasks.measures.description import Evaluation, Measured, Subject
from tasks.measures.label_metrics import label_metrics
from tasks.measures.labels import Evaluate, measure_labels
from tasks.measures.metrics import Metric
from tasks.measures.scores import BASELINE, OURS

EVASIONS = "evasions"
"""The part of spam that is disguised; its slice is the disguise, and its id begins with that of the plain spam."""


def measure(subject: Subject) -> Measured:
    """The scores of the test split, of behavioural mails and of disguised spam."""
    measured = measure_labels(subject)
    return Measured(measured.scores, compare_with_plain(measured.scores))


def compare_with_plain(scores: pd.DataFrame) -> dict[str, float]:
    """`evasion_loss`, by how much the recall of disguised spam is below that of the same spam in plain, and
    `evasion_worst`, the share of the latter that the worst disguise leaves; nothing without such rows."""
    right = scores[scores["measure"] == "right"]
    disguised = right[right["part"] == EVASIONS]
    names = disguised["id"].str.split(": ").str[0]
    plain = right.loc[(right["part"] == "everyday") & right["id"].isin(names), OURS]
    if plain.empty:
        return {}
    recall = float(plain.mean())
    worst = float(disguised.groupby("behavioural")[OURS].mean().min())
    return {
        "evasion_loss": recall - float(disguised[OURS].mean()),
        "evasion_worst": worst / recall if recall else 0.0,
    }


def metrics(scores: pd.DataFrame) -> list[Metric]:
    """Those of any model of labels, and the share of disguised spam that is caught."""
    evasion_recall = Metric("evasion_recall", ("right",), where={"part": EVASIONS}, logs=frozenset({BASELINE}))
    return [*label_metrics(scores[scores["part"] != EVASIONS]), evasion_recall]


EVALUATION = Evaluation(
    params=Evaluate,
    measure=measure,
    metrics=metrics,
    main="f1",
    unit="mails",
    judged_by=("right",),
    slices=("label", "source", "words", "behavioural"),
    explained={
        "everyday_ham": "share right of ordinary short mails",
        "everyday_spam": "share right of today's spam",
        "sure_errors": "share wrong of the mails that are not called unsure",
        "short_balanced_accuracy": "the mean of short_ham and short_spam",
        "short_ham": "share right of very short real mails, a third of them not in English",
        "short_spam": "share right of very short spam, a third of it not in English",
        "evasion_loss": "recall of the same spam without a disguise, minus that with one",
        "evasion_worst": "share of that recall which is left in the worst disguise",
        "accuracy": "share right of the mails of the test split",
        "calibration_error": "how far probabilities are from the share that is right, on average",
        "precision": "share of spam in what is called spam",
        "recall": "share of the spam that is called spam",
        "roc_auc": "how often a spam has a higher probability than another mail",
    },
    baseline="logistic regression on TF-IDF of words and characters, with a threshold by the same rule",
)
