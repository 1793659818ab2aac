"""How good answers to instructions are, beside the base's and those of the training row most alike."""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
from pydantic import Field
from rouge_score.rouge_scorer import RougeScorer
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from llm.applications.assistant import (
    Assistant,
    answer_all,
    build,
    leaves_room,
    mean_response_loss,
)
from llm.config import Config
from llm.device import Compute
from llm.formats.model_folder import load_model
from llm.generation.packed import pack_for_inference
from tasks.data.conversations import examples_of, is_right, questions_of
from tasks.evaluation.judge import Judge, judge_answers
from tasks.evaluation.statistics import interval, with_interval
from tasks.training.setup import split_file

MARGIN = 16  # tokens by which a checkable answer may be longer than all that count: it is wrong however it goes on
TOGETHER = 256  # questions that are asked at once: in the batch one takes the place of another that is answered


class Evaluate(Config):
    """How the assistant is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Rows a forward pass, where the loss is measured."""
    max_new_tokens: int = Field(gt=0)
    """An answer is cut after this many tokens, one that a rule checks when it is longer than what could be right."""
    samples: int = Field(default=30, ge=0)
    """Answers kept for people to read."""
    judge: Judge | None = None
    """Scores answers that no rule checks, by a language model at an endpoint; null leaves it out."""


def _answers(
    model: Assistant, encoding: tiktoken.Encoding, test: pd.DataFrame, params: Evaluate, name: str
) -> list[str]:
    """Greedy answers; none where the context has no room for one. Untuned weights would write on to the last token."""
    questions = questions_of(test)
    counted = (encoding.encode_ordinary_batch(list(each)) for each in test["answers"])
    most = [min(params.max_new_tokens, max(map(len, each), default=sys.maxsize) + MARGIN) for each in counted]
    answers = [""] * len(questions)
    fit = [n for n, asked in enumerate(questions) if leaves_room(model, encoding, asked, params.max_new_tokens)]
    # Those of like length are read side by side, with little padding.
    fit.sort(key=lambda n: sum(len(turn.content) for turn in questions[n].messages()))
    with tqdm(total=len(fit), desc=name, unit="answer") as bar:
        for first in range(0, len(fit), TOGETHER):
            part = fit[first : first + TOGETHER]
            found = answer_all(model, encoding, [questions[n] for n in part], max_new_tokens=[most[n] for n in part])
            for n, text in zip(part, found, strict=True):
                answers[n] = text
            bar.update(len(part))
    return answers


def _nearest(train: pd.DataFrame, test: pd.DataFrame) -> list[str]:
    """For each test row the answer to the training row that asks most alike: TF-IDF of words, cosine.

    What is asked is all that the assistant reads: system prompt and earlier turns, too.
    """
    asked = [["\n".join(turn.content for turn in each.messages()) for each in questions_of(t)] for t in (train, test)]
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
    known, wanted = words.fit_transform(asked[0]), words.transform(asked[1])
    outputs = train["output"].to_numpy()
    return [outputs[int((wanted[n] @ known.T).toarray().argmax())] for n in range(len(test))]


def measure(
    model: Assistant,
    encoding: tiktoken.Encoding,
    data: Path,
    base: Path,
    params: Evaluate,
    compute: Compute,
    evidence: Path,
) -> dict[str, float]:
    """Response loss in nats a token, exact match of checkable rows, mean ROUGE-L of the others; answers as evidence.

    The baseline is the base in its own template, untuned; `nearest_…` answers as the training row most alike does.
    ROUGE-L is the F-measure of the longest common subsequence of words (Lin 2004), stemmed.
    """
    train, test = (pd.read_parquet(split_file(data, split)) for split in ("train", "test"))
    untuned, its_encoding = load_model(base, compute.device, build=build, context_length=model.config.context_length)
    losses = {}
    for name, each, tokens in (("", model, encoding), ("baseline_", untuned, its_encoding)):
        context = each.config.context_length
        way_out = "raise train.context_length, or bring shorter rows"
        examples = examples_of(tokens, each.chat, test, context, split_file(data, "test"), way_out)
        window = max(map(len, examples))
        watch = partial(tqdm, desc=f"{name}response_loss", unit="batch")
        losses[f"{name}response_loss"] = mean_response_loss(each, examples, params.batch_size, compute, window, watch)
        pack_for_inference(each)
    test["answer"] = _answers(model, encoding, test, params, "assistant")
    test["baseline_answer"] = _answers(untuned, its_encoding, test, params, "its base")
    test["nearest_answer"] = _nearest(train, test)

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    checkable = test["answers"].map(len) > 0
    metrics: dict[str, float] = losses
    for name in ("", "baseline_", "nearest_"):
        said = test[f"{name}answer"]
        test[f"{name}correct"] = list(map(is_right, said, test["answers"]))
        pairs = zip(test["output"], said, strict=True)
        test[f"{name}rouge_l"] = [scorer.score(output, answer)["rougeL"].fmeasure for output, answer in pairs]
        if checkable.any():
            right = test.loc[checkable, f"{name}correct"].to_numpy(float)
            metrics[f"{name}exact_match"] = right.mean()
            if not name:
                metrics |= with_interval("exact_match", right.mean(), interval(np.mean, right))
        if not checkable.all():
            metrics[f"{name}rouge_l"] = float(test.loc[~checkable, f"{name}rouge_l"].mean())
    if params.judge:
        metrics |= judge_answers(test[~checkable], params.judge, evidence)
    _write_evidence(test, checkable, params, evidence)
    return metrics


def _write_evidence(test: pd.DataFrame, checkable: pd.Series, params: Evaluate, evidence: Path) -> None:
    """All answers (their history as JSON, as a served model takes it), a row a kind, and a sample to read."""
    names = ("answer", "correct", "rouge_l")
    columns = [f"{who}{name}" for who in ("", "baseline_", "nearest_") for name in names]
    history = [json.dumps(list(turns), ensure_ascii=False) if len(turns) else "" for turns in test["history"]]
    rows = test.assign(history=history)
    rows = rows[["id", "kind", "system", "history", "instruction", "input", "output", *columns]]
    rows.to_csv(evidence / "answers.csv", index=False, float_format="%.4f")
    scores = {}
    for who in ("", "baseline_", "nearest_"):
        scores[f"{who}exact_match"] = np.where(checkable, test[f"{who}correct"], np.nan)
        scores[f"{who}rouge_l"] = test[f"{who}rouge_l"]
    by_kind = pd.DataFrame({"kind": test["kind"], "rows": 1, **scores}).groupby("kind")
    by_kind.agg({"rows": "sum", **dict.fromkeys(scores, "mean")}).to_csv(evidence / "by_kind.csv", float_format="%.4f")
    shown = test.sample(min(params.samples, len(test)), random_state=1).sort_index()
    lines = [
        f"**{' '.join([*row.history, row.instruction, row.input]).strip()}**\n\n- answer: {row.answer}\n"
        f"- expected: {row.output}\n- its base says: {' '.join(row.baseline_answer.split())}"
        for row in shown.itertuples()
    ]
    (evidence / "samples.md").write_text("\n\n".join(["# Answers of the assistant", *lines]) + "\n")
