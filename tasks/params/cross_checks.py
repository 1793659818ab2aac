"""What the blocks of params.yaml say about each other, checked before anything loads.

The checks read plain values and import no dataset, model or library of theirs, so they take a moment. What an
application's block says about its dataset or base is checked by `tasks/applications/<name>/check.py`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.data.published import PUBLISHED as PUBLISHED_WEIGHTS
from tasks.data.published import is_published
from tasks.params.mistakes import did_you_mean
from tasks.params.slices import find_check
from tasks.stages.names import (
    FOUNDATION,
    GATES_ON_METRICS,
    NOTHING_TO_REHEARSE,
    PUBLISHED,
    REPLAY,
    SMOKE,
    inner,
    model_key,
    replay_file,
)

NEEDED_SECTIONS = ("datasets", REPLAY, FOUNDATION, "applications")
SECTIONS = (*NEEDED_SECTIONS, PUBLISHED, SMOKE)

Values = Mapping[str, Any]


def model_blocks(values: Values) -> dict[str, Values]:
    """The blocks of the foundation and the applications, by model; without those that are no mapping."""
    blocks = {FOUNDATION: values[FOUNDATION], **values["applications"]}
    return {name: block for name, block in blocks.items() if isinstance(block, Mapping)}


def section_mistakes(values: Mapping[Any, Any]) -> Iterator[str]:
    """Sections that are unknown, missing or no mapping, each as `key: reason`."""
    for name in values:
        if name not in SECTIONS:
            yield f"{name}: unknown key{did_you_mean(str(name), SECTIONS)}"
    for name in NEEDED_SECTIONS:
        section = values.get(name)
        if section is None:
            yield f"{name}: missing"
        elif not isinstance(section, Mapping):
            yield f"{name}: {section!r} is no mapping of names"


def cross_mistakes(values: Values) -> Iterator[str]:
    """All mistakes between blocks, each as `key: reason and way out`; `section_mistakes` must have found none."""
    if PUBLISHED in values:
        yield from published_mistakes(values)
    for name, replay in values[REPLAY].items():
        yield from _replay_mistakes(name, replay, values)
    for model, block in model_blocks(values).items():
        yield from _dataset_mistakes(model, block, values)
        if model != FOUNDATION:
            yield from _base_mistakes(model_key(model), block.get("base"), values)
            yield from _circle_mistakes(model, values)
        yield from _rehearsal_mistakes(model, block, values)
        yield from _gate_mistakes(model, f"{model_key(model)}.review", block.get("review"))
        yield from _own_mistakes(model, block, values)
    for model, bounds in (inner(values, SMOKE, "bounds") or {}).items():
        yield from _gate_mistakes(model, f"{SMOKE}.bounds.{model}", bounds)


def published_mistakes(values: Values) -> Iterator[str]:
    """Whether `published` names weights."""
    name = values[PUBLISHED]
    if name is None:
        yield f"{PUBLISHED}: missing"
    elif not isinstance(name, str):
        yield f"{PUBLISHED}: {name!r} is no name of weights"
    elif not is_published(name):
        names = ", ".join(PUBLISHED_WEIGHTS)
        yield f"{PUBLISHED}: {name!r} is not one of {names}, and no folder or .gguf file here"


def _dataset_mistakes(model: str, block: Values, values: Values) -> Iterator[str]:
    """A dataset that has no block."""
    dataset = block.get("dataset")
    datasets = values["datasets"]
    if isinstance(dataset, str) and dataset not in datasets:
        yield f"{model_key(model)}.dataset: {dataset!r} is not one of {', '.join(datasets)}"


def _base_mistakes(key: str, base: Any, values: Values) -> Iterator[str]:
    """A base that is no model here."""
    bases = [*model_blocks(values)]
    if PUBLISHED in values:
        bases.append(PUBLISHED)
    if isinstance(base, str) and base not in bases:
        yield f"{key}.base: {base!r} is not one of {', '.join(bases)}"


def _bases_of(base: Any, values: Values) -> list[str]:
    """A base and the models that it starts from in turn, each once; the last may lead back to one of them."""
    blocks = model_blocks(values)
    bases: list[str] = []
    while isinstance(base, str) and base in blocks and base not in bases:
        bases.append(base)
        base = blocks[base].get("base")
    return bases


def _circle_mistakes(model: str, values: Values) -> Iterator[str]:
    """A model that starts from itself."""
    circle = _bases_of(model, values)
    last = model_blocks(values)[circle[-1]]
    if last.get("base") == model:
        way = " -> ".join([*circle, model])
        yield f"{model_key(model)}.base: a model can't start from itself ({way}); name {FOUNDATION} or {PUBLISHED}"


def _replay_mistakes(name: str, replay: Any, values: Values) -> Iterator[str]:
    """A base that is unknown or that would rehearse its own answers, prompts that are not there, and a taken name."""
    key = f"{REPLAY}.{name}"
    base = inner(replay, "base")
    prompts = inner(replay, "prompts")
    yield from _base_mistakes(key, base, values)
    if replay_file(name) == NOTHING_TO_REHEARSE:
        yield f"{key}: {NOTHING_TO_REHEARSE} is for those who rehearse nothing; give it another name"
    if isinstance(prompts, str) and not Path(prompts).exists():
        yield f"{key}.prompts: there is no {prompts}"
    for model in _bases_of(base, values):
        if model_blocks(values)[model].get("rehearses") == str(replay_file(name)):
            yield f"{key}.base: {model} itself rehearses these answers; name {FOUNDATION} or {PUBLISHED}"


def _rehearsal_mistakes(model: str, block: Values, values: Values) -> Iterator[str]:
    """Mistakes in `rehearses`: it must name a replay's answers or an existing file."""
    rehearses = block.get("rehearses")
    files = [str(NOTHING_TO_REHEARSE), *(str(replay_file(name)) for name in values[REPLAY])]
    if isinstance(rehearses, str) and rehearses not in files and not Path(rehearses).exists():
        yield f"{model_key(model)}.rehearses: there is no {rehearses}; name one of {', '.join(files)}"


def _gate_mistakes(model: str, key: str, gates: Any) -> Iterator[str]:
    """Gates on metrics that the last evaluation did not write and the model's card does not list."""
    report = Path("reports/evaluation", model, "metrics.json")
    if not isinstance(gates, Mapping) or not report.exists():
        return
    metrics = json.loads(report.read_text(encoding="utf-8"))
    card = Path("tasks/applications", model, "card.md")
    card_text = card.read_text(encoding="utf-8") if card.exists() else ""
    for gate in GATES_ON_METRICS:
        for metric in gates.get(gate) or ():
            if metric in metrics or f"`{metric}`" in card_text:
                continue
            way_out = did_you_mean(str(metric), metrics) or f"; delete the gate, or list a new metric in {card}"
            yield f"{key}.{gate}: no evaluation writes {metric!r}{way_out}"


def _own_mistakes(model: str, block: Values, values: Values) -> Iterator[str]:
    """What the application's own check.py finds, if its dataset exists."""
    dataset = inner(values, "datasets", str(block.get("dataset")))
    check = find_check(model)
    if check is None or not isinstance(dataset, Mapping):
        return
    for key, reason in check(block, values):
        yield f"{model_key(model)}.{key}: {reason}"
