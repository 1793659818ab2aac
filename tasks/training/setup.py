"""The set-up of a training: the model, its objective, and the units in which its speed is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple

import torch

from llm.config import FinetuneConfig, TrainConfig
from llm.device import Compute
from llm.errors import UserFileError
from llm.loaded_model import LoadedModel
from llm.training.objective import ModelT, Objective, Row


def keeps_precision(params: FinetuneConfig, compute: Compute) -> bool:
    """Whether a base stays as it is stored: frozen bfloat16 is multiplied as it is, and takes half of the memory."""
    return params.lora is not None and compute.dtype == torch.bfloat16


class Throughput(NamedTuple):
    """The work of a step, to show its speed."""

    units: str
    """Tokens or emails."""
    units_a_step: int
    flops_a_unit: int = 0
    """FLOPs of training on one unit; 0 if it is not known."""


@dataclass
class TrainingSetup(Generic[ModelT]):
    """What is trained: a model with its tokenizer, and its objective."""

    loaded: LoadedModel[ModelT]
    objective: Objective[ModelT]
    compute: Compute
    throughput: Throughput
    finish: Callable[[], dict[str, float]] = dict
    """A last step with the trained weights, such as choosing a threshold on validation. Returns its metrics there."""


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    setup: TrainingSetup[Any]
    history: list[Row]
    """A row of metrics a step."""
    metrics: dict[str, float]
    """Those of the setup's last step."""


@dataclass(frozen=True)
class TrainingFiles:
    """What a training reads."""

    dataset: Path
    """The folder of the processed dataset."""
    base: Path | None = None
    """The folder of the model that it starts from; None for the foundation."""
    rehearses: Path | None = None
    """The base's answers to general prompts, as the stage `replay` writes them; None for the foundation."""


Prepare = Callable[[TrainConfig], TrainingSetup[Any]]
"""Builds what is trained from the `train` section."""

Samples = Callable[[TrainingSetup[Any]], list[str]]
"""Makes texts for people to read, at each evaluation."""


def split_file(data: Path, split: str) -> Path:
    """A dataset's file of one split, such as `train.parquet`. Raises UserFileError if there is none."""
    files = sorted(data.glob(f"{split}.*"))
    if not files:
        raise UserFileError(f"{data}: holds no {split}; run `dvc repro preprocess@{data.name}`")
    return files[0]


def training_files(data: Path) -> dict[str, Path]:
    """The files of a dataset that a training reads."""
    return {split: split_file(data, split) for split in ("train", "validation")}
