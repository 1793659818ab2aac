"""How a classifier's head is fitted, over both views at once, and how its probabilities and bounds are chosen.

How sure it is comes from train, by heads that have not learned from the texts that they judge (out of fold); threshold
and bounds come from validation, as mail that was written for a training may be harder than mail as it comes.
"""

import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llm.generation.packed import pack_for_reading
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.classifier.calibration import UnsureRates, fit_scale
from llm.objectives.classifier.inputs import Inputs, StreamInputs, TokenInputs
from llm.objectives.classifier.linear import Sparse, Views, fit
from llm.objectives.classifier.model import Classifier, encode_windows
from llm.objectives.classifier.ngrams import NgramModel

FOLDS = 5
AT_ONCE = 1000
"""Texts that are read from one line of the log to the next."""
STATES = 0.02
"""What a hidden state counts whose standard deviation is 1; the n-grams of words have length 1, those of characters,
too."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledTexts:
    """A split of the texts, with labels as numbers; texts of one group are alike."""

    texts: list[str]
    labels: Tensor
    groups: list[int]


@dataclass(frozen=True)
class ReadTexts:
    """A split of the texts, and what of each is read closely."""

    labelled: LabelledTexts
    windows: list[str]
    """The part of each text that the GPT reads."""
    inputs: Inputs
    """What it begins with."""


def read_texts(loaded: LoadedModel[Classifier], labelled: LabelledTexts, reader: GPT | None = None) -> ReadTexts:
    """Choose what of texts is read closely. `reader` are the blocks that do not learn, where there are any.

    Call `fit_ngrams` first: they choose.
    """
    windows = loaded.model.windows(labelled.texts)
    tokens = encode_windows(loaded, windows)
    inputs = TokenInputs(tokens) if reader is None else StreamInputs(reader, tokens)
    return ReadTexts(labelled, windows, inputs)


def f1_score(actual: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """The harmonic mean of precision and recall of the second of two labels, or its mean over more; of arrays of texts
    over the last axis.

    Labels are numbers below `labels`; of more than two those count that a text has or is given.
    """
    counted = np.arange(labels) if labels > 2 else np.array([1])
    is_actual = actual[..., None] == counted
    is_predicted = predicted[..., None] == counted
    hits = (is_actual & is_predicted).sum(axis=-2)
    sizes = is_actual.sum(axis=-2) + is_predicted.sum(axis=-2)
    return (2 * hits / np.maximum(1, sizes)).sum(axis=-1) / np.maximum(1, (sizes > 0).sum(axis=-1))


def fit_ngrams(model: Classifier, train: LabelledTexts) -> None:
    """Learn from `train` how rare n-grams are and, for two labels, what to look for in a long text."""
    if model.ngrams is None:
        return
    model.ngrams.fit_idf(train.texts)
    if len(model.config.labels) == 2:
        _fit_search(model.ngrams, train)


@torch.inference_mode(False)
def fit_head(
    model: Classifier,
    train: ReadTexts,
    validation: ReadTexts,
    *,
    false_positive_rate: float | None,
    unsure: UnsureRates | None,
) -> dict[str, float]:
    """Fit the head on hidden states and n-grams of `train`, and give loss and F1 on `validation`.

    Without a `false_positive_rate` there is no threshold, and nothing is unsure.

    A long ham is learned by the window of it that looks most like spam, so that spam which hides among harmless words
    stands out from the windows of ham.
    """
    states_NC, validation_states_NC = _states_as_served(model, [train.inputs, validation.inputs])
    _fit_on(model, train, states_NC)
    actual_N = validation.labelled.labels
    logits_NK = model.logits(validation.labelled.texts, validation.windows, validation_states_NC)
    probability_NK = logits_NK.double().softmax(dim=-1).numpy()
    if false_positive_rate is not None:
        model.config = model.config.with_bounds(
            probability_NK, actual_N.numpy(), false_positive_rate=false_positive_rate, rates=unsure
        )
        threshold = model.config.threshold
        logger.info("chosen on validation: the threshold is %s, unsure is between %s", threshold, model.config.unsure)
    predicted_N = model.config.decide(probability_NK)
    return {
        "validation_loss": F.cross_entropy(logits_NK, actual_N).item(),
        "validation_f1": float(f1_score(actual_N.numpy(), predicted_N, len(model.config.labels))),
    }


def _states_as_served(model: Classifier, splits: Sequence[Inputs]) -> list[Tensor]:
    """The GPT's states of each split, N x C, as it reads where it is served.

    So the head fits them to the last bit; behind frozen blocks, whose stream is kept in bfloat16, to 8 bits.
    """
    trained = model.gpt
    model.gpt = pack_for_reading(deepcopy(trained).float())
    try:
        return [_states_of_all(model, inputs) for inputs in splits]
    finally:
        model.gpt = trained


def _states_of_all(model: Classifier, inputs: Inputs) -> Tensor:
    start = time.perf_counter()
    count = len(inputs.lengths)
    parts = []
    for first in range(0, count, AT_ONCE):
        texts = range(first, min(first + AT_ONCE, count))
        parts.append(model.states_of(inputs, texts))
        logger.info(f"the GPT has read {texts.stop} of {count} texts in {time.perf_counter() - start:.0f} s")
    return torch.cat(parts)


def _ngram_features(ngrams: NgramModel | None, texts: Sequence[str], windows: Sequence[str]) -> Sparse:
    """The n-grams of texts and their windows; none of a model without."""
    if ngrams is not None:
        buckets, values, starts = ngrams.features(texts, windows)
        return Sparse.of(buckets, values, starts)
    nothing = torch.zeros(0, dtype=torch.long)
    return Sparse.of(nothing, nothing.float(), torch.zeros(len(texts), dtype=torch.long))


def _fit_search(ngrams: NgramModel, train: LabelledTexts) -> None:
    """Learn by n-grams alone what makes a text look like the second of two labels."""
    sparse = _ngram_features(ngrams, train.texts, train.texts)
    views = Views(sparse, torch.zeros(len(train.texts), 1).double())
    weights = fit(views, train.labels, learned_N=torch.ones(len(train.texts)).double(), classes=2)
    ngrams.search.zero_()
    ngrams.search[sparse.features_U] = (weights.sparse_UK[:, 1] - weights.sparse_UK[:, 0]).float()


def _fit_on(model: Classifier, train: ReadTexts, states_NC: Tensor) -> None:
    """Fit the head on both views of texts, and its probabilities on what heads say of texts that they have not seen."""
    labelled = train.labelled
    states_NC = states_NC.double()
    mean_C = states_NC.mean(dim=0)
    scale_C = STATES / states_NC.std(dim=0, correction=0).clamp(min=1e-6)
    views = Views(_ngram_features(model.ngrams, labelled.texts, train.windows), (states_NC - mean_C) * scale_C)
    classes = len(model.config.labels)
    scale, bias = fit_scale(_logits_out_of_fold(views, labelled, classes), labelled.labels)
    everything = torch.ones(len(labelled.texts)).double()
    weights = fit(views, labelled.labels, learned_N=everything, classes=classes)
    dense_CK = weights.dense_CK * scale_C[:, None]
    with torch.no_grad():
        model.head.weight.copy_(scale * dense_CK.T)
        model.head.bias.copy_(scale * (weights.bias_K - mean_C @ dense_CK) + torch.tensor(bias))
        if model.ngrams is not None:
            model.ngrams.weight.zero_()
            model.ngrams.weight[views.ngrams.features_U] = scale * weights.sparse_UK.float()


def _logits_out_of_fold(views: Views, labelled: LabelledTexts, classes: int) -> Tensor:
    """Logits of each text, float64 N x K, by a head that has learned from the other folds; no group is in two folds."""
    numbers: dict[int, int] = {}
    folds_N = torch.tensor([numbers.setdefault(group, len(numbers)) % FOLDS for group in labelled.groups])
    logits_NK = torch.zeros(len(labelled.texts), classes, dtype=torch.double)
    for fold in folds_N.unique():
        is_left_out = folds_N == fold
        weights = fit(views, labelled.labels, learned_N=(~is_left_out).double(), classes=classes)
        logits_NK[is_left_out] = weights.logits(views)[is_left_out]
    return logits_NK
