"""What a classifier reads of a text, and how it decides: the same in training, evaluation and serving."""

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from llm.config import Config
from llm.objectives.classifier.calibration import UnsureRates, best_threshold, unsure_bounds

UNSURE = "unsure"
"""The answer for a text between the two bounds of `ClassifierConfig.unsure`."""


class ReadingConfig(Config):
    """What a classifier reads of a text, and what is said to it: given for its training, and kept with it."""

    max_tokens: int = Field(gt=1)
    """Tokens of a text that the GPT reads: of a long one the window whose n-grams are most like the second of two
    labels; with more labels, or without n-grams, the beginning."""
    ngram_buckets: int = Field(default=0, ge=0)
    """Buckets for the n-grams of a text, of all of it and of its window; 0 leaves them out."""
    columns: tuple[str, ...] = Field(default=("subject", "body"), min_length=1)
    """The columns of a row that are read, one below another with a blank line between them."""
    replies: dict[str, str] = Field(default_factory=dict)
    """What an assistant says to a text with this label, instead of an answer. A classifier with replies is a guard."""


class ClassifierConfig(ReadingConfig):
    """What a classifier reads and how it decides: the same in training, evaluation and serving."""

    labels: tuple[str, ...] = Field(min_length=2)
    """The first is the one that passes, such as ham; the others are looked for, such as spam."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """A text passes unless the other labels together are likelier than this; then it is given the likeliest of them.
    Null gives the likeliest of all."""
    false_positive_rate: float | None = Field(default=None, ge=0, le=1)
    """The share of texts that should pass and may lie above the threshold; null where no threshold was chosen."""
    unsure: tuple[float, float] | None = None
    """A text is answered with UNSURE if the probability of the labels that are looked for is between these bounds; null
    always answers. The threshold is between them, so that a sure answer is the one that the threshold gives."""
    unsure_rates: UnsureRates | None = None
    """The shares that chose these bounds."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if UNSURE in self.labels:
            raise ValueError(f"labels {', '.join(self.labels)}: {UNSURE} is the answer where no label is sure")
        if self.unsure and not (self.threshold and self.unsure[0] <= self.threshold <= self.unsure[1]):
            raise ValueError(f"unsure {self.unsure}: the threshold {self.threshold} is not between these bounds")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {', '.join(self.labels)}: one stands there twice")
        if strangers := [label for label in self.replies if label not in self.labels[1:]]:
            stopped = ", ".join(self.labels[1:])
            raise ValueError(f"replies: {strangers[0]!r} is not one of {stopped}, the labels that do not pass")
        if blank := [label for label, reply in self.replies.items() if not reply.strip()]:
            raise ValueError(f"replies: {blank[0]!r} has no text")
        return self

    def looked_for(self, probability: np.ndarray) -> np.ndarray:
        """The probability, N, that a text has a label other than the first, from those of the labels, N x K."""
        return probability[:, 1:].sum(axis=1)

    def with_bounds(
        self, probability: np.ndarray, actual: np.ndarray, *, false_positive_rate: float, rates: UnsureRates | None
    ) -> Self:
        """A copy whose threshold and unsure bounds are chosen from the probabilities of validation texts, N x K, and
        their label numbers, N."""
        chances = self.looked_for(probability)
        is_looked_for = actual > 0
        threshold = best_threshold(chances, is_looked_for, false_positive_rate)
        bounds = {
            "threshold": threshold,
            "false_positive_rate": false_positive_rate,
            "unsure": unsure_bounds(chances, is_looked_for, threshold=threshold, rates=rates) if rates else None,
            "unsure_rates": rates,
        }
        return self.model_copy(update=bounds)

    def decide(self, probability: np.ndarray) -> np.ndarray:
        """The number of the label that each text is given, N, from the labels' probabilities, N x K."""
        if self.threshold is None:
            return probability.argmax(axis=1)
        likeliest = 1 + probability[:, 1:].argmax(axis=1)
        return np.where(self.looked_for(probability) > self.threshold, likeliest, 0)

    def is_unsure(self, probability: np.ndarray) -> np.ndarray:
        """Whether each text lies between the bounds of `unsure`, bool N, from the labels' probabilities, N x K."""
        low, high = self.unsure or (1.0, 0.0)
        chances = self.looked_for(probability)
        return (chances > low) & (chances <= high)
