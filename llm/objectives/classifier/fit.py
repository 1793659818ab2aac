"""How a classifier's head is fitted, over both views at once, and how its probabilities and bounds are chosen.

How sure it is comes from train, by heads that have not learned from the texts that they judge (out of fold); threshold
and bounds come from validation, as mail that was written for a training may be harder than mail as it comes.
"""

import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import tiktoken
import torch
from torch import Tensor
from torch.nn import functional as F

from llm.generation.packed import pack_for_reading
from llm.model.gpt import GPT
from llm.objectives.classifier.calibration import UnsureRates, fit_scale
from llm.objectives.classifier.inputs import Inputs, StreamInputs, TokenInputs
from llm.objectives.classifier.linear import Sparse, fit
from llm.objectives.classifier.model import Classifier, encoded, f1_score

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


def read_texts(
    model: Classifier, encoding: tiktoken.Encoding, labelled: LabelledTexts, reader: GPT | None = None
) -> ReadTexts:
    """Choose what of texts is read closely. `reader` are the blocks that do not learn, where there are any.

    Call `fit_ngrams` first: they choose.
    """
    windows = model.windows(labelled.texts)
    tokens = encoded(model, encoding, windows)
    inputs = TokenInputs(tokens) if reader is None else StreamInputs(reader, tokens)
    return ReadTexts(labelled, windows, inputs)


def fit_ngrams(model: Classifier, train: LabelledTexts) -> None:
    """Learn from `train` how rare n-grams are and, for two labels, what to look for in a long text."""
    if model.ngrams is None:
        return
    model.ngrams.fit_idf(train.texts)
    if len(model.config.labels) == 2:
        _Head(model, train).fit_search()


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
    labels = len(model.config.labels)
    actual = validation.labelled.labels
    head = _Head(model, train.labelled)
    states_NC, validation_states_NC = _states_as_served(model, [train.inputs, validation.inputs])
    head.read(train.windows, states_NC)
    scale, bias = fit_scale(head.logits_out_of_fold(FOLDS), train.labelled.labels)
    head.fit(torch.ones(len(train.windows), dtype=torch.bool))
    head.install(scale, bias)
    logits = model.logits(validation.labelled.texts, validation.windows, validation_states_NC)
    probability = logits.double().softmax(dim=-1).numpy()
    if false_positive_rate is not None:
        model.config = model.config.with_bounds(probability, actual.numpy(), false_positive_rate, unsure)
        found = model.config
        logger.info("chosen on validation: the threshold is %s, unsure is between %s", found.threshold, found.unsure)
    return {
        "validation_loss": F.cross_entropy(logits, actual).item(),
        "validation_f1": float(f1_score(actual.numpy(), model.decide(probability), labels)),
    }


def _states_as_served(model: Classifier, splits: Sequence[Inputs]) -> list[Tensor]:
    """The GPT's states of each split, N x C, as it reads where it is served.

    So the head fits them to the last bit; behind frozen blocks, whose stream is kept in bfloat16, to 8 bits.
    """
    trained, started, states = model.gpt, time.perf_counter(), []
    model.gpt = pack_for_reading(deepcopy(trained).float())
    try:
        for inputs in splits:
            count, parts = len(inputs.lengths), []
            for first in range(0, count, AT_ONCE):
                texts = range(first, min(first + AT_ONCE, count))
                parts.append(model.states_of(inputs, texts))
                seconds = time.perf_counter() - started
                logger.info("the GPT has read %d of %d texts in %.0f s", texts.stop, count, seconds)
            states.append(torch.cat(parts))
    finally:
        model.gpt = trained
    return states


class _Head:
    """The features of a classifier's texts, and the head that is fitted on them."""

    def __init__(self, model: Classifier, train: LabelledTexts) -> None:
        self.model, self.texts, self.labels, self.groups = model, train.texts, train.labels, train.groups

    def _sparse(self, windows: Sequence[str]) -> Sparse:
        none = torch.zeros(0, dtype=torch.long)
        features = none, none.float(), torch.zeros(len(self.texts), dtype=torch.long)
        return Sparse.of(*(features if self.model.ngrams is None else self.model.ngrams.features(self.texts, windows)))

    def fit_search(self) -> None:
        """Learn by n-grams alone what makes a text look like the second of two labels."""
        self.sparse, self.states_NC = self._sparse(self.texts), torch.zeros(len(self.texts), 1).double()
        self.fit(torch.ones(len(self.texts), dtype=torch.bool))
        ngrams, weight_UK = self.model.ngrams, self.found.sparse_UK
        ngrams.search.zero_()
        ngrams.search[self.sparse.features_U] = (weight_UK[:, 1] - weight_UK[:, 0]).float()

    def read(self, windows: Sequence[str], states_NC: Tensor) -> None:
        """Take in what is read closely of each text, and the GPT's states of it."""
        states = states_NC.double()
        self.mean, self.scale = states.mean(dim=0), STATES / states.std(dim=0, correction=0).clamp(min=1e-6)
        self.states_NC = (states - self.mean) * self.scale
        self.sparse = self._sparse(windows)

    def fit(self, learned: Tensor) -> None:
        """Learn from the texts of a mask, bool N."""
        labels = len(self.model.config.labels)
        self.found = fit(self.sparse, self.states_NC, self.labels, learned.double(), labels)

    def logits(self) -> Tensor:
        """Logits of the texts by what was learned, float64 N x K."""
        return self.found.logits(self.sparse, self.states_NC)

    def logits_out_of_fold(self, folds: int) -> Tensor:
        """The same by so many heads, each of which has learned from the other folds; a group is in one of them."""
        numbers: dict[int, int] = {}
        part = torch.tensor([numbers.setdefault(group, len(numbers)) % folds for group in self.groups])
        unseen_NK = torch.zeros(len(self.texts), len(self.model.config.labels), dtype=torch.double)
        for fold in part.unique():
            self.fit(part != fold)
            unseen_NK[part == fold] = self.logits()[part == fold]
        return unseen_NK

    @torch.no_grad()
    def install(self, scale: float, bias: Sequence[float]) -> None:
        """Give the model what was learned, its logits scaled and a bias added."""
        model, found = self.model, self.found
        dense_CK = found.dense_CK * self.scale[:, None]
        model.head.weight.copy_(scale * dense_CK.T)
        model.head.bias.copy_(scale * (found.bias_K - self.mean @ dense_CK) + torch.tensor(bias))
        if model.ngrams is not None:
            model.ngrams.weight.zero_()
            model.ngrams.weight[self.sparse.features_U] = scale * found.sparse_UK.float()
