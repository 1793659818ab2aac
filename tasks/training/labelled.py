"""The set-up of a training on labelled rows: the emails of the classifier, the requests of the guard."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Self

import pandas as pd
import torch
from pydantic import Field, model_validator

from llm.config import FinetuneConfig, Rate
from llm.device import Compute, choose_compute
from llm.errors import UserError
from llm.formats.model_folder import TOKENIZER, load_model
from llm.formats.tokenizer_json import load_tokenizer
from llm.generation.packed import pack_for_reading
from llm.kernels.training.choose import choose_backend
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.objectives.classifier.calibration import UnsureRates
from llm.objectives.classifier.config import ClassifierConfig, ReadingConfig
from llm.objectives.classifier.fit import LabelledTexts, ReadTexts, fit_head, fit_ngrams, read_texts
from llm.objectives.classifier.loss import objective
from llm.objectives.classifier.model import Classifier
from llm.objectives.classifier.texts import row_texts
from llm.training.frozen_blocks import split_blocks
from tasks.training.setup import Throughput, TrainingFiles, TrainingSetup, keeps_precision, training_files
from tasks.training.shown_row import ShownRow, read_row, shown_row


class TrainClassifier(ReadingConfig, FinetuneConfig):
    """Parameters of a classifier and of its training on labelled texts."""

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


def prepare_labelled(params: TrainClassifier, files: TrainingFiles, *, units: str) -> TrainingSetup[Classifier]:
    """The base with a head, and the rows that it is to tell apart; `units` is what a row is called in the log."""
    assert files.base is not None, "a classifier has a base"
    compute = choose_compute()
    tables = {split: pd.read_parquet(path) for split, path in training_files(files.dataset).items()}
    label_columns = {split: table["label"].tolist() for split, table in tables.items()}
    labels = order_labels(label_columns, params.passes, str(files.dataset))
    as_stored = keeps_precision(params, compute)
    loaded = _load_with_head(params, files.base, labels, device=compute.device, as_stored=as_stored)
    model = loaded.model
    whole = model.gpt
    texts = {split: _labelled_texts(table, params.columns, labels) for split, table in tables.items()}
    fit_ngrams(model, texts["train"])
    reader = _split_off_frozen_blocks(model, params)
    train = read_texts(loaded, texts["train"], reader)
    validation = read_texts(loaded, texts["validation"], reader)

    def finish() -> dict[str, float]:
        budget = params.false_positive_rate if params.passes else None
        metrics = fit_head(model, train, validation, false_positive_rate=budget, unsure=params.unsure)
        model.gpt = whole
        model.frozen = None
        return metrics

    throughput = Throughput(units, params.batch_size * params.gradient_accumulation)
    compute = _choose_backend(params, model.gpt, train, compute=compute)
    return TrainingSetup(
        loaded,
        objective(model, params, train, validation=validation, compute=compute),
        compute=compute,
        throughput=throughput,
        finish=finish,
    )


def show_labelled(params: TrainClassifier, files: TrainingFiles, *, split: str, number: int) -> ShownRow:
    """A row as the text that the model reads first; it learns to give its label."""
    assert files.base is not None, "a classifier has a base"
    encoding = load_tokenizer(files.base / TOKENIZER)
    row = read_row(files.dataset, split, number)
    (text,) = row_texts([row[column]] for column in params.columns)
    tokens = encoding.encode_ordinary(text)[: params.max_tokens]
    return shown_row(row["id"], encoding, tokens, learned=[False] * len(tokens), label=row["label"])


def _load_with_head(
    params: TrainClassifier, base: Path, labels: tuple[str, ...], *, device: torch.device, as_stored: bool
) -> LoadedModel[Classifier]:
    """The base with a head that has random weights, and with LoRA where the GPT is to learn."""
    torch.manual_seed(params.seed)
    gpt, encoding = load_model(base, dropout=params.dropout, n_layer=params.layers, as_stored=as_stored)
    reading = {name: getattr(params, name) for name in ReadingConfig.model_fields}
    model = Classifier(gpt, ClassifierConfig(labels=labels, **reading)).to(device)
    if params.lora:
        add_lora(model, params.lora, params.last_blocks)
    return LoadedModel(model, encoding)


def _labelled_texts(table: pd.DataFrame, columns: Sequence[str], labels: tuple[str, ...]) -> LabelledTexts:
    numbers = [labels.index(label) for label in table["label"]]
    texts = row_texts(table[column] for column in columns)
    return LabelledTexts(texts, torch.tensor(numbers), groups=table["unit"].tolist())


def _split_off_frozen_blocks(model: Classifier, params: TrainClassifier) -> GPT | None:
    """Leave the model's GPT the blocks that learn; a copy of the others, to read texts with. None if all learn."""
    n_layer = model.gpt.config.n_layer
    if not (params.lora and params.last_blocks) or params.last_blocks >= n_layer:
        return None
    model.frozen, model.gpt = split_blocks(model.gpt, n_layer - params.last_blocks)
    return pack_for_reading(deepcopy(model.frozen).float())


def _choose_backend(params: TrainClassifier, gpt: GPT, train: ReadTexts, *, compute: Compute) -> Compute:
    lengths = train.inputs.lengths
    longest = max(lengths)
    tokens = params.steps * params.gradient_accumulation * params.batch_size * longest
    lora = params.lora is not None
    return choose_backend(
        compute, gpt.config, tokens, filled=fmean(lengths) / longest, lora=lora, predicts_tokens=False
    )


def order_labels(splits: Mapping[str, Sequence[str]], passes: str | None, data: str) -> tuple[str, ...]:
    """All labels in alphabetical order, but for the one that passes, which is first. Every split must have each.

    Raises UserError, naming `data`, otherwise.
    """
    labels = sorted(set().union(*splits.values()))
    if len(labels) < 2:
        raise UserError(f"{data}: all rows have the label {labels[0]!r}; a classifier tells two or more apart")
    for split, names in splits.items():
        missing = sorted(set(labels) - set(names))
        if missing:
            raise UserError(f"{data}: {split} has no row with the label {missing[0]!r}, which others have")
    if passes is None:
        return tuple(labels)
    if passes not in labels:
        names = ", ".join(labels)
        raise UserError(f"train.passes: {passes!r} is not one of the labels in {data}, {names}: name one, or null")
    return (passes, *(label for label in labels if label != passes))
