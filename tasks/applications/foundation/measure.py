"""How well the foundation predicts unseen text, next to baselines without a neural network."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
from pydantic import Field

from llm.config import Config
from llm.dataset import TokenWindows
from llm.objectives.language_model import check_prompts, continuations
from llm.tokenizer import decode, end_of_text, token_bytes
from tasks.applications.foundation.baselines import Baselines, fit_baselines
from tasks.applications.foundation.cache import document_numbers
from tasks.applications.foundation.pieces import piece_rows, score_bits
from tasks.applications.foundation.windows import Window, overlapping, token_losses
from tasks.measures.description import Asking, Evaluation, Measured, Subject
from tasks.measures.intervals import share
from tasks.measures.metrics import Metric
from tasks.measures.scores import BASELINE, OURS, TEST, score_table
from tasks.stages.progress_bar import ProgressBar

SHOWN, WORST = 400, 10  # characters of a window, windows


class Evaluate(Config):
    """How the foundation is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Sequences a forward pass."""
    sample_prompts: tuple[str, ...] = ()
    """Continued for people to read, here and at each evaluation of a training."""
    sample_tokens: int = Field(default=60, gt=0)
    """Tokens a sample."""
    seed: int = Field(default=1, ge=0)
    """Seeds the sampling."""


def measure(subject: Subject) -> Measured:
    """The bits of each document of the test file; loss in nats a token, perplexity and the baselines' bits a byte;
    samples and worst windows as evidence.

    All tokens but the first are predicted, in windows that overlap by half: each token is read after at least half a
    context but in the first window. The baselines predict the same tokens after the training text. The better of them
    stands beside the foundation.
    """
    model, encoding = subject.loaded
    params = subject.params
    context_length = model.config.context_length
    check_prompts(encoding, params.sample_prompts, context_length)
    splits = {}
    for split in ("train", "validation", TEST):
        splits[split] = TokenWindows(subject.data, split, context_length).tokens
    tokens = splits[TEST][:]
    context_length = min(context_length, len(tokens) - 1)
    windows = overlapping(len(tokens), context_length)
    batches = [windows[first : first + params.batch_size] for first in range(0, len(windows), params.batch_size)]
    progress = ProgressBar(batches, desc="foundation", unit="batch")
    losses = token_losses(model, tokens, progress, context_length=context_length, compute=subject.compute)
    sizes = token_sizes(encoding, tokens[1:])
    baselines = fit_baselines(splits, encoding)
    scores = document_scores(encoding, tokens, losses=losses, sizes=sizes, baselines=baselines)
    further = _further(losses, int(sizes.sum()), baselines)
    _write_baselines(float(losses.sum()) / math.log(2) / sizes.sum(), further, subject.evidence)
    worst = worst_windows(encoding, tokens, windows, losses=losses, sizes=sizes)
    (subject.evidence / "errors.md").write_text(worst)
    texts = continuations(subject.loaded, params.sample_prompts, tokens=params.sample_tokens, seed=params.seed)
    lines = ["# Samples of the foundation", *(f"> {' '.join(text.split())}" for text in texts)]
    (subject.evidence / "samples.md").write_text("\n\n".join(lines) + "\n")
    return Measured(scores, further)


def token_sizes(encoding: tiktoken.Encoding, tokens: np.ndarray) -> np.ndarray:
    """The bytes of each token; the end of a document has none."""
    end = end_of_text(encoding)
    length = {token: len(token_bytes(encoding, token)) for token in np.unique(tokens).tolist() if token != end}
    return np.array([length.get(token, 0) for token in tokens.tolist()])


def document_scores(
    encoding: tiktoken.Encoding, tokens: np.ndarray, *, losses: np.ndarray, sizes: np.ndarray, baselines: Baselines
) -> pd.DataFrame:
    """The score table of the documents of a token file, whose first token nobody predicts.

    `losses`, in nats, and `sizes`, in bytes, are those of the other tokens.
    """
    end = end_of_text(encoding)
    predicted = tokens[1:]
    documents = document_numbers(tokens, end)[1:]
    parts = np.split(predicted, np.flatnonzero(np.diff(documents)) + 1)
    rows = pd.DataFrame({"part": TEST, "id": [f"text {number}" for number in range(1, len(parts) + 1)], "expected": ""})
    rows["question"] = [decode(encoding, part[part != end].tolist()) for part in parts]
    _, numbers = np.unique(documents, return_inverse=True)
    rows["bytes"] = np.bincount(numbers, weights=sizes)
    contenders = {OURS: losses / math.log(2), BASELINE: baselines.best}
    scored = {}
    for contender, bits in contenders.items():
        scored[contender] = score_bits(rows, pd.DataFrame({"bits": np.bincount(numbers, weights=bits)}))
    return score_table(rows.drop(columns="bytes"), **scored)


def _further(losses: np.ndarray, text_bytes: int, baselines: Baselines) -> dict[str, float]:
    """Metrics that are no statistic of documents."""
    loss = float(losses.sum()) / len(losses)
    return {
        "test_loss": loss,
        "perplexity": math.exp(loss),
        "ngram_order": baselines.order,
        "ngram_bits_per_byte": float(baselines.ngrams.sum() / text_bytes),
        "ngram_cache_bits_per_byte": float(baselines.cached.sum() / text_bytes),
    }


def _write_baselines(bits_per_byte: float, metrics: dict[str, float], evidence: Path) -> None:
    """The foundation and the baselines, a row each."""
    order = metrics["ngram_order"]
    table = {
        "foundation": bits_per_byte,
        f"n-grams of {order}, modified Kneser-Ney": metrics["ngram_bits_per_byte"],
        f"n-grams of {order} with a cache of the document": metrics["ngram_cache_bits_per_byte"],
    }
    lines = pd.DataFrame(list(table.items()), columns=["model", "bits_per_byte"])
    lines.to_csv(evidence / "baselines.csv", index=False, float_format="%.4f", lineterminator="\n")


def worst_windows(
    encoding: tiktoken.Encoding, tokens: np.ndarray, windows: list[Window], *, losses: np.ndarray, sizes: np.ndarray
) -> str:
    """The windows that the foundation predicts worst, as Markdown."""
    predicted = tokens[1:]
    firsts = np.array([window.start + window.scored for window in windows])  # of each window's scored targets
    counts = np.diff([*firsts, len(predicted)])
    nats = np.add.reduceat(losses, firsts)
    window_bytes = np.add.reduceat(sizes, firsts)
    lines = ["# The test windows that the foundation predicts worst"]
    for number in np.argsort(-nats / counts, kind="stable")[:WORST]:
        scored = predicted[firsts[number] : firsts[number] + counts[number]]
        text = " ".join(decode(encoding, scored.tolist()).split())[:SHOWN]
        loss = nats[number] / counts[number]
        lines.append(f"**window {number}**: {loss:.4f} nats a token, {window_bytes[number]} bytes")
        lines.append(f"> {text}")
    return "\n\n".join(lines) + "\n"


def metrics(scores: pd.DataFrame) -> list[Metric]:
    """Bits a byte over all texts; intervals are over documents."""
    return [Metric("bits_per_byte", ("bits", "bytes"), share, where={})]


EVALUATION = Evaluation(
    params=Evaluate,
    measure=measure,
    metrics=metrics,
    main="bits_per_byte",
    unit="texts",
    judged_by=("bits_per_byte",),
    step=0.25,
    baseline="n-grams (modified Kneser-Ney) without or with a cache of the document, whichever is better",
    asking=Asking(rows=piece_rows, columns=("text",), score=score_bits, for_scoring=("bytes",), ask="bits"),
)
