"""Sources that are added to params.yaml, replaced or removed; all that it says otherwise stays as people wrote it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llm.errors import UserError
from llm.files import write_atomic
from tasks.data.sources import Source, check_globs, source_name
from tasks.params.load import check_values
from tasks.stages.names import PARAMS_FILE, inner, named_blocks
from tasks.stages.yaml_text import parse_yaml, read_text, with_item, with_value, without_item

Entry = Mapping[str, Any]
"""A source as it stands in params.yaml."""


Changes = Mapping[str, Mapping[str, str]]
"""Entries that are added to mappings under `preprocess`, such as `label_map`."""


def add_source(dataset: str, entry: Entry, changes: Changes, path: Path = PARAMS_FILE) -> None:
    """Put a source behind those of a dataset.

    Raises UserError for one that is there already, and for a params.yaml with which a run could not begin.
    """
    text = read_text(path)
    name = source_name(Source.model_validate(entry))
    if name in _names(text, dataset, path):
        raise UserError(f"{dataset} has a source {name} already: replace it, or give this one another name")
    _write(_with_changes(with_item(text, _key(dataset), dict(entry)), dataset, changes), path)


def replace_sources(
    dataset: str, entry: Entry, changes: Changes, *, replaced: str | None = None, path: Path = PARAMS_FILE
) -> list[str]:
    """Put a source in the place of that of the name `replaced`, or of all of a dataset.

    Patterns that no source has any more are removed; returns a line for each. Raises UserError for an unknown name and
    as `add_source`.
    """
    text = read_text(path)
    names = _names(text, dataset, path)
    leaving = names if replaced is None else [_known(replaced, names, dataset)]
    text = _with_changes(with_item(text, _key(dataset), dict(entry)), dataset, changes)
    for number in reversed(range(len(names))):
        if names[number] in leaving:
            text = without_item(text, _key(dataset), number)
    return _write_without_globs(text, dataset, path)


def remove_source(dataset: str, name: str, path: Path = PARAMS_FILE) -> list[str]:
    """Remove a source of a dataset by its name; returns and raises as `replace_sources`."""
    text = read_text(path)
    names = _names(text, dataset, path)
    number = names.index(_known(name, names, dataset))
    if len(names) == 1:
        raise UserError(f"{name} is the only source of {dataset}: replace it instead")
    return _write_without_globs(without_item(text, _key(dataset), number), dataset, path)


def _with_changes(text: str, dataset: str, changes: Changes) -> str:
    preprocess = inner(yaml.safe_load(text)["datasets"], dataset, "preprocess") or {}
    for key, new in changes.items():
        if new:
            text = with_value(text, f"datasets.{dataset}.preprocess.{key}", {**(preprocess.get(key) or {}), **new})
    return text


def _key(dataset: str) -> str:
    return f"datasets.{dataset}.sources"


def _sources(text: str, dataset: str, path: Path) -> list[Source]:
    blocks = named_blocks(parse_yaml(text, path), "datasets", path)
    if dataset not in blocks:
        raise UserError(f"there is no dataset {dataset!r}; those are {', '.join(blocks)}")
    return [Source.model_validate(entry) for entry in inner(blocks[dataset], "sources") or []]


def _names(text: str, dataset: str, path: Path) -> list[str]:
    return [source_name(source) for source in _sources(text, dataset, path)]


def _known(name: str, names: Sequence[str], dataset: str) -> str:
    if name not in names:
        raise UserError(f"{dataset} has no source {name!r}; those are {', '.join(names)}")
    return name


def _write_without_globs(text: str, dataset: str, path: Path) -> list[str]:
    """Write params.yaml without the patterns of rows that no source has any more; a line for each."""
    values = parse_yaml(text, path)
    sources = _sources(text, dataset, path)
    keys = [f"datasets.{dataset}.preprocess.train_only"]
    for application, block in named_blocks(values, "applications", path).items():
        if inner(block, "dataset") == dataset:
            keys.append(f"applications.{application}.train.twice")
    removed: list[str] = []
    for key in keys:
        globs = inner(values, *key.split(".")) or []
        kept = [glob for glob in globs if _fits(glob, sources)]
        if kept != globs:
            text = with_value(text, key, kept)
            removed += [f"{key}: {glob} is removed" for glob in globs if glob not in kept]
    _write(text, path)
    return removed


def _fits(glob: str, sources: list[Source]) -> bool:
    try:
        check_globs(sources, [glob])
    except UserError:
        return False
    return True


def _write(text: str, path: Path) -> None:
    check_values(parse_yaml(text, path), path)
    write_atomic(path, text)
