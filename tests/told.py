"""OpenLineage events in a file, and whether they are what the standard says."""

import json
from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

EVENTS = "events.jsonl"


def to_file(path: Path) -> dict[str, str]:
    """The variables with which the client writes its events to a file, one a line."""
    transport = {"TYPE": "file", "LOG_FILE_PATH": str(path), "APPEND": "true"}
    return {f"OPENLINEAGE__TRANSPORT__{name}": value for name, value in transport.items()}


def read_events(path: Path) -> list[dict]:
    """What was written, in its order."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(event: dict) -> None:
    """Make an event of JSON with the client's classes, which it generates from the standard's schemas: each facet with
    the one that its schema's URL names. Raises for a field that is missing, unknown or of another type."""
    from openlineage.client.serde import Serde

    assert Serde.to_dict(_made(event, _class(event["schemaURL"]))) == event


def _generated() -> Iterator[Any]:
    import openlineage.client.generated as package

    for module in iter_modules(package.__path__):
        yield import_module(f"{package.__name__}.{module.name}")


def _class(url: str) -> type:
    """The class whose schema has this URL."""
    name = url.rpartition("/")[2]
    found = [getattr(module, name) for module in _generated() if hasattr(module, name)]
    (kind,) = {each for each in found if each._get_schema() == url}
    return kind


def _made(value: Any, kind: Any) -> Any:
    if get_origin(kind) is UnionType:
        kind, *others = [each for each in get_args(kind) if each is not type(None)]
        assert not others
    if get_origin(kind) is list:
        return [_made(each, *get_args(kind)) for each in value]
    if get_origin(kind) is dict:
        return {name: _made(each, get_args(kind)[1]) for name, each in value.items()}
    if kind is Any:
        return value
    if not hasattr(kind, "__attrs_attrs__"):
        plain = str if issubclass(kind, Enum) else (int, float) if kind is float else kind
        assert isinstance(value, plain), (value, kind)
        return kind(value) if issubclass(kind, Enum) else value
    kind = _class(value["_schemaURL"]) if "_schemaURL" in value else kind
    hints, fields = get_type_hints(kind), {field.name: field for field in kind.__attrs_attrs__}
    more = {name: value[name] for name in value.keys() - fields.keys()}
    given = {
        field.alias: _made(value[name], hints[name]) for name, field in fields.items() if field.init and name in value
    }
    made = kind(**given)
    if more:
        assert kind.__name__ == "RunFacet"  # ours, which stands in no schema
        made = made.with_additional_properties(**more)
    return made
