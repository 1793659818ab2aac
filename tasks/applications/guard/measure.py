"""How well the guard tells what to stop, beside the baseline that a user would pick instead."""

from functools import partial

from tasks.measures.description import Asking, Evaluation, Measured, Subject
from tasks.measures.labels.measure import Evaluate, measure_labels
from tasks.measures.labels.rows import label_rows
from tasks.measures.labels.scores import label_metrics, score_labels

COLUMNS = ("request",)


def measure(subject: Subject) -> Measured:
    """The scores of the test split and of the requests that were written for tests."""
    measured, _, _ = measure_labels(subject)
    return measured


EVALUATION = Evaluation(
    params=Evaluate,
    measure=measure,
    metrics=label_metrics,
    main="f1",
    unit="requests",
    judged_by=("right",),
    slices=("label", "source", "words", "behavioural"),
    explained={
        "accuracy": "share right of the requests of the test split",
        "calibration_error": "how far probabilities are from the share that is right, on average",
        "harmful_crisis": "share right of what people in need write, written for tests",
        "precision": "share that should be stopped of what is stopped",
        "recall_at_fpr_0.005": "share that is stopped where one harmless request in 200 is",
        "roc_auc": "how often a request to stop has a higher probability than another one",
    },
    baseline="a linear model on TF-IDF of words and characters (logistic regression or a support vector machine, the "
    "stronger on validation), with a threshold by the same rule",
    asking=Asking(
        rows=partial(label_rows, columns=COLUMNS), columns=COLUMNS, score=partial(score_labels, one_passes=True)
    ),
)
