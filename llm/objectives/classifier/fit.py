"""How a classifier's head is fitted, over both views at once, and how its probabilities and bounds are chosen.

All is chosen on train, by texts that the head which judges them has not learned from (out of fold), so that validation
says how good it is.
"""

import logging
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import tiktoken
import torch
from torch import Tensor
from torch.nn import functional as F

from llm.generation.packed import pack_for_reading
from llm.objectives.classifier.calibration import UnsureRates, best_threshold, fit_mixture, unsure_bounds
from llm.objectives.classifier.model import Classifier, f1_score, mixed, read_states
from llm.objectives.classifier.regression import Sparse, fit

FOLDS = 5
AT_ONCE = 1000
"""Texts that are read from one line of the log to the next."""
COVERED = 3
"""One in so many texts that are looked for is judged in a cover, too."""
STATES = 0.03
"""What a hidden state counts whose standard deviation is 1; the n-grams of words have length 1, those of characters,
too."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledTexts:
    """A split of the texts, with labels as numbers; texts of one group are alike."""

    texts: list[str]
    labels: Tensor
    groups: list[int]

    def class_weights(self, labels: int, balanced: bool) -> Tensor:
        """What a text of each label counts, K: as much as any other, or the inverse of its label's share."""
        counts = self.labels.bincount(minlength=labels)
        return len(self.labels) / (labels * counts) if balanced else torch.ones(labels)


def covered(texts: LabelledTexts, seed: int) -> LabelledTexts:
    """One in COVERED of the texts of the second of two labels, each amidst one of the first: so spam hides."""
    generator = np.random.default_rng(seed)
    numbers = np.arange(len(texts.texts))
    plain, looked_for = (numbers[texts.labels.numpy() == label] for label in (0, 1))
    hidden, groups = [], []
    for number in looked_for[::COVERED] if len(plain) else ():
        cover = texts.texts[generator.choice(plain)].split(" ")
        place = int(generator.integers(len(cover) + 1))
        hidden.append("\n".join([" ".join(cover[:place]), texts.texts[number], " ".join(cover[place:])]))
        groups.append(texts.groups[number])
    return LabelledTexts(hidden, torch.ones(len(hidden), dtype=torch.long), groups)


@torch.inference_mode(False)
def fit_head(
    model: Classifier,
    encoding: tiktoken.Encoding,
    train: LabelledTexts,
    validation: LabelledTexts,
    *,
    balanced: bool,
    false_positive_rate: float,
    unsure: UnsureRates | None,
    seed: int,
) -> dict[str, float]:
    """Fit the head on hidden states and n-grams of `train`, and choose there what turns its logits into answers.

    Of two labels, some texts of the second amidst those of the first help to choose what its opinions count; the head
    does not learn from them, as they would hide short spam. Gives loss and F1 on `validation`.
    """
    labels, plain = len(model.config.labels), len(train.texts)
    hides = labels == 2 and model.ngrams is not None
    hidden = covered(train, seed) if hides else LabelledTexts([], train.labels[:0], [])
    texts, known = train.texts + hidden.texts, torch.cat([train.labels, hidden.labels])
    states = _states_as_served(model, encoding, texts + validation.texts)
    states, of_validation = states[: len(texts)], states[len(texts) :]
    head, weights = _Head(model, train, states[:plain]), train.class_weights(labels, balanced).double()[train.labels]
    opinions = [torch.zeros(len(texts), labels) for _ in model.opinions(texts[:1], states[:1])]
    numbers: dict[int, int] = {}
    part = torch.tensor([numbers.setdefault(group, len(numbers)) % FOLDS for group in train.groups + hidden.groups])
    for fold in part.unique():
        head.fit(weights * (part[:plain] != fold))
        rows = (part == fold).nonzero()[:, 0].tolist()
        for opinion, found in zip(opinions, model.opinions([texts[row] for row in rows], states[rows]), strict=True):
            opinion[rows] = found
    head.fit(weights)
    _choose(model, opinions, known, plain, false_positive_rate, unsure)
    logits = mixed(model.config, model.opinions(validation.texts, of_validation))
    probability = logits.double().softmax(dim=-1).numpy()
    return {
        "validation_loss": F.cross_entropy(logits, validation.labels).item(),
        "validation_f1": f1_score(validation.labels.numpy(), model.decide(probability), labels),
    }


def _states_as_served(model: Classifier, encoding: tiktoken.Encoding, texts: list[str]) -> Tensor:
    """The GPT's `states` of texts, N x C, as it reads where it is served: so the head fits them to the last bit."""
    trained, started, states = model.gpt, time.perf_counter(), []
    model.gpt = pack_for_reading(deepcopy(trained).float())
    try:
        for first in range(0, len(texts), AT_ONCE):
            states.append(read_states(model, encoding, texts[first : first + AT_ONCE]))
            seconds = time.perf_counter() - started
            logger.info("the GPT has read %d of %d texts in %.0f s", first + len(states[-1]), len(texts), seconds)
    finally:
        model.gpt = trained
    return torch.cat(states)


class _Head:
    """The features of a classifier's texts, and the head that is fitted on them."""

    def __init__(self, model: Classifier, train: LabelledTexts, states_NC: Tensor) -> None:
        self.model, self.labels = model, train.labels
        states = states_NC.double()
        self.mean = states.mean(dim=0)
        self.scale = STATES / states.std(dim=0, correction=0).clamp(min=1e-6)
        self.states_NC = (states - self.mean) * self.scale
        none = torch.zeros(0, dtype=torch.long)
        features = none, none.float(), torch.zeros(len(states), dtype=torch.long)
        if model.ngrams is not None:
            model.ngrams.fit_idf(train.texts)
            features = model.ngrams.features(train.texts)
        self.ngrams = Sparse.of(*features)

    @torch.no_grad()
    def fit(self, weights: Tensor) -> None:
        """Fit the model's head on the texts, of which each counts so much."""
        model = self.model
        found = fit(self.ngrams, self.states_NC, self.labels, weights, len(model.config.labels))
        dense_CK = found.dense_CK * self.scale[:, None]
        model.head.weight.copy_(dense_CK.T)
        model.head.bias.copy_(found.bias_K - self.mean @ dense_CK)
        if model.ngrams is not None:
            model.ngrams.weight.zero_()
            model.ngrams.weight[self.ngrams.features_U] = found.sparse_UK.float().to(model.ngrams.weight.device)


def _choose(
    model: Classifier,
    opinions: Sequence[Tensor],
    labels: Tensor,
    plain: int,
    false_positive_rate: float,
    unsure: UnsureRates | None,
) -> None:
    """What each opinion counts, how sure they are together, and the bounds; all by the first `plain` texts but the
    first, for which those in covers help."""
    weights, _ = fit_mixture(opinions, labels)
    config = model.config.model_copy(update={"opinion_weights": tuple(weights), "bias": ()})
    opinions, labels = [each[:plain] for each in opinions], labels[:plain]
    (scale,), bias = fit_mixture([mixed(config, opinions)], labels)
    found = {"opinion_weights": tuple(scale * weight for weight in weights), "bias": tuple(bias)}
    config = config.model_copy(update=found)
    if len(config.labels) == 2:
        second = mixed(config, opinions).double().softmax(dim=-1)[:, 1].numpy()
        wanted = labels.numpy() == 1
        threshold = best_threshold(second, wanted, false_positive_rate)
        found = {"threshold": threshold, "false_positive_rate": false_positive_rate}
        if unsure is not None:
            found |= {"unsure": unsure_bounds(second, wanted, threshold, unsure), "unsure_rates": unsure}
        config = config.model_copy(update=found)
    model.config = config
    logger.info(
        "chosen out of fold: the whole text counts %s, the threshold is %s, unsure %s",
        ", ".join(f"{weight:.2f}" for weight in config.opinion_weights), config.threshold, config.unsure,
    )  # fmt: skip
