"""How an application is trained: `TRAINING` in its train.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.config import TrainConfig
from tasks.training.setup import TrainingSetup
from tasks.training.shown_row import ShownRow


def no_identity(params: TrainConfig) -> dict[str, str]:
    """Nothing beyond parameters and deps."""
    return {}


def no_samples(setup: TrainingSetup[Any], data: Path, evaluate: Mapping[str, Any]) -> list[str]:
    """No texts."""
    return []


@dataclass(frozen=True)
class Training:
    """How an application is trained."""

    objective: str
    """The folder of llm/objectives with its loss and its answers; its block in params.yaml repeats the name for DVC."""
    train: type[TrainConfig]
    """Its `train` section in params.yaml."""
    prepare: Callable[..., TrainingSetup[Any]]
    """`prepare(params, files)` returns what is trained, from the `train` section and the `TrainingFiles`."""
    samples: Callable[[TrainingSetup[Any], Path, Mapping[str, Any]], list[str]] = no_samples
    """`samples(setup, data, evaluate)` returns texts to show at each evaluation of a training, from the dataset's
    folder and the `evaluate` section as it is written. They are only logged: no out contains them."""
    cleaning: str | None = None
    """The package whose `clean_row` turns what people send into what the model reads, or raises its `RowError`; it has
    `INPUTS` and `REQUIREMENTS`, and ships with every version."""
    show: Callable[..., ShownRow] | None = None
    """`show(params, files, split=…, number=…)` returns a row as the model reads it, for `threestage data show`."""
    identity: Callable[[Any], dict[str, str]] = no_identity
    """Anything else on which the trained weights depend, from the `train` section: names and hashes."""
