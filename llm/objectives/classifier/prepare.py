"""What a classifier's training needs: the base with a head, the texts that it learns, and how its head is fitted."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, Self

import tiktoken
import torch
from pydantic import Field, model_validator

from llm.config import FinetuneConfig, Rate
from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import load_model
from llm.generation.packed import pack_for_reading
from llm.kernels.training.choose import choose_backend
from llm.model.lora import add_lora
from llm.objectives.classifier import objective
from llm.objectives.classifier.calibration import UnsureRates
from llm.objectives.classifier.fit import LabelledTexts, fit_head, fit_ngrams, read_texts
from llm.objectives.classifier.model import Classifier, ClassifierConfig, ReadingConfig
from llm.training.frozen_blocks import split_blocks
from llm.training.loop import Objective
from llm.training.workers import Workers


class TrainClassifier(ReadingConfig, FinetuneConfig):
    """A classifier and its training on labelled texts."""

    steps: int = Field(ge=0)
    """Updates of the GPT's weights; 0 leaves them as they are, and fits the head on what they read."""

    last_blocks: int | None = Field(default=None, gt=0)
    """How many blocks LoRA updates, counted from the output; null updates all. Those below read each text once, without
    dropout."""
    layers: int | None = Field(default=None, gt=0)
    """Blocks of the base that are kept, from the input on; null keeps all."""
    passes: str | None = None
    """The label that a text has unless the classifier is sure enough of another one; null gives the likeliest label."""
    false_positive_rate: Rate = 0.005
    """Share of the texts that should pass and may get another label: losing real mail is worse than spam. Chooses the
    threshold, if a label passes."""
    unsure: UnsureRates | None = None
    """Which texts are answered with `unsure`, if a label passes; null gives each a label."""

    @model_validator(mode="after")
    def _each_key_has_an_effect(self) -> Self:
        if self.passes is None and self.unsure is not None:
            raise ValueError("unsure does nothing without a label that passes; name one under passes, or delete unsure")
        if self.last_blocks is not None and self.lora is None:
            raise ValueError("last_blocks does nothing without LoRA; name lora, or delete last_blocks")
        if self.last_blocks and self.layers and self.last_blocks > self.layers:
            raise ValueError(f"last_blocks {self.last_blocks} is more than layers {self.layers}")
        return self


class NamedTexts(NamedTuple):
    """A split of the texts with the names of their labels; texts of one group are alike."""

    texts: list[str]
    labels: list[str]
    groups: list[int]


@dataclass(frozen=True)
class Prepared:
    """A classifier before its training."""

    model: Classifier
    encoding: tiktoken.Encoding
    objective: Objective
    compute: Compute
    finish: Callable[[], dict[str, float]]
    """Fits the head on what the trained GPT reads; does nothing where the objective's evaluation has done so."""


def prepare_classifier(
    params: TrainClassifier,
    base: Path,
    splits: Mapping[str, NamedTexts],
    *,
    compute: Compute,
    workers: Workers,
    as_stored: bool,
    data: str,
) -> Prepared:
    """A base with a head, and the texts of `train` and `validation` that it is to tell apart; `data` is for errors."""
    labels = order_labels({split: named.labels for split, named in splits.items()}, params.passes, data)
    torch.manual_seed(params.seed)
    foundation, encoding = load_model(base, dropout=params.dropout, n_layer=params.layers, as_stored=as_stored)
    config = ClassifierConfig(labels=labels, **{name: getattr(params, name) for name in ReadingConfig.model_fields})
    model = Classifier(foundation, config).to(compute.device)
    if params.lora and params.steps:
        add_lora(model, params.lora, params.last_blocks)
    train, validation = (
        LabelledTexts(named.texts, torch.tensor([labels.index(label) for label in named.labels]), named.groups)
        for named in (splits["train"], splits["validation"])
    )
    fit_ngrams(model, train)
    reader, whole = None, model.gpt
    if params.lora and params.steps and params.last_blocks and params.last_blocks < whole.config.n_layer:
        model.frozen, model.gpt = split_blocks(whole, whole.config.n_layer - params.last_blocks)
        reader = pack_for_reading(deepcopy(model.frozen).float())
    train, validation = (read_texts(model, encoding, split, reader) for split in (train, validation))
    budget = params.false_positive_rate if params.passes else None
    fitted = partial(fit_head, model, train, validation, false_positive_rate=budget, unsure=params.unsure)
    if not params.steps:
        foundation.requires_grad_(False)
        untrained = Objective(lambda model, index: torch.zeros(()), fitted, best="validation_loss", start_counts=True)
        return Prepared(model, encoding, untrained, compute, finish=dict)

    def finish() -> dict[str, float]:
        metrics = fitted()
        model.gpt, model.frozen = whole, None
        return metrics

    lengths = train.inputs.lengths
    read = params.steps * params.gradient_accumulation * params.batch_size * max(lengths)
    filled, lora = fmean(lengths) / max(lengths), params.lora is not None
    compute = choose_backend(compute, model.gpt.config, read, filled=filled, lora=lora, predicts_tokens=False)
    goal = objective(model, params, train, validation, compute, workers=workers)
    return Prepared(model, encoding, goal, compute, finish=finish)


def order_labels(splits: Mapping[str, Sequence[str]], passes: str | None, data: str) -> tuple[str, ...]:
    """All labels in alphabetical order, but for the one that passes, which is first. Every split must have each.

    Raises UserError, naming `data`, otherwise.
    """
    labels = sorted(set().union(*splits.values()))
    if len(labels) < 2:
        raise UserError(f"{data}: all rows have the label {labels[0]!r}; a classifier tells two or more apart")
    for split, names in splits.items():
        if missing := sorted(set(labels) - set(names)):
            raise UserError(f"{data}: {split} has no row with the label {missing[0]!r}, which others have")
    if passes is not None and passes not in labels:
        known = ", ".join(labels)
        raise UserError(f"train.passes: {passes!r} is not one of the labels in {data}, {known}: name one, or null")
    return (*([passes] if passes else []), *(label for label in labels if label != passes))
