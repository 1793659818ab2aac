"""What the blocks of params.yaml say about each other, checked before anything loads.

The checks read plain values and import no dataset, model or library of theirs, so they take a moment. What an
application's block says about its dataset or base is checked by `tasks/applications/<name>/check.py`.
"""

import difflib
import json
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from llm.errors import UserError

FOUNDATION = "foundation"
PUBLISHED = "published"
SWITCHED_OFF = "switched_off"  # blocks of applications that no stage runs
SMOKE = "smoke"
LISTS = ("datasets", "applications")  # sections that hold named blocks
SECTIONS = ("datasets", PUBLISHED, FOUNDATION, "applications", SWITCHED_OFF, SMOKE)
BOUNDS = ("at_least", "at_most", "no_loss")

Values = Mapping[str, Any]


def place_of(model: str) -> str:
    """The key of a model's block."""
    return model if model == FOUNDATION else f"applications.{model}"


def inner(values: Any, *keys: str) -> Any:
    """The value under nested keys; None if one is missing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def model_blocks(values: Values) -> dict[str, Values]:
    """The blocks of the foundation and the applications, by model; without those that are no mapping."""
    blocks = {FOUNDATION: values[FOUNDATION], **values["applications"]}
    return {name: block for name, block in blocks.items() if isinstance(block, Mapping)}


def section_errors(values: Values) -> Iterator[str]:
    """Sections that are unknown, missing or no mapping, each as `key: reason`."""
    for key in values:
        if key not in SECTIONS:
            yield f"{key}: unknown key{did_you_mean(str(key), SECTIONS)}"
    for name in ("datasets", FOUNDATION, "applications"):
        section = values.get(name)
        if not isinstance(section, Mapping):
            yield f"{name}: {'missing' if section is None else f'{section!r} is no mapping of names'}"


def cross_errors(values: Values) -> Iterator[str]:
    """All mistakes between blocks, each as `key: reason and way out`; `section_errors` must have found none."""
    yield from published_errors(values)
    for model, block in model_blocks(values).items():
        yield from _dataset_errors(model, block, values)
        yield from _base_errors(model, block, values)
        yield from _gate_errors(model, f"{place_of(model)}.review", block.get("review"))
        if isinstance(inner(values, "datasets", str(block.get("dataset"))), Mapping):
            yield from _own_errors(model, block, values)
    for model, bounds in (inner(values, SMOKE, "bounds") or {}).items():
        yield from _gate_errors(model, f"{SMOKE}.bounds.{model}", bounds)


def published_errors(values: Values) -> Iterator[str]:
    """Whether `published` names weights."""
    if PUBLISHED not in values:
        return
    name = values[PUBLISHED]
    if not isinstance(name, str):
        yield f"{PUBLISHED}: {'missing' if name is None else f'{name!r} is no name of weights'}"
        return
    published = import_module("tasks.data.published")
    if not published.is_published(name):
        names = ", ".join(published.PUBLISHED)
        yield f"{PUBLISHED}: {name!r} is not one of {names}, and no folder or .gguf file here"


def _dataset_errors(model: str, block: Values, values: Values) -> Iterator[str]:
    dataset, datasets = block.get("dataset"), values["datasets"]
    if isinstance(dataset, str) and dataset not in datasets:
        yield f"{place_of(model)}.dataset: {dataset!r} is not one of {', '.join(datasets)}"


def _base_errors(model: str, block: Values, values: Values) -> Iterator[str]:
    base, blocks = block.get("base"), model_blocks(values)
    if model == FOUNDATION or not isinstance(base, str):
        return
    bases = [*blocks, *([PUBLISHED] if PUBLISHED in values else [])]
    if base not in bases:
        yield f"{place_of(model)}.base: {base!r} is not one of {', '.join(bases)}"
    ancestors = [model]
    while base in blocks and base not in ancestors:
        ancestors.append(base)
        base = blocks[base].get("base")
    if base == model:
        way = " -> ".join([*ancestors, model])
        yield f"{place_of(model)}.base: a model can't start from itself ({way}); name {FOUNDATION} or {PUBLISHED}"


def _gate_errors(model: str, place: str, gates: Any) -> Iterator[str]:
    """Gates on metrics that the last evaluation did not write and the model's card does not list."""
    report, card = Path("reports/evaluation", model, "metrics.json"), Path("tasks/applications", model, "card.md")
    if not isinstance(gates, Mapping) or not report.exists():
        return
    metrics = json.loads(report.read_text(encoding="utf-8"))
    listed = card.read_text(encoding="utf-8") if card.exists() else ""
    for part in BOUNDS:
        for metric in gates.get(part) or ():
            if metric not in metrics and f"`{metric}`" not in listed:
                way_out = did_you_mean(str(metric), metrics) or f"; delete the gate, or list a new metric in {card}"
                yield f"{place}.{part}: no evaluation writes {metric!r}{way_out}"


def _own_errors(model: str, block: Values, values: Values) -> Iterator[str]:
    if check := import_module("tasks.applications").find_check(model):
        for key, reason in check(block, values):
            yield f"{place_of(model)}.{key}: {reason}"


def did_you_mean(name: str, names: Collection[str]) -> str:
    """A hint at the closest of the right names; empty if none is close."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def as_error(file: Path | str, reasons: Iterator[str] | list[str]) -> None:
    """Raise UserError with a line for each reason, if there are any."""
    if lines := [f"{file}: {reason}" for reason in dict.fromkeys(reasons)]:
        raise UserError("\n".join(lines))
