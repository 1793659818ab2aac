"""The dataset or application of a block in params.yaml, found by its name: no list names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm.errors import UserError

if TYPE_CHECKING:  # they load pandas and torch, which a check of params.yaml does not need
    from tasks.data.preprocess import Dataset
    from tasks.measures.description import Evaluation
    from tasks.training.description import Training

Check = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[tuple[str, str]]]
"""`check(block, values)`: each mistake as a key of the block, and the reason with the way out. `values` are those of
params.yaml as they are written, and `block` is the application's, whose dataset exists."""


def find_dataset(name: str) -> Dataset:
    """The dataset in tasks/data/<name>.py. Raises UserError without that file."""
    dataset: Dataset = _required(f"tasks.data.{name}")
    return dataset


def find_training(name: str) -> Training:
    """How an application is trained: tasks/applications/<name>/train.py. Raises UserError without that file."""
    training: Training = _required(f"tasks.applications.{name}.train").TRAINING
    return training


def find_evaluation(name: str) -> Evaluation:
    """How an application is measured: tasks/applications/<name>/measure.py. Raises UserError without that file."""
    evaluation: Evaluation = _required(f"tasks.applications.{name}.measure").EVALUATION
    return evaluation


def find_check(name: str) -> Check | None:
    """How an application's block is checked against the others; None if its folder has no check.py."""
    module = _optional(f"tasks.applications.{name}.check")
    check: Check | None = module and module.check
    return check


def _required(module_name: str) -> Any:
    module = _optional(module_name)
    if module is None:
        raise UserError(f"there is no {module_name.replace('.', '/')}.py")
    return module


def _optional(module_name: str) -> Any:
    """The module of that name; None if it, or its folder, is missing.

    Slices are imported by name here and nowhere else: a new one is added without an edit elsewhere, and a stage loads
    its own slice alone.
    """
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        return None
