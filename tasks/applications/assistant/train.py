"""The assistant: answers instructions, some of them with an input or after other turns."""

import random
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import Field

from llm.chat import Chat
from llm.config import FinetuneConfig
from llm.device import choose_compute
from llm.formats.model_folder import TOKENIZER, load_model, read_config
from llm.formats.tokenizer_json import load_tokenizer
from llm.kernels.training.choose import choose_backend
from llm.model.lora import add_lora
from llm.objectives.assistant.answers import shown_answers
from llm.objectives.assistant.examples import encode_example, encode_examples
from llm.objectives.assistant.loss import objective
from llm.objectives.assistant.model import Assistant, build
from llm.objectives.assistant.packing import pack_sequences, row_width
from llm.objectives.assistant.replay import read_replay
from llm.objectives.assistant.rows import examples_of, questions_of
from llm.training.cost import training_flops
from tasks.training.description import Training
from tasks.training.setup import (
    Throughput,
    TrainingFiles,
    TrainingSetup,
    keeps_precision,
    split_file,
)
from tasks.training.shown_row import ShownRow, read_row, shown_row


class Train(FinetuneConfig):
    """The assistant and its training on instructions."""

    system: str = ""
    """What it is told before every conversation that brings no system prompt of its own."""
    text_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Words that an answer holds already grow less likely by this factor, unless a request names another; 1 changes
    nothing. Training does not read it: it goes into the model folder, for every program that makes answers."""
    context_length: int | None = Field(default=None, gt=0)
    """Tokens of the longest conversation, where the base has more; null, as a larger number, keeps the base's."""
    window: int | None = Field(default=None, gt=0)
    """Tokens of a packed training row, and so of the longest example; null is the context."""
    twice: tuple[str, ...] = ()
    """Sources whose rows occur twice in each pass over the data, such as [general-answers/*]."""
    opening_weight: float = Field(default=1.0, ge=1)
    """Weight of an answer's first token in the training loss; every other token has weight 1. The first token largely
    decides whether the answer declines or helps."""


def _is_learned_twice(source: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(source, pattern) for pattern in patterns)


def prepare(params: Train, files: TrainingFiles) -> TrainingSetup[Assistant]:
    """The base and the packed instructions that it is to answer. What LoRA freezes stays in the base's precision."""
    assert files.base is not None, "an assistant has a base"
    assert files.rehearses is not None, "an assistant rehearses, if only nothing"
    compute = choose_compute()
    torch.manual_seed(params.seed)
    context_length, base_has = params.context_length, read_config(files.base)["gpt"].get("context_length")
    if context_length and isinstance(base_has, int):  # what else it may be, load_model says
        context_length = min(context_length, base_has)
    loaded = load_model(
        files.base,
        compute.device,
        build=build,
        dropout=params.dropout,
        context_length=context_length,
        as_stored=keeps_precision(params, compute),
    )
    model, encoding = loaded
    chosen = params.model_dump(include={"system", "text_penalty"})
    model.chat = model.chat.model_copy(update=chosen)
    if params.lora:
        add_lora(model, params.lora)
    paths = [split_file(files.dataset, split) for split in ("train", "validation")]
    tables = [pd.read_parquet(path) for path in paths]
    again = tables[0]["source"].map(partial(_is_learned_twice, patterns=params.twice))
    tables[0] = pd.concat([tables[0], tables[0][again]], ignore_index=True)
    tables = [table.sample(frac=1, random_state=params.seed) for table in tables]
    window = min(params.window or model.config.context_length, model.config.context_length)
    way_out = f"raise train.window and train.context_length (the base has {base_has}), or bring shorter rows"
    train, validation = examples = [
        examples_of(encoding, model.chat, table, longest=window, file=path, way_out=way_out)
        for table, path in zip(tables, paths, strict=True)
    ]
    left_out = [len(table) - len(kept) for table, kept in zip(tables, examples, strict=True)]
    counts: dict[str, float] = dict(zip(("train_rows_left_out", "validation_rows_left_out"), left_out, strict=True))
    if answers := read_replay(files.rehearses):
        questions = [answer.question for answer in answers]
        replayed = encode_examples(
            encoding, model.chat, questions, outputs=[answer.output for answer in answers], longest=window
        )
        train = random.Random(params.seed).sample(train + replayed, len(train) + len(replayed))
        counts["replayed"] = len(replayed)
    windows = pack_sequences(train, window)
    forward = params.steps * params.gradient_accumulation * params.batch_size
    widths = [row_width(window_rows) for window_rows in windows]
    lora = params.lora is not None
    compute = choose_backend(compute, model.config, forward * max(widths), lora=lora, packed=True)
    goal = objective(
        model,
        params,
        windows,
        validation=validation,
        compute=compute,
        opening_weight=params.opening_weight,
    )
    tokens = sum(widths) * params.batch_size * params.gradient_accumulation // len(windows)
    flops = training_flops(model)
    if params.lora:
        flops = flops * 2 // 3  # a frozen matrix has no gradient
    throughput = Throughput("tokens", tokens, flops)
    return TrainingSetup(loaded, goal, compute=compute, throughput=throughput, finish=lambda: counts)


def samples(setup: TrainingSetup[Assistant], data: Path, evaluate: Mapping[str, Any]) -> list[str]:
    """Some questions of the validation split with the model's answers."""
    table = pd.read_parquet(split_file(data, "validation")).sample(frac=1, random_state=1)
    return shown_answers(setup.loaded, questions_of(table), setup.compute)


def show(params: Train, files: TrainingFiles, *, split: str, number: int) -> ShownRow:
    """A row as the conversation that the assistant reads; it learns to say its own turns."""
    assert files.base is not None, "an assistant has a base"
    encoding = load_tokenizer(files.base / TOKENIZER)
    chat = Chat.model_validate(read_config(files.base).get("chat", {})).model_copy(update={"system": params.system})
    row = read_row(files.dataset, split, number)
    (question,) = questions_of(row.to_frame().T)
    example = encode_example(encoding, chat, question, output=row["output"])
    return shown_row(row["id"], encoding, example.tokens, learned=example.learned)


TRAINING = Training(objective="assistant", train=Train, prepare=prepare, samples=samples, show=show)
