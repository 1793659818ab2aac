"""What an application's folder says, by its name: an application of your own needs no entry in a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a start checks params.yaml in a moment: it imports neither torch nor pandas
    from tasks.measures.description import Evaluation, Review
    from tasks.training.description import Training

Check = Callable[[Mapping[str, Any], Mapping[str, Any]], Iterator[tuple[str, str]]]
"""`check(block, values)`: each mistake as a key of the block, and the reason with the way out. `values` are those of
params.yaml as they are written, and `block` is the application's, whose dataset exists."""


def find_check(name: str) -> Check | None:
    """How the application's block is checked against the others; None if its folder has no check.py."""
    module = f"{__package__}.{name}.check"
    try:
        return import_module(module).check
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(f"{__package__}.{name}"):
            raise
        return None


def training(name: str) -> Training:
    """How the application is trained. Raises ModuleNotFoundError if its folder has no train.py."""
    return import_module(f"{__package__}.{name}.train").TRAINING


def evaluation(name: str) -> Evaluation:
    """How the application is measured. Raises ModuleNotFoundError if its folder has no measure.py."""
    return import_module(f"{__package__}.{name}.measure").EVALUATION


def review(name: str) -> Review:
    """How two versions of it are compared. Raises ModuleNotFoundError if its folder has no review.py."""
    return import_module(f"{__package__}.{name}.review").REVIEW
