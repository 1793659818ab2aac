"""What the block of a model that gives labels says about its dataset and its base."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.stages.names import FOUNDATION, GATES_ON_METRICS, NOTHING_TO_REHEARSE, inner

OF_TWO_LABELS = ("evasion_",)
"""Beginnings of metrics that exist only for two labels."""
OF_ONE_THAT_PASSES = ("false_positive_rate", "roc_auc", "recall", "precision")
"""Beginnings of metrics that exist only for two labels, or where one of several passes."""
OF_A_LABEL = ("everyday_", "short_")
"""Beginnings of metrics that end in a label, or in `balanced_accuracy`, which every set of labels has."""

Mistakes = Iterator[tuple[str, str]]
Values = Mapping[str, Any]


def check(block: Values, values: Values) -> Mistakes:
    """See `Check` in tasks/applications/__init__.py."""
    dataset = block["dataset"]
    preprocess = inner(values["datasets"], dataset, "preprocess")
    labels = inner(preprocess, "labels")
    if not isinstance(labels, list):
        yield "dataset", f"{dataset} has no `labels` under preprocess, and a classifier learns labels, as from emails"
        return
    labels_key = f"datasets.{dataset}.preprocess.labels: {', '.join(map(str, labels))}"
    yield from _label_mistakes(block, labels, labels_key)
    any_passes = len(labels) == 2 or inner(block, "train", "passes") is not None
    for gate in GATES_ON_METRICS:
        metrics = [str(metric) for metric in inner(block, "review", gate) or ()]
        for names, reason in _unmeasured(metrics, labels, any_passes=any_passes):
            yield f"review.{gate}", f"{', '.join(names)}: {reason.format(labels_key)}; delete it"
    if block.get("rehearses") != str(NOTHING_TO_REHEARSE):
        yield "rehearses", f"a classifier has no answers to rehearse; name {NOTHING_TO_REHEARSE}"
    yield from _base_mistakes(block, values)


def _label_mistakes(block: Values, labels: Sequence[str], labels_key: str) -> Mistakes:
    """Labels under `train` that the dataset does not have."""
    passes = inner(block, "train", "passes")
    if passes is not None and passes not in labels:
        yield "train.passes", f"{passes!r} is not among {labels_key}; name one, or null"
    for label in inner(block, "train", "replies") or ():
        if label not in labels or label == passes:
            yield "train.replies", f"{label!r} is no label that is stopped ({labels_key}); delete it"


def _unmeasured(metrics: Sequence[str], labels: Sequence[str], *, any_passes: bool) -> Iterator[tuple[list[str], str]]:
    """Metrics that do not exist for these labels, and the reason, in which {} stands for the labels."""
    of_two_labels = [metric for metric in metrics if metric.startswith(OF_TWO_LABELS)]
    if of_two_labels and len(labels) > 2:
        yield of_two_labels, "measured only with two labels ({})"
    of_one_that_passes = [metric for metric in metrics if metric.startswith(OF_ONE_THAT_PASSES)]
    if of_one_that_passes and not any_passes:
        yield of_one_that_passes, "measured only where a label passes"
    of_unknown_labels = [metric for metric in metrics if _is_of_unknown_label(metric, labels)]
    if of_unknown_labels:
        yield of_unknown_labels, "measured only for a label among {}"


def _is_of_unknown_label(metric: str, labels: Sequence[str]) -> bool:
    prefixes = [prefix for prefix in OF_A_LABEL if metric.startswith(prefix)]
    return bool(prefixes) and metric.removeprefix(prefixes[0]) not in {*labels, "balanced_accuracy"}


def _base_mistakes(block: Values, values: Values) -> Mistakes:
    """Whether a foundation from scratch has the blocks and the context that the classifier reads with."""
    base = inner(values, FOUNDATION, "train")
    if block.get("base") != FOUNDATION or inner(base, "init_from") not in (None, "scratch"):
        return
    for key, limit_key in (("layers", "n_layer"), ("max_tokens", "context_length")):
        value = inner(block, "train", key)
        limit = inner(base, limit_key)
        if isinstance(value, int) and isinstance(limit, int) and value > limit:
            yield f"train.{key}", f"{value} is more than {FOUNDATION}.train.{limit_key}, {limit}"
