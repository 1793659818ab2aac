"""How a classifier's head is fitted, over both views at once, and how its probabilities and bounds are chosen.

How sure it is comes from train, by heads that have not learned from the texts that they judge (out of fold); threshold
and bounds come from validation, as mail that was written for a training may be harder than mail as it comes.
"""

import logging
import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.metrics import f1_score
from sklearn.model_selection import PredefinedSplit
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from llm.generation.packed import pack_for_reading
from llm.loaded_model import LoadedModel
from llm.model.gpt import GPT
from llm.objectives.classifier.calibration import UnsureRates, fit_scale
from llm.objectives.classifier.inputs import Inputs
from llm.objectives.classifier.model import Classifier, encode_windows

FOLDS = 5
AT_ONCE = 1000
"""Texts that are read from one line of the log to the next."""
STATES = 0.02
"""What a hidden state counts whose standard deviation is 1; the n-grams of words have length 1, those of characters,
too."""

TOLERANCE = 1e-6
"""Where a fit ends, so that the weights hardly depend on the order of the texts."""

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
    return ReadTexts(labelled, windows, Inputs(encode_windows(loaded, windows), reader))


def f1_of(actual_N: Tensor, predicted_N: np.ndarray, labels: int) -> float:
    """F1 of the second of two labels, or its mean over more, of those that a text has or is given."""
    average = "macro" if labels > 2 else "binary"
    return float(f1_score(actual_N.numpy(), predicted_N, average=average, zero_division=0))


def fit_ngrams(model: Classifier, train: LabelledTexts) -> None:
    """Learn from `train` how rare n-grams are and, for two labels, what to look for in a long text."""
    ngrams = model.ngrams
    if ngrams is None:
        return
    ngrams.fit_idf(train.texts)
    if len(model.config.labels) == 2:
        features = ngrams.features(train.texts, train.texts)
        ngrams.search.copy_(torch.from_numpy(_machine(features, train.labels.numpy()).coef_[0]))


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
    trained = model.gpt
    model.gpt = pack_for_reading(deepcopy(trained).float())  # as it reads where it is served
    states_NC = _states(model, train.inputs)
    validation_states_NC = _states(model, validation.inputs)
    model.gpt = trained
    _fit_on(model, train, states_NC.double())
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
        "validation_f1": f1_of(actual_N, predicted_N, len(model.config.labels)),
    }


def _states(model: Classifier, inputs: Inputs) -> Tensor:
    """The GPT's states of all texts, N x C, with a line of the log for every AT_ONCE of them."""
    start = time.perf_counter()
    count = len(inputs.lengths)
    parts = []
    for first in range(0, count, AT_ONCE):
        texts = range(first, min(first + AT_ONCE, count))
        parts.append(model.states_of(inputs, texts))
        logger.info(f"the GPT has read {texts.stop} of {count} texts in {time.perf_counter() - start:.0f} s")
    return torch.cat(parts)


def _machine(features: sparse.csr_matrix, labels_N: np.ndarray) -> LinearSVC:
    """A linear support vector machine, fitted.

    Its loss is the squared hinge (Chang et al. 2008) of each label against the others: texts that are well on their
    side cost nothing, so the hard ones decide. The bias is held as the other weights are.
    """
    machine = LinearSVC(C=1.0, dual=True, tol=TOLERANCE, max_iter=100_000, random_state=0)
    return machine.fit(features.astype(np.float64), labels_N)


def _fit_on(model: Classifier, train: ReadTexts, states_NC: Tensor) -> None:
    """Fit the head on both views of texts, and its probabilities on what heads say of texts that they have not seen."""
    labelled = train.labelled
    mean_C = states_NC.mean(dim=0)
    scale_C = STATES / states_NC.std(dim=0, correction=0).clamp(min=1e-6)
    views = [sparse.csr_matrix(((states_NC - mean_C) * scale_C).numpy())]
    if model.ngrams is not None:
        views.append(model.ngrams.features(labelled.texts, train.windows))
    features: Any = sparse.hstack(views, format="csr")
    actual_N = labelled.labels.numpy()
    machine = _machine(features, actual_N)
    margins = machine.decision_function(features)
    numbers: dict[int, int] = {}
    folds_N = [numbers.setdefault(group, len(numbers)) % FOLDS for group in labelled.groups]
    for learned, judged in PredefinedSplit(folds_N).split():
        if len(np.unique(actual_N[learned])) == len(machine.classes_):  # few rows may have a label in one fold alone
            margins[judged] = _machine(features[learned], actual_N[learned]).decision_function(features[judged])
    scale, bias = fit_scale(_of_each_label(np.atleast_2d(margins.T)).T, labelled.labels)
    weight_KW = scale * _of_each_label(machine.coef_)
    dense_KC = weight_KW[:, : len(mean_C)] * scale_C
    bias_K = scale * _of_each_label(machine.intercept_) + torch.tensor(bias)
    with torch.no_grad():
        model.head.weight.copy_(dense_KC)
        model.head.bias.copy_(bias_K - dense_KC @ mean_C)
        if model.ngrams is not None:
            model.ngrams.weight.copy_(weight_KW[:, len(mean_C) :].T)


def _of_each_label(rows: np.ndarray) -> Tensor:
    """Weights or margins, one row a label; for two labels scikit-learn has one row, the difference of both."""
    tensor = torch.from_numpy(rows)
    return tensor if len(tensor) > 1 else torch.cat([-tensor, tensor]) / 2
