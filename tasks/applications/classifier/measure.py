"""How good the classifier is, beside the baseline that a user would pick instead."""

from collections.abc import Sequence

import pandas as pd

from tasks.applications.classifier.evasion_scores import evasion_metrics, score_evasions
from tasks.measures.description import Asking, Evaluation, Measured, Subject
from tasks.measures.labels.measure import Evaluate, measure_labels
from tasks.measures.labels.rows import MAIL, label_rows
from tasks.measures.labels.scores import label_metrics, score_labels
from tasks.measures.metrics import Metric


def measure(subject: Subject) -> Measured:
    """The scores of the test split, of behavioural mails and of disguised spam."""
    measured, ours, baseline = measure_labels(subject)
    evasions = score_evasions(
        label_rows(subject.data, subject.loaded.model.config.columns),
        ours=ours,
        baseline=baseline,
        evidence=subject.evidence,
    )
    if evasions is None:
        return measured
    return Measured(pd.concat([measured.scores, evasions.scores], ignore_index=True), evasions.further)


def metrics(scores: pd.DataFrame) -> Sequence[Metric]:
    """Those of any model of labels, and those of disguised spam."""
    return [*label_metrics(scores), *evasion_metrics(scores)]


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
        "evasion_loss": "recall of the same spam as it was, minus that",
        "evasion_worst": "share of that recall which is left in the worst form",
        "accuracy": "share right of the mails of the test split",
        "calibration_error": "how far probabilities are from the share that is right, on average",
        "precision": "share of spam in what is called spam",
        "recall": "share of the spam that is called spam",
        "roc_auc": "how often a spam has a higher probability than another mail",
    },
    baseline="a linear model on TF-IDF of words and characters (logistic regression or a support vector machine, the "
    "stronger on validation), with a threshold by the same rule",
    asking=Asking(rows=label_rows, columns=MAIL, score=score_labels),
)
