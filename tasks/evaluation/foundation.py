"""How well the foundation predicts text that it never saw, beside what predicts text without a neural network."""

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyppmd
import tiktoken
import torch
from pydantic import Field
from tqdm import tqdm

from llm.applications.language_model import check_prompts, continuations
from llm.config import Config
from llm.dataset import TokenWindows
from llm.device import Compute
from llm.model.gpt import GPT
from llm.tokenizer import decode, end_of_text, token_bytes
from llm.training.loss import bits_per_byte, linear_cross_entropy
from tasks.evaluation import Evaluation
from tasks.evaluation.kneser_ney import KneserNey
from tasks.evaluation.statistics import interval, with_interval

NGRAM_ORDER = 3
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
    """Continued for people to read."""
    sample_tokens: int = Field(default=60, gt=0)
    """Tokens a sample."""
    seed: int = Field(default=1, ge=0)
    """Seeds the sampling."""


@torch.inference_mode()
def window_losses(
    model: GPT, windows: TokenWindows, batches: Iterable[np.ndarray], compute: Compute
) -> tuple[np.ndarray, np.ndarray]:
    """The mean cross-entropy of each window, in nats a token, and its targets: float64 N and int64 NT."""
    losses, targets = [], []
    for rows in batches:
        inputs_BT, targets_BT = (tensor.to(compute.device) for tensor in windows.batch(rows))
        with compute.autocast():
            for x_TC, targets_T in zip(model.features(inputs_BT), targets_BT, strict=True):
                total = linear_cross_entropy(x_TC, model.output_weight, targets_T)
                losses.append(total.item() / len(targets_T))
        targets.append(targets_BT.cpu().numpy())
    return np.array(losses), np.concatenate(targets)


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


def ngram_bits(train: np.ndarray, before: int, test: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """The bits of each token in an n-gram model of NGRAM_ORDER that was counted on others; `before` is the one
    before them."""
    model = KneserNey(train, vocabulary_size, NGRAM_ORDER)
    context = np.full(NGRAM_ORDER - 1, before)
    return -np.log2(model.probabilities(np.concatenate([context, test])))


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

    All whole windows of the file are predicted. The baselines predict the very tokens, or bytes, that the foundation
    does, after the same training text or the last NGRAM_TOKENS and PPMD_BYTES of it: an n-gram model, and PPMd as a
    compressor. `baseline_bits_per_byte` is the better one's, and `bits_per_byte_gain` how many fewer the foundation
    takes. Intervals are over test windows, that of the gain paired.
    """
    check_prompts(encoding, params.sample_prompts, model.config.context_length)
    windows = TokenWindows(data, "test", model.config.context_length)
    rows = np.array_split(np.arange(len(windows)), -(-len(windows) // params.batch_size))
    losses, targets_NT = window_losses(model, windows, tqdm(rows, desc="foundation", unit="batch"), compute)
    nats, predicted = losses * windows.context_length, targets_NT.ravel()
    end = end_of_text(encoding)
    length = {token: len(token_bytes(encoding, token)) for token in np.unique(predicted).tolist() if token != end}
    sizes = np.array([sum(length.get(token, 0) for token in row) for row in targets_NT.tolist()])

    logger.info("counting the n-grams of the training text, then compressing it: about ten seconds for 24 MB")
    train = TokenWindows(data, "train", model.config.context_length).tokens[-NGRAM_TOKENS:]
    its_bits = ngram_bits(train, int(windows.tokens[0]), predicted, encoding.n_vocab).reshape(targets_NT.shape).sum(1)
    ngram = float(its_bits.sum() / sizes.sum())
    ppmd = ppmd_bits(as_bytes(encoding, train[-PPMD_BYTES:]), as_bytes(encoding, predicted)) / sizes.sum()
    ours = bits_per_byte(float(nats.sum()), 1, int(sizes.sum()))

    table = {
        "foundation": ours,
        f"n-grams of {NGRAM_ORDER}, modified Kneser-Ney": ngram,
        f"PPMd of order {PPMD_ORDER}, {PPMD_MEMORY // 2**20} MB": ppmd,
    }
    pd.DataFrame(list(table.items()), columns=["model", "bits_per_byte"]).to_csv(
        evidence / "baselines.csv", index=False, float_format="%.4f", lineterminator="\n"
    )
    lines = ["# The test windows that the foundation predicts worst"]
    for row in np.argsort(-losses, kind="stable")[:WORST]:
        text = " ".join(decode(encoding, targets_NT[row].tolist()).split())[:SHOWN]
        lines += [f"**window {row}**: {losses[row]:.4f} nats a token, {sizes[row]} bytes", f"> {text}"]
    (evidence / "errors.md").write_text("\n\n".join(lines) + "\n")
    texts = continuations(model, encoding, params.sample_prompts, tokens=params.sample_tokens, seed=params.seed)
    lines = ["# Samples of the foundation", *(f"> {' '.join(text.split())}" for text in texts)]
    (evidence / "samples.md").write_text("\n\n".join(lines) + "\n")

    loss, better = float(losses.mean()), min(ngram, ppmd)
    # Of a compressor nobody knows the bits of a window.
    ends = interval(bits_of_windows, its_bits * math.log(2) - nats, sizes) if ngram <= ppmd else (None, None)
    return {
        "test_loss": loss,
        "perplexity": math.exp(loss),
        **with_interval("bits_per_byte", ours, interval(bits_of_windows, nats, sizes)),
        **with_interval("bits_per_byte_gain", better - ours, ends),
        "baseline_bits_per_byte": better,
        "ngram_bits_per_byte": ngram,
        "ppmd_bits_per_byte": ppmd,
    }


EVALUATION = Evaluation(params=Evaluate, measure=measure)
