"""Labelled texts, and which of them a GPT learns from that is asked where a linear model is not certain.

Of the default mails those are fewer than half: 200 steps on them do what 280 on all did (benchmarks/LOG.md).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llm.objectives.classifier.calibration import fit_mixture
from llm.objectives.classifier.ngrams import NgramModel

FEW = 500
"""Of fewer texts the GPT learns from all: a mail that was fed back, five times there, would be much of what is left."""
FOLDS = 3
"""A text is judged by a linear model that has learned from the others of so many parts."""
COVERED = 3
"""With all of them, short texts that are looked for are lost: everyday spam 0.84 -> 0.67, F1 0.957 -> 0.950."""
LEAST = 0.25
"""Share of each label's texts that the GPT learns from, however certain the linear model is of them."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledTexts:
    """A split of the texts as tokens, with labels as numbers."""

    tokens: list[list[int]]
    labels: Tensor

    def part(self, rows: Sequence[int]) -> "LabelledTexts":
        """Some of its rows."""
        return LabelledTexts([self.tokens[row] for row in rows], self.labels[rows])

    def __add__(self, others: "LabelledTexts") -> "LabelledTexts":
        return LabelledTexts(self.tokens + others.tokens, torch.cat([self.labels, others.labels]))

    def class_weights(self, labels: int, balanced: bool) -> Tensor:
        """What a text of each label counts, K: as much as any other, or the inverse of its label's share."""
        counts = self.labels.bincount(minlength=labels)
        return len(self.labels) / (labels * counts) if balanced else torch.ones(labels)


def fit_ngrams(model: NgramModel, texts: LabelledTexts, balanced: bool) -> None:
    """Fit a linear model on labelled texts."""
    model.fit(texts.tokens, texts.labels, texts.class_weights(model.bias.numel(), balanced))


def covered(texts: LabelledTexts, seed: int) -> LabelledTexts:
    """One in COVERED of the texts of the second of two labels, each amidst one of the first: so spam hides."""
    generator = np.random.default_rng(seed)
    plain, looked_for = (
        [tokens for tokens, own in zip(texts.tokens, texts.labels.tolist(), strict=True) if own == label]
        for label in (0, 1)
    )
    hidden = []
    for tokens in looked_for[::COVERED] if plain else ():
        cover = plain[generator.integers(len(plain))]
        place = int(generator.integers(len(cover) + 1))
        hidden.append([*cover[:place], *tokens, *cover[place:]])
    return LabelledTexts(hidden, torch.ones(len(hidden), dtype=torch.long))


def to_be_read(train: LabelledTexts, labels: int, *, buckets: int, certain: float, balanced: bool) -> LabelledTexts:
    """What of `train` the GPT learns from.

    Those are the texts of which a linear model of so many buckets is not `certain` that has learned from other parts of
    `train`, and of each label at least a share of LEAST, the least certain ones. Of fewer than FEW texts all are.
    """
    if len(train.tokens) < FEW:
        return train
    numbers: dict[tuple[int, ...], int] = {}  # a text that stands there several times, as feedback does, is in one part
    part = torch.tensor([numbers.setdefault(tuple(tokens), len(numbers)) % FOLDS for tokens in train.tokens])
    if len(numbers) < FOLDS:
        return train
    linear = torch.zeros(len(part), labels)
    for fold in part.unique():
        known, rest = (train.part(rows.nonzero()[:, 0].tolist()) for rows in (part != fold, part == fold))
        model = NgramModel(buckets, labels)
        fit_ngrams(model, known, balanced)
        linear[part == fold] = model(rest.tokens)
    (weight,), bias = fit_mixture([linear], train.labels)
    certainty = (weight * linear + torch.tensor(bias)).softmax(dim=-1).amax(dim=-1)
    least = torch.stack([certainty[train.labels == label].quantile(LEAST) for label in range(labels)])
    read = (certainty < certain) | (certainty <= least[train.labels])
    logger.info("the GPT learns from %d of %d texts: the linear model is certain of the others", read.sum(), len(read))
    return train.part(read.nonzero()[:, 0].tolist())
