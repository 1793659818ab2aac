"""The email classifier: spam or no spam."""

from functools import partial
from pathlib import Path
from statistics import fmean

import pandas as pd
import torch
from pydantic import Field

from llm.config import Rate
from llm.device import choose_compute
from llm.errors import UserError
from llm.formats.model_folder import load_model
from llm.kernels.training.choose import choose_backend
from llm.model.lora import add_lora
from llm.objectives.classifier import objective
from llm.objectives.classifier.calibration import UnsureRates
from llm.objectives.classifier.fit import LabelledTexts, fit_head, fit_ngrams, least_sure
from llm.objectives.classifier.model import Classifier, ClassifierConfig, ReadingConfig, email_texts, encoded
from llm.training.loop import Objective
from llm.training.workers import Workers
from tasks.applications import Training
from tasks.training.setup import FinetuneConfig, Throughput, TrainingFiles, TrainingSetup, keeps_precision, split_file


class Train(ReadingConfig, FinetuneConfig):
    """The classifier and its training on labelled emails."""

    steps: int = Field(ge=0)
    """Updates of the GPT's weights; 0 leaves them as they are, and fits the head on what they read."""
    last_blocks: int | None = Field(default=None, gt=0)
    """How many blocks LoRA updates, counted from the output; null updates all. The blocks below read each mail once."""
    least_sure: int | None = Field(default=None, gt=0)
    """How many mails of train the GPT learns from: those of which n-grams alone are least sure; null takes all. The
    head learns from all in any case."""
    layers: int | None = Field(default=None, gt=0)
    """Blocks of the base that are kept, from the input on; null keeps all."""
    positive: str | None = None
    """Of two labels the one that is looked for, whose false alarms cost; null is the last in alphabetical order."""
    false_positive_rate: Rate = 0.005
    """Share of the other mail that the threshold may give it: losing real mail is worse than spam. Of more than two
    labels the likeliest is given, without a threshold."""
    unsure: UnsureRates | None = None
    """Which mail of two labels is answered with `unsure`; null gives each a label."""


def _labels(tables: dict[str, pd.DataFrame], positive: str | None, data: Path) -> tuple[str, ...]:
    """All labels in alphabetical order, but for the positive one, which is last. Every split must have each of them."""
    labels = sorted(set().union(*(table["label"] for table in tables.values())))
    if len(labels) < 2:
        raise UserError(f"{data}: all rows have the label {labels[0]!r}; a classifier tells two or more apart")
    for split, table in tables.items():
        if missing := sorted(set(labels) - set(table["label"])):
            raise UserError(f"{data}: {split} has no row with the label {missing[0]!r}, which others have")
    if positive is not None and positive not in labels:
        known = ", ".join(labels)
        raise UserError(f"train.positive: {positive!r} is not one of the labels in {data}, {known}: name one, or null")
    return (*(label for label in labels if label != positive), *([positive] if positive else []))


def prepare(params: Train, files: TrainingFiles, workers: Workers) -> TrainingSetup:
    """The base with a head, and the emails that it is to tell apart."""
    compute = choose_compute()
    tables = {split: pd.read_parquet(split_file(files.dataset, split)) for split in ("train", "validation")}
    labels = _labels(tables, params.positive, files.dataset)
    torch.manual_seed(params.seed)
    foundation, encoding = load_model(
        files.base,
        dropout=params.dropout,
        n_layer=params.layers,
        as_stored=keeps_precision(params, compute, workers),
    )
    config = ClassifierConfig(labels=labels, **{name: getattr(params, name) for name in ReadingConfig.model_fields})
    model = Classifier(foundation, config).to(compute.device)
    if params.lora and params.steps:
        add_lora(model, params.lora, params.last_blocks)
    train, validation = (
        LabelledTexts(
            email_texts(table["subject"], table["body"]),
            torch.tensor([labels.index(label) for label in table["label"]]),
            table["unit"].tolist(),
        )
        for table in tables.values()
    )
    fit_ngrams(model, train)
    chosen = {"false_positive_rate": params.false_positive_rate, "unsure": params.unsure}
    fitted = partial(fit_head, model, encoding, train, validation, **chosen)
    throughput = Throughput("emails", params.batch_size * params.gradient_accumulation)
    if not params.steps:
        foundation.requires_grad_(False)
        untrained = Objective(lambda model, index: torch.zeros(()), fitted, best="validation_loss", start_counts=True)
        return TrainingSetup(model, encoding, untrained, compute, throughput)
    learned = train if params.least_sure is None else least_sure(model, train, params.least_sure)
    lengths = list(map(len, encoded(model, encoding, model.windows(learned.texts))))
    read = params.steps * params.gradient_accumulation * params.batch_size * max(lengths)
    filled, lora = fmean(lengths) / max(lengths), params.lora is not None
    compute = choose_backend(compute, foundation.config, read, filled=filled, lora=lora, predicts_tokens=False)
    goal = objective(model, encoding, params, learned, validation, compute, workers=workers)
    return TrainingSetup(model, encoding, goal, compute, throughput, finish=fitted)


TRAINING = Training(objective="classifier", train=Train, prepare=prepare, cleaning="tasks.data.mail")
