"""The text of a YAML file: read strictly, and changed in one value at a time.

PyYAML says where in the text each value stands, so that a new value replaces the old one's characters and no others:
comments, order, quotes and layout stay as people wrote them.
"""

import re
import textwrap
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llm.errors import UserError, UserFileError

FLOAT = "tag:yaml.org,2002:float"
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""1e-3 is a number to people and to DVC, and a text to PyYAML."""


class _UniqueKeys(yaml.CSafeLoader):
    """Rejects a mapping with a duplicate key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise UserError(f"row {line}: {key!r} is no key")
            if key in seen:
                raise UserError(f"row {line}: {key} stands here and in row {seen[key]}; keep one of them")
            seen[key] = line
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Values(yaml.SafeLoader):
    """Reads the values of a command line."""


_Values.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError, naming file and reason, if there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserFileError(f"{path}: there is no such file in {Path.cwd()}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8") from None


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """The mapping in the text of a file. Raises UserError, naming file, row and reason, for anything else."""
    try:
        values = yaml.load(text, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        row = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, row {row}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from None
    except UserError as error:
        raise UserError(f"{path}, {error}") from None
    except RecursionError:
        raise UserError(f"{path}: it is nested too deep") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds {'nothing' if values is None else repr(values)}, not sections")
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping. Raises UserError, naming file, row and reason, for anything else and for no file."""
    return parse_yaml(read_text(path), path)


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested values, updated by others."""
    inner = {key: merged(values.get(key) or {}, new) for key, new in changes.items() if isinstance(new, dict)}
    return values | changes | inner


def parse_values(text: str) -> list[Any]:
    """The values of `0.02,0.03` or `[a, b]`; a comma outside of brackets and quotes separates two values.

    Raises UserError for a text that is not YAML.
    """
    try:
        values: list[Any] = yaml.load(f"[{text}]", Loader=_Values)
    except yaml.YAMLError:
        raise UserError(f"{text!r} is not YAML; put a text with special characters in quotes") from None
    return values


@dataclass(frozen=True)
class _Location:
    """The last node on the way to a key."""

    node: yaml.Node
    start: int
    """The index of the character after the node's own key."""
    missing: list[str]
    """The parts of the key that the text does not have."""


def with_value(text: str, key: str, value: Any) -> str:
    """A YAML text with another value under a dotted key, such as `datasets.corpus.sources.0.sha256`.

    All other characters stay. A key that a mapping does not have becomes its first. Raises UserError for a key of
    something that is no mapping, and for one whose value is shared by an alias.
    """
    parts = key.split(".")
    location = _locate(yaml.compose(text, Loader=yaml.SafeLoader), parts)
    changed = _with_new_key(text, location, value) if location.missing else _with_other_value(text, location, value)
    expected = _replaced(yaml.safe_load(text), parts, value)
    try:
        is_as_expected = yaml.safe_load(changed) == expected
    except yaml.YAMLError:
        is_as_expected = False
    if not is_as_expected:
        raise UserError(f"{key}: its value is shared or laid out in an unusual way; edit the file")
    return changed


def with_item(text: str, key: str, item: Any) -> str:
    """A YAML text with an item behind those of the list under a dotted key. Raises UserError for no list of lines."""
    node = _list_under(text, key)
    lines = yaml.safe_dump([item], sort_keys=False, allow_unicode=True, width=2**30)
    indented = textwrap.indent(lines, " " * node.start_mark.column)
    end = _end_of_line(text, _end(node))
    return f"{text[:end]}{indented}{text[end:]}"


def without_item(text: str, key: str, number: int) -> str:
    """A YAML text without an item of the list under a dotted key; comments before the next one stay.

    Raises UserError for no list of lines.
    """
    item = _list_under(text, key).value[number]
    start = text.rindex("\n", 0, item.start_mark.index) + 1
    return f"{text[:start]}{text[_end_of_line(text, _end(item)) :]}"


def _list_under(text: str, key: str) -> yaml.SequenceNode:
    location = _locate(yaml.compose(text, Loader=yaml.SafeLoader), key.split("."))
    node = location.node
    if location.missing or not isinstance(node, yaml.SequenceNode) or not _is_block(node):
        raise UserError(f"{key}: write it as a list, a line for each item")
    return node


def _end_of_line(text: str, index: int) -> int:
    """The index of the line after the one in which `index` is."""
    end = text.find("\n", index)
    return len(text) if end < 0 else end + 1


def _with_other_value(text: str, location: _Location, value: Any) -> str:
    node = location.node
    if _is_block(node):
        return f"{text[: text.index(':', location.start) + 1]} {_spelled(value)}{text[_end(node) :]}"
    begin = node.start_mark.index
    space = " " if begin == _end(node) else ""  # after `key:` without a value
    return f"{text[:begin]}{space}{_spelled(value)}{text[_end(node) :]}"


def _with_new_key(text: str, location: _Location, value: Any) -> str:
    """The text with the missing parts of a key before the first key of a mapping."""
    node = location.node
    entry = _spelled(_replaced({}, location.missing, value))[1:-1]
    if not _is_block(node):
        begin = node.start_mark.index + 1
        separator = ", " if node.value else ""
        return f"{text[:begin]}{entry}{separator}{text[begin:]}"
    start = node.value[0][0].start_mark
    return f"{text[: start.index]}{entry}\n{' ' * start.column}{text[start.index :]}"


def _locate(root: yaml.Node, parts: list[str]) -> _Location:
    """The node of a key, or of the innermost mapping on the way to it.

    Raises UserError if a part of the key is in something that is no mapping.
    """
    location = _Location(root, 0, parts)
    while location.missing:
        part = location.missing[0]
        node = location.node
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == part), None)
            if pair is None:
                return location
            location = _Location(pair[1], pair[0].end_mark.index, location.missing[1:])
        elif isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
            location = _Location(node.value[int(part)], node.start_mark.index, location.missing[1:])
        else:
            parent = ".".join(parts[: -len(location.missing)])
            raise UserError(f"{parent} has no {part}")
    return location


def _is_block(node: yaml.Node) -> bool:
    """Whether a value stands on the lines below its key."""
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _end(node: yaml.Node) -> int:
    """The index of the character after a value; of a block, without the comments after it."""
    if not _is_block(node):
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _spelled(value: Any) -> str:
    """A value on one line, as it may stand in a block or between commas."""
    text: str = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, sort_keys=False, width=2**30)
    return text[1:-2]


def _replaced(values: Any, parts: list[str], value: Any) -> Any:
    """Nested values with another one under the keys `parts`."""
    if not parts:
        return value
    if isinstance(values, list):
        number = int(parts[0])
        return [*values[:number], _replaced(values[number], parts[1:], value), *values[number + 1 :]]
    name = next((name for name in values if str(name) == parts[0]), parts[0])
    return values | {name: _replaced(values.get(name, {}), parts[1:], value)}
