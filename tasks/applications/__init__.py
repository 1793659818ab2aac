"""The models that people use: one file each, which says how one is prepared for training.

An application is a module here with an `APPLICATION`, one in tasks/evaluation that measures it, a block under
`applications` in params.yaml, and a test; one in llm/applications, too, where it learns something new.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from llm.config import TrainConfig
from tasks.training.setup import TrainingSetup


def no_identity(params: TrainConfig) -> dict[str, str]:
    """Parameters and deps say it all."""
    return {}


@dataclass(frozen=True)
class Application:
    """What is an application's own."""

    objective: str
    """The file of llm/applications that it learns and answers by; its block in params.yaml names it for DVC."""
    train: type[TrainConfig]
    """Its `train` section in params.yaml."""
    prepare: Callable[..., TrainingSetup]
    """`prepare(params, data, base, workers)`: what is trained, from the `train` section, the dataset's folder, the
    folder of the model that it starts from (None for the foundation) and the workers that share it out."""
    cleaning: str | None = None
    """The module whose `clean_row` turns what people send into what the model reads, or raises its `RowError`; it has
    `INPUTS` and `REQUIREMENTS`, and ships with every version."""
    identity: Callable[[Any], dict[str, str]] = no_identity
    """What else the trained weights depend on, from the `train` section: names and hashes."""


def find(name: str) -> Application:
    """The application in `tasks/applications/<name>.py`. Raises ModuleNotFoundError without that file."""
    return import_module(f"{__name__}.{name}").APPLICATION
