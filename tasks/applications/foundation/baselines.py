"""What predicts the test text without a neural network: n-grams, and n-grams with a cache."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import tiktoken

from llm.tokenizer import end_of_text
from tasks.applications.foundation.cache import add_cache, best_strengths, count_orders
from tasks.applications.foundation.kneser_ney import KneserNey, models

NGRAM_ORDERS = 5  # the longest n-grams that are tried, of the training text and of a cache
NGRAM_TOKENS = 20_000_000  # of the training text at most, its last ones: counting takes about 200 bytes a token

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

    @property
    def best(self) -> np.ndarray:
        """The bits of each token by the better of the two."""
        return self.ngrams if self.ngrams.sum() < self.cached.sum() else self.cached


def fit_baselines(splits: Mapping[str, np.ndarray], encoding: tiktoken.Encoding) -> Baselines:
    """The baselines on the tokens of `test`, after the tokens of `train`; `validation` chooses orders and cache."""
    logger.info("counting the n-grams of the training text: 10 to 30 seconds for 24 MB")
    train = splits["train"][-NGRAM_TOKENS:]
    validation = splits["validation"][:]
    test = splits["test"][:]
    ngrams = best_ngrams(train, validation, encoding.n_vocab)
    return Baselines(
        order=ngrams.order,
        ngrams=ngram_bits(ngrams, test),
        cached=cached_bits(ngrams, validation, test, end=end_of_text(encoding)),
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
