"""Blocks of params.yaml, read and checked. A stage reads its own block alone.

Every function here raises UserError with a line for each mistake: file, key, reason and way out.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from llm.config import Replay
from llm.errors import UserError
from tasks.data.sources import Source, check_globs
from tasks.params.blocks import DatasetBlock, DatasetOutline, ModelBlock, Part, Smoke, parse_dataset, parse_model
from tasks.params.cross_checks import cross_mistakes, published_mistakes, section_mistakes
from tasks.params.mistakes import raise_mistakes, run_checks, validated
from tasks.stages.names import FOUNDATION, PARAMS_FILE, PUBLISHED, REPLAY, SMOKE, named_blocks
from tasks.stages.yaml_text import merged, read_yaml

Values = dict[str, Any]


def load_dataset(name: str, path: Path = PARAMS_FILE) -> DatasetBlock:
    """The block of a dataset: `sources` and `preprocess`."""
    blocks = named_blocks(read_yaml(path), "datasets", path)
    return parse_dataset(name, blocks.get(name, {}), path)


def load_sources(name: str, path: Path = PARAMS_FILE) -> list[Source]:
    """The `sources` of a dataset."""
    return load_dataset(name, path).sources


def load_preprocess(name: str, path: Path = PARAMS_FILE) -> Any:
    """The `preprocess` section of a dataset; its sources are not checked."""
    blocks = named_blocks(read_yaml(path), "datasets", path)
    block = {**(blocks.get(name) or {}), "sources": ["."]}
    return parse_dataset(name, block, path).preprocess


def load_application(
    name: str, path: Path = PARAMS_FILE, parts: tuple[Part, ...] = ("train", "evaluate")
) -> ModelBlock:
    """The block of the foundation or an application; a section that is not among `parts` is not checked."""
    values = read_yaml(path)
    blocks = values if name == FOUNDATION else named_blocks(values, "applications", path)
    return parse_model(name, blocks.get(name, {}), path, parts=parts)


def load_training(name: str, path: Path = PARAMS_FILE) -> ModelBlock:
    """The block of a model of which only `evaluate` is not checked."""
    return load_application(name, path, ("train",))


def load_evaluation(name: str, path: Path = PARAMS_FILE) -> ModelBlock:
    """The block of a model of which only `train` is not checked."""
    return load_application(name, path, ("evaluate",))


def load_published_name(path: Path = PARAMS_FILE) -> str:
    """The published weights that fine-tunes may start from; it is a mistake if there are none."""
    name = read_yaml(path).get(PUBLISHED)
    raise_mistakes(path, published_mistakes({PUBLISHED: name}))
    return str(name)


def load_replay(name: str, path: Path = PARAMS_FILE) -> Replay:
    """The block of a replay."""
    blocks = named_blocks(read_yaml(path), REPLAY, path)
    return _parse_replay(name, blocks.get(name, {}), path)


def _parse_replay(name: str, block: Any, path: Path) -> Replay:
    return validated(Replay, block, key=f"{REPLAY}.{name}", file=path)


def load_smoke(path: Path = PARAMS_FILE) -> Smoke:
    """The section `smoke`; it is a mistake if its values make another block invalid."""
    return _parse_smoke(read_yaml(path), path)


def reduced(values: Values, smoke: Smoke) -> Values:
    """All parameters, updated by those of a smoke run.

    Its blocks of missing datasets, replays and applications are ignored.
    """
    changes = dict(smoke.params)
    for section in ("datasets", REPLAY, "applications"):
        blocks = changes.get(section, {})
        changes[section] = {name: block for name, block in blocks.items() if name in values[section]}
    return merged(values, changes)


def _parse_smoke(values: Values, path: Path) -> Smoke:
    smoke = validated(Smoke, named_blocks(values, SMOKE, path), key=SMOKE, file=path)
    sections = ("datasets", "applications", PUBLISHED, REPLAY, FOUNDATION)
    raise_mistakes(path, [f"{SMOKE}.params.{name}: unknown key" for name in smoke.params if name not in sections])
    _check_blocks(reduced(values, smoke), Path(f"{path}: {SMOKE}.params"))
    return smoke


def check_params(path: Path = PARAMS_FILE) -> None:
    """Check all of params.yaml."""
    check_values(read_yaml(path), path)


def check_values(values: Values, path: Path = PARAMS_FILE) -> None:
    """Check what params.yaml holds, or would hold."""
    raise_mistakes(path, section_mistakes(values))
    run_checks([partial(_check_outline, values, path), partial(_check_blocks, values, path)])
    if SMOKE in values:
        _parse_smoke(values, path)


def check_outline(path: Path = PARAMS_FILE) -> None:
    """Check sections, sources, and what blocks of params.yaml say about each other.

    It takes a moment, as it imports no dataset and no model. Runs, stages and `threestage status` begin with it, so
    that no mistake is found in the middle of a run, or reported by DVC, which is less clear.
    """
    values = read_yaml(path)
    raise_mistakes(path, section_mistakes(values))
    _check_outline(values, path)


def _check_outline(values: Values, path: Path) -> None:
    checks: list[Callable[[], object]] = []
    for name, block in values["datasets"].items():
        checks.append(partial(_check_sources, name, block, path))
    checks.append(partial(_check_between, values, path))
    run_checks(checks)


def _check_sources(name: str, block: Any, path: Path) -> None:
    """The sources of a dataset, and the globs of `train_only` that name them."""
    outline = validated(DatasetOutline, block, key=f"datasets.{name}", file=path)
    if not outline.sources:
        return
    try:
        check_globs(outline.sources, outline.preprocess.train_only)
    except UserError as error:
        raise UserError(f"{path}: datasets.{name}.preprocess.train_only: {error}") from None


def _check_between(values: Values, path: Path) -> None:
    raise_mistakes(path, cross_mistakes(values))


def _check_blocks(values: Values, path: Path) -> None:
    """Each block by its own class, and what blocks say about each other."""
    checks: list[Callable[[], object]] = [partial(_check_between, values, path)]
    for name, block in values["datasets"].items():
        checks.append(partial(parse_dataset, name, block, path))
    for name, block in values[REPLAY].items():
        checks.append(partial(_parse_replay, name, block, path))
    checks.append(partial(parse_model, FOUNDATION, values[FOUNDATION], path))
    for name, block in values["applications"].items():
        checks.append(partial(parse_model, name, block, path))
    run_checks(checks)
