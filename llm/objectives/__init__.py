"""What is learned: one folder an objective, from the rows that it learns from to the answers that it gives.

A model folder's config.json names its `objective`, which is a module of this package and has

- `objective(model, …)`: the `Objective` (llm/training/objective.py) that the loop minimises. The metrics of its
  `evaluate` are named `validation_…`, `validation_loss` among them;
- `build(gpt, config)`: a GPT, or a module around it as its `gpt`, from the rest of config.json, where its `describe()`
  wrote it;
- `INPUTS`, `OUTPUTS`, `OPTIONS` and `EXAMPLE`: the columns of a row that it answers and of its answer, with their
  types, the options with their defaults, and a row to try;
- `serve(model, encoding, rows, **options)`: an answer a row, or `{"error": reason}` for a row that has none;
- `CAPABILITIES`: what the app can offer with it, the main one first. CHAT needs a GPT with a template as its `chat`,
  COMPLETE a GPT, CLASSIFY a `Classifier`, GUARD one with `guard_replies` in its objective.

Any of these constants may be a function of config.json that gives it.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import tiktoken
import torch
from torch import nn

from llm.errors import UserError
from llm.formats.model_folder import load_model, read_config
from llm.generation.packed import pack_for_inference, pack_for_reading
from llm.model.gpt import GPT

CHAT, COMPLETE, CLASSIFY, GUARD = "chat", "complete", "classify", "guard"
T = TypeVar("T")
Row = Mapping[str, Any]


def objective_module(folder: Path) -> ModuleType:
    """The module of this package that a model folder's config.json names. Raises UserError for an unknown one."""
    name = read_config(folder)["objective"]
    known = sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))
    if name not in known:
        raise UserError(f"{folder / 'config.json'}: objective {name!r} is not one of {', '.join(known)}")
    return import_module(f"{__name__}.{name}")


def _constant(folder: Path, name: str) -> Any:
    """A constant of a model folder's objective, or what its function gives for config.json."""
    value = getattr(objective_module(folder), name)
    try:
        return value(read_config(folder)) if callable(value) else value
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'}: {error} is missing") from None


def capabilities(folder: Path) -> tuple[str, ...]:
    """What a model folder can do: CHAT, COMPLETE, CLASSIFY or GUARD, the main one first; raises as `outputs`."""
    return _constant(folder, "CAPABILITIES")


def inputs(folder: Path) -> dict[str, Any]:
    """The columns of a row that a model folder answers, and their types; raises as `outputs`."""
    return dict(_constant(folder, "INPUTS"))


def outputs(folder: Path) -> dict[str, Any]:
    """The columns that a model folder answers with, and their types. Raises UserError where config.json lacks them."""
    return dict(_constant(folder, "OUTPUTS"))


def example(folder: Path) -> dict[str, Any]:
    """A row to try a model folder with; raises as `outputs`."""
    return dict(_constant(folder, "EXAMPLE"))


def load(folder: Path, device: torch.device | str = "cpu") -> tuple[nn.Module, tiktoken.Encoding]:
    """Read any model folder, in evaluation mode; raises as `load_model`."""
    return load_model(folder, device, build=objective_module(folder).build)


def load_for_inference(folder: Path) -> tuple[nn.Module, tiktoken.Encoding]:
    """Read any model folder for answers alone, its matrices in what a CPU multiplies fastest; raises as above."""
    model, encoding = load_model(folder, build=objective_module(folder).build, as_stored=True)
    if isinstance(model, GPT):
        model = pack_for_inference(model)
    else:
        model.gpt = pack_for_reading(model.float().gpt)
    return model, encoding


def text_of(row: Row, name: str, default: str | None = None) -> str:
    """The text in a row's column; `default` where there is none. Raises UserError for anything else."""
    value = row.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise UserError(f"{name}: {'missing' if value is None else f'{value!r} is not text'}")
    return value


def answer_each(
    rows: Sequence[Row], prepare: Callable[[Row], T], answer: Callable[[list[T]], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Answer together all rows that `prepare` accepts; of another its UserError is the answer, under `error`."""
    prepared: dict[int, T] = {}
    answers: list[dict[str, Any]] = [{} for _ in rows]
    for number, row in enumerate(rows):
        try:
            prepared[number] = prepare(row)
        except UserError as error:
            answers[number] = {"error": str(error)}
    for number, found in zip(prepared, answer(list(prepared.values())) if prepared else [], strict=True):
        answers[number] = found
    return answers
