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
REPLAY = "replay"
SMOKE = "smoke"
LISTS = ("datasets", "applications")  # sections that hold named blocks
SECTIONS = ("datasets", PUBLISHED, REPLAY, FOUNDATION, "applications", SMOKE)
NOTHING_TO_REHEARSE = Path("data/replay/nothing.jsonl")
BOUNDS = ("at_least", "at_most", "no_loss", "ahead")

Values = Mapping[str, Any]


def place_of(model: str) -> str:
    """The key of a model's block."""
    return model if model == FOUNDATION else f"applications.{model}"


def replay_file(name: str) -> Path:
    """The answers that a replay makes, an out of its stage."""
    return Path("data/replay") / f"{name}.jsonl"


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
    for name in ("datasets", REPLAY, FOUNDATION, "applications"):
        section = values.get(name)
        if not isinstance(section, Mapping):
            yield f"{name}: {'missing' if section is None else f'{section!r} is no mapping of names'}"


def cross_errors(values: Values) -> Iterator[str]:
    """All mistakes between blocks, each as `key: reason and way out`; `section_errors` must have found none."""
    yield from published_errors(values)
    for name, replay in values[REPLAY].items():
        yield from _replay_errors(name, replay, values)
    for model, block in model_blocks(values).items():
        yield from _dataset_errors(model, block, values)
        yield from _base_errors(model, block, values)
        yield from _rehearsal_errors(model, block, values)
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
    yield from _known_base_errors(place_of(model), base, values)
    ancestors = [model]
    while base in blocks and base not in ancestors:
        ancestors.append(base)
        base = blocks[base].get("base")
    if base == model:
        way = " -> ".join([*ancestors, model])
        yield f"{place_of(model)}.base: a model can't start from itself ({way}); name {FOUNDATION} or {PUBLISHED}"


def _known_base_errors(place: str, base: Any, values: Values) -> Iterator[str]:
    bases = [*model_blocks(values), *([PUBLISHED] if PUBLISHED in values else [])]
    if isinstance(base, str) and base not in bases:
        yield f"{place}.base: {base!r} is not one of {', '.join(bases)}"


def _replay_errors(name: str, replay: Any, values: Values) -> Iterator[str]:
    """A base that is unknown or that would rehearse its own answers, prompts that are not there, and a taken name."""
    place, base, prompts = f"{REPLAY}.{name}", inner(replay, "base"), inner(replay, "prompts")
    yield from _known_base_errors(place, base, values)
    if replay_file(name) == NOTHING_TO_REHEARSE:
        yield f"{place}: {NOTHING_TO_REHEARSE} is for those who rehearse nothing; give it another name"
    if isinstance(prompts, str) and not Path(prompts).exists():
        yield f"{place}.prompts: there is no {prompts}"
    blocks, ancestors = model_blocks(values), []
    while base in blocks and base not in ancestors:
        ancestors.append(base)
        if blocks[base].get("rehearses") == str(replay_file(name)):
            yield f"{place}.base: {base} itself rehearses these answers; name {FOUNDATION} or {PUBLISHED}"
        base = blocks[base].get("base")


def _rehearsal_errors(model: str, block: Values, values: Values) -> Iterator[str]:
    """Whether an application rehearses answers that a replay makes, or a file that is there."""
    rehearses = block.get("rehearses")
    files = [str(path) for path in (NOTHING_TO_REHEARSE, *map(replay_file, values[REPLAY]))]
    if isinstance(rehearses, str) and rehearses not in files and not Path(rehearses).exists():
        yield f"{place_of(model)}.rehearses: there is no {rehearses}; name one of {', '.join(files)}"


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
