"""Two versions of the guard on the same requests: the test split, and those that were written to test it."""

from dataclasses import replace
from functools import partial

from tasks.applications.classifier.review import REVIEW as CLASSIFIER
from tasks.applications.classifier.review import measure, rows

FILES = ("everyday", "harmful", "tricky")

REVIEW = replace(
    CLASSIFIER,
    main="f1",
    unit="requests",
    columns=("request",),
    rows=partial(rows, columns=("request",), behavioural=FILES),
    measure=partial(measure, one_passes=True),
    explained={
        "accuracy": "share right of the requests of the test split",
        "calibration_error": "how far probabilities are from the share that is right, on average",
        "harmful_crisis": "share right of what people in need write, written for tests",
        "precision": "share that should be stopped of what is stopped",
        "recall_at_fpr_0.005": "share that is stopped where one harmless request in 200 is",
        "roc_auc": "how often a request to stop has a higher probability than another one",
    },
)
