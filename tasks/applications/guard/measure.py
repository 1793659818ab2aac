"""How well the guard tells what to stop, beside the baseline that a user would pick instead."""

from tasks.measures.description import Evaluation
from tasks.measures.label_metrics import label_metrics
from tasks.measures.labels import Evaluate, measure_labels

EVALUATION = Evaluation(
    params=Evaluate,
    measure=measure_labels,
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
    baseline="logistic regression on TF-IDF of words and characters, with a threshold by the same rule",
)
