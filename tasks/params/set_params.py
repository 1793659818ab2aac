"""Set values in params.yaml, which otherwise stays as people wrote it."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from llm.errors import UserError
from llm.files import write_atomic
from tasks.params.load import check_values
from tasks.stages.names import PARAMS_FILE
from tasks.stages.yaml_text import parse_values, parse_yaml, read_text, with_value


def parse_settings(settings: Sequence[str]) -> list[dict[str, Any]]:
    """The changes that settings such as `foundation.train.steps=100,200` ask for: one for each combination of values.

    Raises UserError for a setting without a key or a value, and for a key that is set twice.
    """
    values: dict[str, list[Any]] = {}
    for setting in settings:
        key, mark, text = setting.partition("=")
        if not (mark and key.strip() and text.strip()):
            raise UserError(f"{setting!r}: write KEY=VALUE, such as foundation.train.steps=100")
        if key in values:
            raise UserError(f"{setting!r}: {key} is set twice; separate several values by commas")
        values[key] = parse_values(text)
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def changed_text(changes: Mapping[str, Any], path: Path = PARAMS_FILE) -> str:
    """The text of params.yaml with other values under some dotted keys; no other character changes.

    Raises UserError for an unknown key, and for values with which a run could not begin: see `check_params`.
    """
    text = read_text(path)
    parse_yaml(text, path)
    try:
        for key, value in changes.items():
            text = with_value(text, key, value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    check_values(parse_yaml(text, path), path)
    return text


def set_params(changes: Mapping[str, Any], path: Path = PARAMS_FILE) -> None:
    """Set values in params.yaml, all or none. Raises as `changed_text` does."""
    write_atomic(path, changed_text(changes, path))
