"""Mistakes in params.yaml as lines: file, key, reason and way out."""

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from llm.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def did_you_mean(name: str, names: Collection[str]) -> str:
    """A hint at the closest of the right names; empty if none is close."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def raise_mistakes(file: Path | str, mistakes: Iterable[str]) -> None:
    """Raise UserError with a line for each mistake, if there are any."""
    lines = [f"{file}: {mistake}" for mistake in dict.fromkeys(mistakes)]
    if lines:
        raise UserError("\n".join(lines))


def run_checks(checks: Iterable[Callable[[], object]]) -> None:
    """Run all checks, and raise their errors as one, a line for each mistake."""
    lines: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            lines += str(error).splitlines()
    if lines:
        raise UserError("\n".join(dict.fromkeys(lines)))


def validated(model: type[Model], values: Any, *, key: str, file: Path) -> Model:
    """The values under `key` as a model. Raises UserError with a line for each mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistakes = [_mistake(detail, key, model) for detail in error.errors()]
        raise UserError("\n".join(f"{file}: {mistake}" for mistake in dict.fromkeys(mistakes))) from None


def _mistake(detail: Any, key: str, model: type[BaseModel]) -> str:
    """One of pydantic's errors as `key: reason`."""
    location = detail["loc"]
    full_key = ".".join([key, *map(str, location)])
    if detail["type"] == "missing":
        return f"{full_key}: missing"
    if detail["type"] == "extra_forbidden":
        known_keys = list(_model_at(model, location[:-1]).model_fields)
        return f"{full_key}: unknown key{did_you_mean(str(location[-1]), known_keys)}"
    message = detail["msg"].removeprefix("Value error, ")
    value = "" if isinstance(detail["input"], dict) else f", not {detail['input']!r}"
    return f"{full_key}: {message[0].lower()}{message[1:]}{value}"


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    """The model of the mapping at `location`."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:  # an index of a list, or a name that a mapping chose
            continue
        annotations = get_args(field.annotation) or (field.annotation,)
        model = next(kind for kind in annotations if isinstance(kind, type) and issubclass(kind, BaseModel))
    return model
