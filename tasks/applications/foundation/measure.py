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
from torch.nn import functional as F
from tqdm import tqdm

from llm.config import Config
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.language_model import check_prompts, continuations
from llm.tokenizer import decode, end_of_text, token_bytes
from llm.training.loss import PIECE, bits_per_byte
from tasks.applications.foundation.cache import add_cache, best_strengths, count_orders, document_numbers
from tasks.applications.foundation.kneser_ney import KneserNey, models
from tasks.measures.description import Evaluation
from tasks.measures.intervals import interval, with_interval

NGRAM_ORDERS = 5  # the longest n-grams that are tried, of the training text and of a cache
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
def token_losses(
    model: GPT, tokens: np.ndarray, windows: Iterable[Sequence[Window]], context_length: int, compute: Compute
) -> np.ndarray:
    """The cross-entropy of each scored token in nats, float64, in the order of `windows`, which come in batches."""
    losses = []
    for batch in windows:
        rows = np.stack([tokens[window.start : window.start + context_length + 1] for window in batch])
        rows_BT = torch.from_numpy(rows.astype(np.int64)).to(compute.device)
        with compute.autocast():
            hidden_BTC = model.hidden_states(rows_BT[:, :-1])
            for window, x_TC, targets_T in zip(batch, hidden_BTC, rows_BT[:, 1:], strict=True):
                pieces = zip(x_TC[window.scored :].split(PIECE), targets_T[window.scored :].split(PIECE), strict=True)
                for x_RC, targets_R in pieces:
                    logits_RV = model.logits(x_RC).float()
                    losses.append(F.cross_entropy(logits_RV, targets_R, reduction="none").double().cpu().numpy())
    return np.concatenate(losses)


def bits_of_documents(losses: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
    """Bits per byte over documents, of the nats and the bytes of each; of arrays of them along `axis`."""
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


def ngram_probabilities(model: KneserNey, tokens: np.ndarray) -> np.ndarray:
    """The probability of each token; what is before the first is taken to be like it."""
    return model.probabilities(np.concatenate([np.full(model.order - 1, tokens[0]), tokens]))


def ngram_bits(model: KneserNey, tokens: np.ndarray) -> np.ndarray:
    """The bits of each token but the first."""
    return -np.log2(ngram_probabilities(model, tokens)[1:])


def cached_bits(model: KneserNey, validation: np.ndarray, test: np.ndarray, end: int) -> np.ndarray:
    """The bits of each token of `test` but the first by n-grams with a cache of its document, which `end` ends.

    What the cache counts is chosen on `validation`.
    """
    probabilities = ngram_probabilities(model, validation)
    strengths = best_strengths(probabilities, count_orders(validation, end, NGRAM_ORDERS))
    logger.info("strengths of the cache, by order: %s", strengths)
    cached = add_cache(ngram_probabilities(model, test), count_orders(test, end, NGRAM_ORDERS), strengths)
    return -np.log2(cached[1:])


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
    without and with a cache of the document so far, and PPMd as a compressor. `baseline_bits_per_byte` is the best
    one's, and `bits_per_byte_gain` how many fewer the foundation takes. Intervals are over documents, that of the gain
    paired.
    """
    check_prompts(encoding, params.sample_prompts, model.config.context_length)
    files = {split: TokenWindows(data, split, model.config.context_length) for split in ("train", "validation", "test")}
    context, tokens = files["test"].context_length, files["test"].tokens[:]
    windows = overlapping(len(tokens), context)
    batches = [windows[first : first + params.batch_size] for first in range(0, len(windows), params.batch_size)]
    losses = token_losses(model, tokens, tqdm(batches, desc="foundation", unit="batch"), context, compute)
    predicted = tokens[1:]
    end = end_of_text(encoding)
    length = {token: len(token_bytes(encoding, token)) for token in np.unique(predicted).tolist() if token != end}
    sizes = np.array([length.get(token, 0) for token in predicted.tolist()])
    text_bytes = int(sizes.sum())

    logger.info("counting the n-grams of the training text, then compressing it: 20 to 40 seconds for 24 MB")
    train = files["train"].tokens[-NGRAM_TOKENS:]
    validation = files["validation"].tokens[:]
    ngrams = best_ngrams(train, validation, encoding.n_vocab)
    without_cache, with_cache = ngram_bits(ngrams, tokens), cached_bits(ngrams, validation, tokens, end)
    ngram, cached = float(without_cache.sum() / text_bytes), float(with_cache.sum() / text_bytes)
    ppmd = ppmd_bits(as_bytes(encoding, train[-PPMD_BYTES:]), as_bytes(encoding, predicted)) / text_bytes
    ours = bits_per_byte(float(losses.sum()), 1, text_bytes)

    table = {
        "foundation": ours,
        f"n-grams of {ngrams.order}, modified Kneser-Ney": ngram,
        f"n-grams of {ngrams.order} with a cache of the document": cached,
        f"PPMd of order {PPMD_ORDER}, {PPMD_MEMORY // 2**20} MB": ppmd,
    }
    pd.DataFrame(list(table.items()), columns=["model", "bits_per_byte"]).to_csv(
        evidence / "baselines.csv", index=False, float_format="%.4f", lineterminator="\n"
    )
    firsts = [window.start + window.scored for window in windows]  # of each window's scored targets
    counts = np.diff([*firsts, len(predicted)])
    nats, window_bytes = np.add.reduceat(losses, firsts), np.add.reduceat(sizes, firsts)
    lines = ["# The test windows that the foundation predicts worst"]
    for row in np.argsort(-nats / counts, kind="stable")[:WORST]:
        part = predicted[firsts[row] : firsts[row] + counts[row]]
        text = " ".join(decode(encoding, part.tolist()).split())[:SHOWN]
        lines += [
            f"**window {row}**: {nats[row] / counts[row]:.4f} nats a token, {window_bytes[row]} bytes",
            f"> {text}",
        ]
    (evidence / "errors.md").write_text("\n\n".join(lines) + "\n")
    loaded = LoadedModel(model, encoding)
    texts = continuations(loaded, params.sample_prompts, tokens=params.sample_tokens, seed=params.seed)
    lines = ["# Samples of the foundation", *(f"> {' '.join(text.split())}" for text in texts)]
    (evidence / "samples.md").write_text("\n\n".join(lines) + "\n")

    documents = document_numbers(tokens, end)[1:]
    document_bytes = np.bincount(documents, weights=sizes)
    ends = interval(bits_of_documents, np.bincount(documents, weights=losses), document_bytes)
    best, gain_ends = min(ngram, cached, ppmd), (None, None)
    if best != ppmd:  # of a compressor nobody knows the bits of a document
        baseline_bits = without_cache if ngram < cached else with_cache
        nats_saved = np.bincount(documents, weights=baseline_bits * math.log(2) - losses)
        gain_ends = interval(bits_of_documents, nats_saved, document_bytes)
    loss = float(losses.sum()) / len(predicted)
    return {
        "test_loss": loss,
        "perplexity": math.exp(loss),
        **with_interval("bits_per_byte", ours, ends),
        **with_interval("bits_per_byte_gain", best - ours, gain_ends),
        "baseline_bits_per_byte": best,
        "ngram_order": ngrams.order,
        "ngram_bits_per_byte": ngram,
        "ngram_cache_bits_per_byte": cached,
        "ppmd_bits_per_byte": ppmd,
    }


EVALUATION = Evaluation(params=Evaluate, measure=measure)
