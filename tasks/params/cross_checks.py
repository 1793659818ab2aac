"""Names in params.yaml: sections, and the datasets, bases and files that blocks name, checked before anything loads.

The checks read plain values and import no dataset, model or library of theirs, so they take a moment. DVC itself
refuses a model that starts from itself.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.data.published import PUBLISHED as PUBLISHED_WEIGHTS
from tasks.data.published import is_published
from tasks.params.mistakes import did_you_mean
from tasks.stages.names import (
    FOUNDATION,
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
        yield from _base_mistakes(f"{REPLAY}.{name}", inner(replay, "base"), values)
        yield from _prompts_mistakes(name, inner(replay, "prompts"))
    for model, block in model_blocks(values).items():
        yield from _dataset_mistakes(model, block, values)
        yield from _base_mistakes(model_key(model), block.get("base"), values)
        yield from _rehearsal_mistakes(model, block, values)


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


def _prompts_mistakes(name: str, prompts: Any) -> Iterator[str]:
    """Prompts that are not there."""
    if isinstance(prompts, str) and not Path(prompts).exists():
        yield f"{REPLAY}.{name}.prompts: there is no {prompts}"


def _rehearsal_mistakes(model: str, block: Values, values: Values) -> Iterator[str]:
    """Mistakes in `rehearses`: it must name a replay's answers or an existing file."""
    rehearses = block.get("rehearses")
    files = [str(NOTHING_TO_REHEARSE), *(str(replay_file(name)) for name in values[REPLAY])]
    if isinstance(rehearses, str) and rehearses not in files and not Path(rehearses).exists():
        yield f"{model_key(model)}.rehearses: there is no {rehearses}; name one of {', '.join(files)}"
