"""What is trained: a model, what it is to learn, and how fast that goes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tiktoken
import torch
from torch import nn

from llm.config import LoRAConfig, Rate, TrainConfig
from llm.device import Compute
from llm.errors import UserFileError
from llm.training.loop import Objective
from llm.training.workers import Workers


class FinetuneConfig(TrainConfig):
    """What all fine-tunes can be told."""

    lora: LoRAConfig | None = None
    """Train thin matrices beside the frozen ones, and merge them at the end; without it all weights move."""
    dropout: Rate = 0.0
    """Share of activations dropped in training."""


def keeps_precision(params: FinetuneConfig, compute: Compute, workers: Workers) -> bool:
    """Whether a base stays as it is stored: frozen bfloat16 is multiplied as it is, and takes half of the memory.

    FSDP shards weights of one precision alone.
    """
    return params.lora is not None and compute.dtype == torch.bfloat16 and not workers.sharded


class Throughput(NamedTuple):
    """What a step does, for people to see its speed."""

    units: str
    """Tokens or emails."""
    units_a_step: int
    flops_a_unit: int = 0
    """FLOPs that training spends on one; 0 where that is not known."""


@dataclass
class TrainingSetup:
    """A model, what it is to learn, and the tokenizer that it reads with."""

    model: nn.Module
    encoding: tiktoken.Encoding
    objective: Objective
    compute: Compute
    throughput: Throughput
    finish: Callable[[], dict[str, float]] = dict
    """What is left to do with the trained weights, such as choosing a threshold on validation; its metrics there."""


Prepare = Callable[[Workers], TrainingSetup]
"""Builds the same setup in every worker, with its part of the batches."""


def split_file(data: Path, split: str) -> Path:
    """A dataset's file of one split, such as `train.parquet`. Raises UserFileError where there is none."""
    found = sorted(data.glob(f"{split}.*"))
    if not found:
        raise UserFileError(f"{data}: holds no {split}; run `dvc repro preprocess@{data.name}`")
    return found[0]


def training_files(data: Path) -> dict[str, Path]:
    """What a training reads of a dataset."""
    return {split: split_file(data, split) for split in ("train", "validation")}
