"""What the foundation's block says about its dataset."""

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.stages.names import inner

FAMILIES = {"gpt2": ("gpt2", "r50k_base"), "smollm2": ("smollm2",)}
"""Published weights with one tokenizer, by the beginnings of their names."""


def check(block: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """See `Check` in tasks/applications/__init__.py."""
    dataset = block["dataset"]
    tokenizer = inner(inner(values["datasets"], dataset), "preprocess", "tokenizer")
    if tokenizer is None:
        yield "dataset", f"{dataset} has no `tokenizer` under preprocess, and a foundation learns text, as from corpus"
        return
    weights = inner(block, "train", "init_from")
    if weights in (None, "scratch"):
        return
    families = {_family(str(tokenizer)), _family(str(weights))}
    if tokenizer == "bpe" or (None not in families and len(families) == 2):
        key = f"datasets.{dataset}.preprocess.tokenizer"
        yield "train.init_from", f"{weights} needs its own tokenizer, and {key} is {tokenizer}; set that to {weights}"


def _family(name: str) -> str | None:
    for family, beginnings in FAMILIES.items():
        if name.startswith(beginnings):
            return family
    return None
