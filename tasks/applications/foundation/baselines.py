"""What predicts the test text without a neural network: n-grams, n-grams with a cache, and a compressor."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyppmd
import tiktoken

from llm.tokenizer import end_of_text, token_bytes
from tasks.applications.foundation.cache import add_cache, best_strengths, count_orders
from tasks.applications.foundation.kneser_ney import KneserNey, models

NGRAM_ORDERS = 5  # the longest n-grams that are tried, of the training text and of a cache
NGRAM_TOKENS = 20_000_000  # of the training text at most, its last ones: counting takes about 200 bytes a token
PPMD_ORDER = 12  # the best of 4 to 24 on the validation text of the default corpus; 8 to 16 are within 3 % of it
PPMD_MEMORY = 2**29  # bytes; a model that outgrows it starts anew, and has then learned from what is left alone
PPMD_BYTES = 32 * 2**20  # of training text at most, its last ones: so much fits the memory, and takes 10 seconds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baselines:
    """The bits in which the baselines write the tokens of a text but its first."""

    order: int
    """Tokens of the longest n-grams."""
    ngrams: np.ndarray
    """The bits of each token by n-grams."""
    cached: np.ndarray
    """The same by n-grams with a cache of the document so far."""
    ppmd: float
    """The bits of the whole text by PPMd; of a compressor nobody knows those of a token."""

    @property
    def best(self) -> np.ndarray | None:
        """The bits of each token by the best baseline; None if that is PPMd."""
        if self.ppmd < min(self.ngrams.sum(), self.cached.sum()):
            return None
        return self.ngrams if self.ngrams.sum() < self.cached.sum() else self.cached

    @property
    def best_bits(self) -> float:
        """The bits of the whole text by the best."""
        return min(float(self.ngrams.sum()), float(self.cached.sum()), self.ppmd)


def fit_baselines(splits: Mapping[str, np.ndarray], encoding: tiktoken.Encoding) -> Baselines:
    """The baselines on the tokens of `test`, after the tokens of `train`; `validation` chooses orders and cache."""
    logger.info("counting the n-grams of the training text, then compressing it: 20 to 40 seconds for 24 MB")
    train = splits["train"][-NGRAM_TOKENS:]
    validation = splits["validation"][:]
    test = splits["test"][:]
    ngrams = best_ngrams(train, validation, encoding.n_vocab)
    learned = as_bytes(encoding, train[-PPMD_BYTES:])
    return Baselines(
        order=ngrams.order,
        ngrams=ngram_bits(ngrams, test),
        cached=cached_bits(ngrams, validation, test, end=end_of_text(encoding)),
        ppmd=ppmd_bits(learned, as_bytes(encoding, test[1:])),
    )


def best_ngrams(train: np.ndarray, validation: np.ndarray, vocabulary_size: int) -> KneserNey:
    """The n-grams of `train` that predict `validation` best, of order 2 to NGRAM_ORDERS: none is longer than the first
    that is worse than a shorter one."""
    best: KneserNey | None = None
    least = math.inf
    for model in islice(models(train, vocabulary_size), 1, NGRAM_ORDERS):
        bits = float(ngram_bits(model, validation).sum())
        if bits >= least:
            break
        best = model
        least = bits
    assert best is not None, "a text of two tokens has n-grams of order 2"
    return best


def ngram_probabilities(model: KneserNey, tokens: np.ndarray) -> np.ndarray:
    """The probability of each token; what is before the first is taken to be like it."""
    return model.probabilities(np.concatenate([np.full(model.order - 1, tokens[0]), tokens]))


def ngram_bits(model: KneserNey, tokens: np.ndarray) -> np.ndarray:
    """The bits of each token but the first."""
    return -np.log2(ngram_probabilities(model, tokens)[1:])


def cached_bits(model: KneserNey, validation: np.ndarray, test: np.ndarray, *, end: int) -> np.ndarray:
    """The bits of each token of `test` but the first by n-grams with a cache of its document, which `end` ends.

    What the cache counts is chosen on `validation`.
    """
    probabilities = ngram_probabilities(model, validation)
    strengths = best_strengths(probabilities, count_orders(validation, end, NGRAM_ORDERS))
    logger.info("strengths of the cache, by order: %s", strengths)
    cached = add_cache(ngram_probabilities(model, test), count_orders(test, end, NGRAM_ORDERS), strengths)
    return -np.log2(cached[1:])


def as_bytes(encoding: tiktoken.Encoding, tokens: np.ndarray) -> bytes:
    """The text of tokens as UTF-8, with a zero byte for each end of a document."""
    end = end_of_text(encoding)
    content = {token: token_bytes(encoding, token) for token in np.unique(tokens).tolist() if token != end}
    content[end] = b"\0"
    return b"".join(content[token] for token in tokens.tolist())


def ppmd_bits(train: bytes, test: bytes) -> float:
    """The bits that PPMd (Shkarin's variant H) writes for a text when it has compressed the last PPMD_BYTES of
    another; its order and its memory are PPMD_ORDER and PPMD_MEMORY.

    What one encoder writes after the training text is the size of both less that of the first, to less than 10
    bytes.
    """
    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    encoder.encode(train[-PPMD_BYTES:])
    return 8.0 * (len(encoder.encode(test)) + len(encoder.flush()))
