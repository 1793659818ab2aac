"""How good each model is on the test split, beside a baseline, with the evidence that a reviewer reads."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
from prefect import task
from prefect.cache_policies import NO_CACHE
from rouge_score.rouge_scorer import RougeScorer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline
from tqdm import tqdm

from llm.assistant import answer_all, encode_examples, leaves_room, mean_response_loss
from llm.classifier import Classifier, spam_probability
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.gpt import GPT
from llm.loss import bits_per_byte
from llm.pretrain import continuations, text_loss
from tasks.params import EvaluateAssistant, EvaluateClassifier, EvaluateFoundation

Metrics = dict[str, float]

logger = logging.getLogger(__name__)


@task(cache_policy=NO_CACHE)
def evaluate_foundation(
    model: GPT, encoding: tiktoken.Encoding, data: Path, params: EvaluateFoundation, compute: Compute, evidence: Path
) -> Metrics:
    """Loss in nats a token, perplexity and bits per byte on the whole test file; sample texts as evidence."""
    windows = TokenWindows(data, "test", model.config.context_length)
    rows = np.array_split(np.arange(len(windows)), max(1, len(windows) // params.batch_size))
    loss = text_loss(model, windows, tqdm(rows, desc="foundation", unit="batch"), compute)
    texts = continuations(model, encoding, params.sample_prompts, tokens=params.sample_tokens, seed=params.seed)
    lines = ["# Samples of the foundation", *(f"> {' '.join(text.split())}" for text in texts)]
    (evidence / "samples.md").write_text("\n\n".join(lines) + "\n")
    return {
        "test_loss": loss,
        "perplexity": float(np.exp(loss)),
        "bits_per_byte": bits_per_byte(loss, 1, windows.bytes_per_token),
    }


def _baseline() -> Pipeline:
    """What a user would pick instead: TF-IDF of words and pairs of words, then logistic regression."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))


def _thinned(curve: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """At most `points` rows of a curve, its ends among them."""
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, points).astype(int))]


@task(cache_policy=NO_CACHE)
def evaluate_classifier(
    model: Classifier,
    encoding: tiktoken.Encoding,
    data: Path,
    params: EvaluateClassifier,
    compute: Compute,
    evidence: Path,
) -> Metrics:
    """Accuracy, precision, recall, F1 and ROC-AUC of spam, the baseline's F1; curves and predictions as evidence."""
    train, test = (pd.read_parquet(data / f"{split}.parquet") for split in ("train", "test"))
    actual = (test["label"] == "spam").to_numpy()
    with compute.autocast():
        probability = spam_probability(model, encoding, test["subject"], test["body"], params.batch_size)
    predicted = probability > 0.5

    baseline = _baseline().fit(train["subject"] + "\n" + train["body"], train["label"])
    baseline_predicted = baseline.predict(test["subject"] + "\n" + test["body"]) == "spam"

    names = np.array(["ham", "spam"])
    table = {"id": test["id"], "actual": names[actual.astype(int)], "predicted": names[predicted.astype(int)]}
    pd.DataFrame({**table, "spam_probability": probability.round(4)}).to_csv(evidence / "predictions.csv", index=False)
    false_positive, true_positive, _ = roc_curve(actual, probability)
    precision, recall, _ = precision_recall_curve(actual, probability)
    roc = pd.DataFrame({"false_positive_rate": false_positive, "true_positive_rate": true_positive})
    _thinned(roc).to_csv(evidence / "roc.csv", index=False, float_format="%.5f")
    precision_recall = pd.DataFrame({"recall": recall, "precision": precision})
    _thinned(precision_recall).to_csv(evidence / "precision_recall.csv", index=False, float_format="%.5f")
    return {
        "accuracy": accuracy_score(actual, predicted),
        "precision": precision_score(actual, predicted, zero_division=0),
        "recall": recall_score(actual, predicted),
        "f1": f1_score(actual, predicted),
        "roc_auc": roc_auc_score(actual, probability),
        "baseline_f1": f1_score(actual, baseline_predicted),
    }


def _same(answer: str, expected: str) -> bool:
    """Equal but for case, spaces and a final full stop."""
    return " ".join(answer.lower().split()).rstrip(".") == " ".join(expected.lower().split()).rstrip(".")


def _answers(
    model: GPT, encoding: tiktoken.Encoding, rows: Sequence[tuple[str, str]], params: EvaluateAssistant
) -> list[str]:
    """Greedy answers to pairs of instruction and input, batch by batch; none where the context has no room for one."""
    answers = [""] * len(rows)
    fit = [n for n, row in enumerate(rows) if leaves_room(model, encoding, row, params.max_new_tokens)]
    for first in tqdm(range(0, len(fit), params.batch_size), desc="assistant", unit="batch"):
        part = fit[first : first + params.batch_size]
        found = answer_all(model, encoding, [rows[n] for n in part], max_new_tokens=params.max_new_tokens)
        for n, text in zip(part, found, strict=True):
            answers[n] = text
    return answers


@task(cache_policy=NO_CACHE)
def evaluate_assistant(
    model: GPT, encoding: tiktoken.Encoding, data: Path, params: EvaluateAssistant, compute: Compute, evidence: Path
) -> Metrics:
    """Response loss in nats a token, exact match where a row is checkable, mean ROUGE-L; answers as evidence.

    ROUGE-L is the F-measure of the longest common subsequence of words (Lin 2004), stemmed.
    """
    test = pd.read_parquet(data / "test.parquet")
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
