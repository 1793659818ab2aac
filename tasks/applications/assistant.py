"""The assistant: answers instructions, some of them with an input."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import tiktoken
import torch
from pydantic import Field
from rouge_score.rouge_scorer import RougeScorer
from tqdm import tqdm

from llm.applications.assistant import (
    answer_all,
    encode_examples,
    leaves_room,
    mean_response_loss,
    objective,
    pack_sequences,
)
from llm.config import Config
from llm.device import Compute, choose_compute
from llm.formats.model_folder import load_model
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.training.workers import Workers
from tasks.applications import Application
from tasks.training.setup import FinetuneConfig, Throughput, TrainingSetup, split_file


class Train(FinetuneConfig):
    """The assistant and its training on instructions."""

    sample_rows: int = Field(default=5, ge=0)
    """Validation rows answered at every evaluation, for people to read."""


class Evaluate(Config):
    """How the assistant is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Rows a forward pass."""
    max_new_tokens: int = Field(gt=0)
    """An answer is cut after this many tokens."""
    samples: int = Field(default=20, ge=0)
    """Answers kept for people to read."""


def prepare(params: Train, data: Path, base: Path, workers: Workers) -> TrainingSetup:
    """The base and the packed instructions that it is to answer."""
    compute = choose_compute()
    torch.manual_seed(params.seed)
    model, encoding = load_model(base, compute.device, dropout=params.dropout)
    if params.lora:
        add_lora(model, params.lora)
    files = [split_file(data, split) for split in ("train", "validation")]
    tables = [pd.read_parquet(path).sample(frac=1, random_state=params.seed) for path in files]
    context = model.config.context_length
    train, validation = (
        encode_examples(encoding, table["instruction"], table["input"], table["output"], context) for table in tables
    )
    shown = tables[1].head(params.sample_rows)
    questions = list(zip(shown["instruction"], shown["input"], strict=True))
    windows = pack_sequences(train, context)
    goal = objective(model, encoding, params, windows, validation, compute, questions=questions, workers=workers)
    tokens = sum(map(len, train)) * params.batch_size * params.gradient_accumulation // len(windows)
    return TrainingSetup(model, encoding, goal, compute, Throughput("tokens", tokens, model.training_flops()))


def _same(answer: str, expected: str) -> bool:
    """Equal but for case, spaces and a final full stop."""
    return " ".join(answer.lower().split()).rstrip(".") == " ".join(expected.lower().split()).rstrip(".")


def _answers(model: GPT, encoding: tiktoken.Encoding, rows: Sequence[tuple[str, str]], params: Evaluate) -> list[str]:
    """Greedy answers to pairs of instruction and input, batch by batch; none where the context has no room for one."""
    answers = [""] * len(rows)
    fit = [n for n, row in enumerate(rows) if leaves_room(model, encoding, row, params.max_new_tokens)]
    for first in tqdm(range(0, len(fit), params.batch_size), desc="assistant", unit="batch"):
        part = fit[first : first + params.batch_size]
        found = answer_all(model, encoding, [rows[n] for n in part], max_new_tokens=params.max_new_tokens)
        for n, text in zip(part, found, strict=True):
            answers[n] = text
    return answers


def measure(
    model: GPT, encoding: tiktoken.Encoding, data: Path, params: Evaluate, compute: Compute, evidence: Path
) -> dict[str, float]:
    """Response loss in nats a token, exact match where a row is checkable, mean ROUGE-L; answers as evidence.

    ROUGE-L is the F-measure of the longest common subsequence of words (Lin 2004), stemmed.
    """
    test = pd.read_parquet(split_file(data, "test"))
    context = model.config.context_length
    examples = encode_examples(encoding, test["instruction"], test["input"], test["output"], context)
    loss = mean_response_loss(model, examples, params.batch_size, compute)
    test["answer"] = _answers(model, encoding, list(zip(test["instruction"], test["input"], strict=True)), params)

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    rows = zip(test["output"], test["answer"], strict=True)
    test["rouge_l"] = [scorer.score(output, answer)["rougeL"].fmeasure for output, answer in rows]
    test["correct"] = list(map(_same, test["answer"], test["output"]))
    columns = ["id", "kind", "instruction", "input", "output", "answer", "checkable", "correct", "rouge_l"]
    test[columns].to_csv(evidence / "answers.csv", index=False, float_format="%.4f")
    shown = test.sample(min(params.samples, len(test)), random_state=1).sort_index()
    lines = [
        f"**{' '.join([row.instruction, row.input]).strip()}**\n\n- answer: {row.answer}\n- expected: {row.output}"
        for row in shown.itertuples()
    ]
    (evidence / "samples.md").write_text("\n\n".join(["# Answers of the assistant", *lines]) + "\n")
    checkable = test.loc[test["checkable"], "correct"]
    return {
        "response_loss": loss,
        "exact_match": float(checkable.mean()) if len(checkable) else 0.0,
        "rouge_l": float(test["rouge_l"].mean()),
    }


APPLICATION = Application(objective="assistant", train=Train, evaluate=Evaluate, prepare=prepare, measure=measure)
