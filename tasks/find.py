"""The dataset or application of a block in params.yaml, found by its name: no list names them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm.errors import UserError

if TYPE_CHECKING:  # they import pandas and torch
    from tasks.data.preprocess import Dataset
    from tasks.measures.description import Evaluation
    from tasks.training.description import Training


def find_dataset(name: str) -> "Dataset":
    """The dataset in tasks/data/<name>.py. Raises UserError without that file."""
    return _find_module(f"tasks.data.{name}")


def find_training(name: str) -> "Training":
    """How an application is trained: tasks/applications/<name>/train.py. Raises UserError without that file."""
    return _find_module(f"tasks.applications.{name}.train").TRAINING


def find_evaluation(name: str) -> "Evaluation":
    """How an application is measured: tasks/applications/<name>/measure.py. Raises UserError without that file."""
    return _find_module(f"tasks.applications.{name}.measure").EVALUATION


def _find_module(name: str) -> Any:
    """A module of a dataset or an application. It is found by its name, so that a new one stands in no list."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"there is no {name.replace('.', '/')}.py") from None
