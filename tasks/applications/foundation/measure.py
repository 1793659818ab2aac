"""How well the foundation predicts unseen text, next to n-grams of the same training text."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tiktoken
import torch
from pydantic import Field
from torch.nn import functional as F

from llm.config import Config
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.formats.tokenizer_json import load_tokenizer
from llm.model.gpt import GPT
from llm.objectives.language_model import check_prompts, continuations
from llm.tokenizer import decode, end_of_text, same_tokens, token_bytes
from llm.training.loss import PIECE
from tasks.applications.foundation.ngrams import count_ngrams
from tasks.measures.description import Evaluation, Measured, Subject
from tasks.measures.intervals import share
from tasks.measures.metrics import Metric
from tasks.measures.scores import ANSWER, TEST, score_table
from tasks.stages.progress_bar import ProgressBar

NGRAM_TOKENS = 20_000_000  # of the training text at most, its last ones: counting takes about 200 bytes a token
SHOWN, WORST = 400, 10  # characters of a window, windows

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Window:
    """Tokens that are read together."""

    start: int
    """The place of its first input in the file."""
    scored: int
    """Its first target that no window before it has."""


def measure(subject: Subject) -> Measured:
    """The bits of each document of the test split, ours and those of n-grams; loss in nats a token and perplexity.

    All tokens but the first are predicted, in windows that overlap by half: each token is read after at least half a
    context but in the first window.
    """
    model, encoding = subject.loaded
    params = subject.params
    check_prompts(encoding, params.sample_prompts, model.config.context_length)
    train = read_tokens(subject.data, "train", encoding)
    tokens = read_tokens(subject.data, TEST, encoding)
    context_length = min(model.config.context_length, len(tokens) - 1)
    windows = overlapping(len(tokens), context_length)
    batches = [windows[first : first + params.batch_size] for first in range(0, len(windows), params.batch_size)]
    progress = ProgressBar(batches, desc="foundation", unit="batch")
    losses = token_losses(model, tokens, progress, context_length=context_length, compute=subject.compute)
    logger.info("counting the n-grams of the training text: 10 to 30 seconds for 24 MB")
    ngrams = count_ngrams(train[-NGRAM_TOKENS:], encoding.n_vocab)
    ngram_bits = -np.log2(ngrams.probabilities(tokens)[1:])
    write_errors(encoding, tokens, windows, losses=losses, evidence=subject.evidence)
    texts = continuations(subject.loaded, params.sample_prompts, tokens=params.sample_tokens, seed=params.seed)
    lines = ["# Samples of the foundation", *(f"> {' '.join(text.split())}" for text in texts)]
    (subject.evidence / "samples.md").write_text("\n\n".join(lines) + "\n")
    loss = float(losses.mean())
    scores = document_scores(encoding, tokens, ours=losses / math.log(2), baseline=ngram_bits)
    return Measured(scores, {"test_loss": loss, "perplexity": math.exp(loss)})


def read_tokens(data: Path, split: str, encoding: tiktoken.Encoding) -> np.ndarray:
    """A split as the tokens of the model's own tokenizer, which may not be that of the corpus any more."""
    tokens = TokenWindows(data, split, 1).tokens[:]
    corpus = load_tokenizer(data / "tokenizer.json")
    if same_tokens(corpus, encoding):
        return tokens
    end = end_of_text(corpus)
    encoded: list[int] = []
    for document in np.split(tokens, np.flatnonzero(tokens == end) + 1):
        encoded += encoding.encode_ordinary(decode(corpus, document[document != end].tolist()))
        encoded += [end_of_text(encoding)] * (end in document)
    return np.array(encoded)


def overlapping(tokens: int, context_length: int) -> list[Window]:
    """Windows in which each token of a file but its first is scored once, after at least half a context but in the
    first window."""
    last = tokens - 1 - context_length
    starts = [*range(0, last, -(-context_length // 2)), last]
    covered = [0, *(start + context_length for start in starts)]
    return [Window(start=start, scored=done - start) for start, done in zip(starts, covered, strict=False)]


@torch.inference_mode()
def token_losses(
    model: GPT, tokens: np.ndarray, batches: Iterable[Sequence[Window]], *, context_length: int, compute: Compute
) -> np.ndarray:
    """The cross-entropy of each scored token in nats, float64, in the order of the windows."""
    losses = []
    for windows in batches:
        rows = np.stack([tokens[window.start : window.start + context_length + 1] for window in windows])
        rows_BT = torch.from_numpy(rows.astype(np.int64)).to(compute.device)
        with compute.autocast():
            hidden_BTC = model.hidden_states(rows_BT[:, :-1])
            for window, x_TC, targets_T in zip(windows, hidden_BTC, rows_BT[:, 1:], strict=True):
                inputs = x_TC[window.scored :].split(PIECE)
                targets = targets_T[window.scored :].split(PIECE)
                for x_RC, targets_R in zip(inputs, targets, strict=True):
                    logits_RV = model.logits(x_RC).float()
                    losses.append(F.cross_entropy(logits_RV, targets_R, reduction="none").double().cpu().numpy())
    return np.concatenate(losses)


def document_scores(
    encoding: tiktoken.Encoding, tokens: np.ndarray, *, ours: np.ndarray, baseline: np.ndarray
) -> pd.DataFrame:
    """The score table of the documents of a token file, from the bits of all tokens but the first, which nobody
    predicts."""
    end = end_of_text(encoding)
    starts = np.flatnonzero(tokens[:-1] == end)  # of the documents but the first, among the predicted tokens
    starts = np.unique([0, *starts])
    texts = [decode(encoding, part[part != end].tolist()) for part in np.split(tokens[1:], starts[1:])]
    rows = pd.DataFrame({"part": TEST, "id": [f"text {number}" for number in range(1, len(texts) + 1)]})
    sizes = np.add.reduceat(token_sizes(encoding, tokens[1:]), starts).astype(float)
    scored = {}
    for contender, bits in {"ours": ours, "baseline": baseline}.items():
        totals = np.add.reduceat(bits, starts)
        ratios = pd.Series(np.divide(totals, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0))
        measures = {"bits": totals, "bytes": sizes, "bits_per_byte": ratios}
        scored[contender] = pd.DataFrame({**measures, ANSWER: ratios.map("{:.3f} bits a byte".format)})
    return score_table(rows.assign(question=texts, expected=""), **scored)


def token_sizes(encoding: tiktoken.Encoding, tokens: np.ndarray) -> np.ndarray:
    """The bytes of each token; the end of a document has none."""
    different, places = np.unique(tokens, return_inverse=True)
    sizes = np.array([len(token_bytes(encoding, token)) for token in different.tolist()])
    return np.where(tokens == end_of_text(encoding), 0, sizes[places])


def write_errors(
    encoding: tiktoken.Encoding, tokens: np.ndarray, windows: list[Window], *, losses: np.ndarray, evidence: Path
) -> None:
    """`errors.md`: the windows that the foundation predicts worst."""
    firsts = [window.start + window.scored for window in windows]  # of each window's scored targets
    scored = np.split(tokens[1:], firsts[1:])
    means = np.array([part.mean() for part in np.split(losses, firsts[1:])])
    lines = ["# The test windows that the foundation predicts worst"]
    for number in np.argsort(-means, kind="stable")[:WORST]:
        text = " ".join(decode(encoding, scored[number].tolist()).split())[:SHOWN]
        lines.append(f"**window {number}**: {means[number]:.4f} nats a token\n\n> {text}")
    (evidence / "errors.md").write_text("\n\n".join(lines) + "\n")


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
    baseline="n-grams of five tokens with modified Kneser-Ney smoothing",
)
