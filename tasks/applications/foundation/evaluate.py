"""Measure how well the foundation predicts unseen text, next to baselines without a neural network."""

import logging
import math
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyppmd
import tiktoken
import torch
from pydantic import Field
from tqdm import tqdm

from llm.config import Config
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.kernels.training.cross_entropy import linear_cross_entropy
from llm.model.gpt import GPT
from llm.objectives.language_model import bits_per_byte, check_prompts, continuations
from llm.tokenizer import decode, end_of_text, token_bytes
from tasks.applications import Evaluation
from tasks.evaluation.language_model.kneser_ney import KneserNey, models
from tasks.evaluation.statistics import interval, with_interval

NGRAM_ORDERS = 5  # the longest n-grams that are tried
NGRAM_TOKENS = 20_000_000  # of the training text at most, its last ones: counting takes about 200 bytes a token
PPMD_ORDER = 12  # the best of 4 to 24 on the validation text of the default corpus; 8 to 16 are within 3 % of it
PPMD_MEMORY = 2**29  # bytes; a model that outgrows it starts anew, and has then learned from what is left alone
PPMD_BYTES = 32 * 2**20  # of training text at most, its last ones: so much fits the memory, and takes 10 seconds
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


class Window(NamedTuple):
    """Tokens that are read together."""

    start: int
    """The place of its first input in the file."""
    scored: int
    """Its first target that no window before it has."""


def overlapping(tokens: int, context_length: int) -> list[Window]:
    """Windows in which each token of a file but its first is scored once, after at least half a context but in the
    first window."""
    last = tokens - 1 - context_length
    starts = [*range(0, last, -(-context_length // 2)), last]
    covered = [0, *(start + context_length for start in starts)]
    return [Window(start, done - start) for start, done in zip(starts, covered, strict=False)]


@torch.inference_mode()
def window_losses(
    model: GPT, tokens: np.ndarray, windows: Iterable[Sequence[Window]], context_length: int, compute: Compute
) -> np.ndarray:
    """The cross-entropy of the scored tokens of each window, in nats: float64 N. `windows` come in batches."""
    losses = []
    for batch in windows:
        rows = np.stack([tokens[each.start : each.start + context_length + 1] for each in batch]).astype(np.int64)
        rows_BT = torch.from_numpy(rows).to(compute.device)
        with compute.autocast():
            for each, x_TC, targets_T in zip(batch, model.hidden_states(rows_BT[:, :-1]), rows_BT[:, 1:], strict=True):
                total = linear_cross_entropy(x_TC[each.scored :], model.output_weight, targets_T[each.scored :])
                losses.append(total.item())
    return np.array(losses)


def bits_of_windows(losses: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    """Bits per byte over windows, of the nats and the bytes of each; of arrays of them along `axis`."""
    return losses.sum(axis) / sizes.sum(axis) / math.log(2)


def as_bytes(encoding: tiktoken.Encoding, tokens: np.ndarray) -> bytes:
    """The text of tokens as UTF-8, with a zero byte for each end of a document."""
    end = end_of_text(encoding)
    return b"".join(b"\0" if token == end else token_bytes(encoding, token) for token in tokens.tolist())


def ppmd_bits(train: bytes, test: bytes) -> float:
    """The bits that PPMd (Shkarin's variant H) writes for a text when it has compressed the last PPMD_BYTES of
    another; its order and its memory are PPMD_ORDER and PPMD_MEMORY.

    What one encoder writes after the training text is the size of both less that of the first, to less than 10
    bytes.
    """
    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    encoder.encode(train[-PPMD_BYTES:])
    return 8.0 * (len(encoder.encode(test)) + len(encoder.flush()))


def ngram_bits(model: KneserNey, tokens: np.ndarray) -> np.ndarray:
    """The bits of each token but the first; what is before the first is taken to be like it."""
    return -np.log2(model.probabilities(np.concatenate([np.full(model.order - 2, tokens[0]), tokens])))


def best_ngrams(train: np.ndarray, validation: np.ndarray, vocabulary_size: int) -> KneserNey:
    """The n-grams of `train` that predict `validation` best, of order 2 to NGRAM_ORDERS: none is longer than the first
    that is worse than a shorter one."""
    best, least = None, math.inf
    for model in islice(models(train, vocabulary_size), 1, NGRAM_ORDERS):
        if (bits := ngram_bits(model, validation).sum()) >= least:
            break
        best, least = model, bits
    return best


def measure(
    model: GPT,
    encoding: tiktoken.Encoding,
    data: Path,
    base: None,
    params: Evaluate,
    compute: Compute,
    evidence: Path,
) -> dict[str, float]:
    """Loss in nats a token, perplexity and bits per byte on the test file; samples and worst windows as evidence.

    All of its tokens but the first are predicted, in windows that overlap by half: each token is read after at least
    half a context but in the first window. The baselines predict the same tokens, or their bytes, after the training
    text or the last NGRAM_TOKENS and PPMD_BYTES of it: n-grams of the order that is best on validation (`ngram_order`),
    and PPMd as a compressor. `baseline_bits_per_byte` is the better one's, and `bits_per_byte_gain` how many fewer the
    foundation takes. Intervals are over the scored parts of windows, that of the gain paired.
    """
    check_prompts(encoding, params.sample_prompts, model.config.context_length)
    files = {split: TokenWindows(data, split, model.config.context_length) for split in ("train", "validation", "test")}
    context, tokens = files["test"].context_length, files["test"].tokens[:]
    windows = overlapping(len(tokens), context)
    batches = [windows[first : first + params.batch_size] for first in range(0, len(windows), params.batch_size)]
    nats = window_losses(model, tokens, tqdm(batches, desc="foundation", unit="batch"), context, compute)
    predicted = tokens[1:]
    firsts = [each.start + each.scored for each in windows]  # of each window's scored targets
    counts = np.diff([*firsts, len(predicted)])
    end = end_of_text(encoding)
    length = {token: len(token_bytes(encoding, token)) for token in np.unique(predicted).tolist() if token != end}
    sizes = np.add.reduceat([length.get(token, 0) for token in predicted.tolist()], firsts)

    logger.info("counting the n-grams of the training text, then compressing it: 20 to 40 seconds for 24 MB")
    train = files["train"].tokens[-NGRAM_TOKENS:]
    ngrams = best_ngrams(train, files["validation"].tokens[:], encoding.n_vocab)
    its_bits = np.add.reduceat(ngram_bits(ngrams, tokens), firsts)
    ngram = float(its_bits.sum() / sizes.sum())
    ppmd = ppmd_bits(as_bytes(encoding, train[-PPMD_BYTES:]), as_bytes(encoding, predicted)) / sizes.sum()
    ours = bits_per_byte(float(nats.sum()), 1, int(sizes.sum()))

    table = {
        "foundation": ours,
        f"n-grams of {ngrams.order}, modified Kneser-Ney": ngram,
        f"PPMd of order {PPMD_ORDER}, {PPMD_MEMORY // 2**20} MB": ppmd,
    }
    pd.DataFrame(list(table.items()), columns=["model", "bits_per_byte"]).to_csv(
        evidence / "baselines.csv", index=False, float_format="%.4f", lineterminator="\n"
    )
    lines = ["# The test windows that the foundation predicts worst"]
    for row in np.argsort(-nats / counts, kind="stable")[:WORST]:
        part = predicted[firsts[row] : firsts[row] + counts[row]]
        text = " ".join(decode(encoding, part.tolist()).split())[:SHOWN]
        lines += [f"**window {row}**: {nats[row] / counts[row]:.4f} nats a token, {sizes[row]} bytes", f"> {text}"]
    (evidence / "errors.md").write_text("\n\n".join(lines) + "\n")
    texts = continuations(model, encoding, params.sample_prompts, tokens=params.sample_tokens, seed=params.seed)
    lines = ["# Samples of the foundation", *(f"> {' '.join(text.split())}" for text in texts)]
    (evidence / "samples.md").write_text("\n\n".join(lines) + "\n")

    loss, better = float(nats.sum()) / len(predicted), min(ngram, ppmd)
    # Of a compressor nobody knows the bits of a window.
    ends = interval(bits_of_windows, its_bits * math.log(2) - nats, sizes) if ngram <= ppmd else (None, None)
    return {
        "test_loss": loss,
        "perplexity": math.exp(loss),
        **with_interval("bits_per_byte", ours, interval(bits_of_windows, nats, sizes)),
        **with_interval("bits_per_byte_gain", better - ours, ends),
        "baseline_bits_per_byte": better,
        "ngram_order": ngrams.order,
        "ngram_bits_per_byte": ngram,
        "ppmd_bits_per_byte": ppmd,
    }


EVALUATION = Evaluation(params=Evaluate, measure=measure)
