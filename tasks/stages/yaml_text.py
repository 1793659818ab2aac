"""A YAML file, read strictly."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from llm.errors import UserError, UserFileError


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
