"""What the classifier's block says about its dataset and its base."""

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.stages.names import FOUNDATION, GATES_ON_METRICS, NOTHING_TO_REHEARSE, inner

OF_TWO_LABELS = ("evasion_",)
"""Beginnings of metrics that exist only for two labels."""
OF_ONE_THAT_PASSES = ("false_positive_rate", "roc_auc", "recall", "precision")
"""Beginnings of metrics that exist only for two labels, or where one of several passes."""
OF_A_LABEL = ("everyday_", "short_")
"""Beginnings of metrics that end in a label."""


def check(block: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """See `Check` in tasks/applications/__init__.py."""
    dataset = block["dataset"]
    labels = inner(values, "datasets", dataset, "preprocess", "labels")
    if not isinstance(labels, list):
        yield "dataset", f"{dataset} has no `labels` under preprocess, and a classifier learns labels, as from emails"
        return
    where = f"datasets.{dataset}.preprocess.labels: {', '.join(map(str, labels))}"
    passes, unsure = inner(block, "train", "passes"), inner(block, "train", "unsure")
    if passes is not None and passes not in labels:
        yield "train.passes", f"{passes!r} is not among {where}; name one, or null"
    if passes is None and unsure is not None:
        yield "train.unsure", "it has no effect without a label that passes; name one under train.passes, or delete it"
    if strangers := [
        label for label in inner(block, "train", "replies") or () if label not in labels or label == passes
    ]:
        yield "train.replies", f"{strangers[0]!r} is no label that is stopped ({where}); delete it"
    yield from _check_last_blocks(block)
    for bounds in GATES_ON_METRICS:
        metrics = [str(metric) for metric in inner(block, "review", bounds) or ()]
        if len(labels) > 2 and (names := [metric for metric in metrics if metric.startswith(OF_TWO_LABELS)]):
            yield f"review.{bounds}", f"{', '.join(names)}: measured only with two labels ({where}); delete it"
        if len(labels) > 2 and passes is None:
            names = [metric for metric in metrics if metric.startswith(OF_ONE_THAT_PASSES)]
            if names:
                yield f"review.{bounds}", f"{', '.join(names)}: measured only where a label passes; delete it"
        if names := [metric for metric in metrics if _is_of_another_label(metric, labels)]:
            yield f"review.{bounds}", f"{', '.join(names)}: measured only for a label among {where}; delete it"
    if block.get("rehearses") != str(NOTHING_TO_REHEARSE):
        yield "rehearses", f"a classifier has no answers to rehearse; name {NOTHING_TO_REHEARSE}"
    yield from _check_base(block, values)


def _check_last_blocks(block: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    last_blocks, layers = inner(block, "train", "last_blocks"), inner(block, "train", "layers")
    if last_blocks is None:
        return
    if inner(block, "train", "lora") is None:
        yield "train.last_blocks", "it has no effect without LoRA; set it to null, or name train.lora"
    if isinstance(layers, int) and isinstance(last_blocks, int) and last_blocks > layers:
        yield "train.last_blocks", f"{last_blocks} is more than train.layers, {layers}"


def _is_of_another_label(metric: str, labels: list[str]) -> bool:
    prefix = next((prefix for prefix in OF_A_LABEL if metric.startswith(prefix)), None)
    return prefix is not None and metric.removeprefix(prefix) not in labels


def _check_base(block: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Whether a foundation from scratch has the blocks and the context that the classifier reads with."""
    base = inner(values, FOUNDATION, "train")
    if block.get("base") != FOUNDATION or inner(base, "init_from") != "scratch":
        return
    for key, shape in (("layers", "n_layer"), ("max_tokens", "context_length")):
        wanted, there = inner(block, "train", key), inner(base, shape)
        if isinstance(wanted, int) and isinstance(there, int) and wanted > there:
            yield f"train.{key}", f"{wanted} is more than {FOUNDATION}.train.{shape}, {there}"
