"""Set values in params.yaml, which otherwise stays as people wrote it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from llm.errors import UserError
from llm.files import write_atomic
from tasks.params.load import check_values
from tasks.stages.names import PARAMS_FILE
from tasks.stages.yaml_text import parse_yaml, read_text


def set_params(settings: Sequence[str], path: Path = PARAMS_FILE) -> None:
    """Write values such as `foundation.train.steps=100` into params.yaml, all or none.

    Comments, order and quotes stay; a key that is missing comes last in its mapping. Raises UserError for a setting
    without a key or a value, and for values with which a run could not begin.
    """
    text = read_text(path)
    parse_yaml(text, path)
    round_trip = _round_trip()
    document = round_trip.load(text)
    for setting in settings:
        key, mark, value = setting.partition("=")
        if not (mark and key.strip() and value.strip()):
            raise UserError(f"{setting!r}: write KEY=VALUE, such as foundation.train.steps=100")
        _set(document, key.strip(), _value(value))
    changed = io.StringIO()
    round_trip.dump(document, changed)
    check_values(parse_yaml(changed.getvalue(), path), path)
    write_atomic(path, changed.getvalue())


def _round_trip() -> YAML:
    """Reads and writes YAML with its comments, in the layout of our params.yaml."""
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 2**16
    round_trip.indent(mapping=2, sequence=4, offset=2)
    round_trip.representer.add_representer(type(None), _write_null)
    return round_trip


def _write_null(representer: Any, _: None) -> Any:
    """`null`, where ruamel would leave the place behind a key empty."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _value(text: str) -> Any:
    """A value of a command line, in a spelling that every reader of YAML takes for the same. Raises UserError."""
    try:
        value = YAML(typ="safe").load(text)  # of YAML 1.2: 1e-3 is a number
    except YAMLError:
        raise UserError(f"{text!r} is not YAML; put a text with special characters in quotes") from None
    return YAML().load(yaml.safe_dump(value, default_flow_style=True))


def _set(document: Any, key: str, value: Any) -> None:
    """Set the value under a dotted key, such as `datasets.corpus.sources.0.sha256`. Raises UserError for no mapping."""
    *parents, last = key.split(".")
    node = document
    for number, part in enumerate(parents):
        if isinstance(node, dict):
            node.setdefault(part, CommentedMap())
        node = node[_index(node, part, ".".join(parents[:number]))]
    node[_index(node, last, ".".join(parents))] = value


def _index(node: Any, part: str, parent: str) -> str | int:
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return int(part)
    raise UserError(f"{parent} has no {part}")
