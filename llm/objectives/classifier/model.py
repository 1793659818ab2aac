"""The classifier's model: a GPT and n-grams, two views of a text, and one linear head over both."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tiktoken
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from llm.config import Config
from llm.errors import UserError
from llm.generation.reading import reading_of
from llm.model.gpt import GPT
from llm.objectives.classifier.calibration import UnsureRates, best_threshold, unsure_bounds
from llm.objectives.classifier.inputs import Inputs, TokenInputs
from llm.objectives.classifier.ngrams import NgramModel

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
        self, probability: np.ndarray, actual: np.ndarray, false_positive_rate: float, rates: UnsureRates | None
    ) -> Self:
        """A copy whose threshold and unsure bounds are chosen from the probabilities of validation texts, N x K, and
        their label numbers, N."""
        chances, is_looked_for = self.looked_for(probability), actual > 0
        threshold = best_threshold(chances, is_looked_for, false_positive_rate)
        unsure = unsure_bounds(chances, is_looked_for, threshold, rates) if rates else None
        found = {"threshold": threshold, "false_positive_rate": false_positive_rate}
        return self.model_copy(update=found | {"unsure": unsure, "unsure_rates": rates})

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


class Classifier(nn.Module):
    """A GPT body with a classification head, which n-grams of the text share."""

    def __init__(self, gpt: GPT, config: ClassifierConfig) -> None:
        super().__init__()
        context = gpt.config.context_length
        if config.max_tokens > context:
            raise UserError(f"max_tokens {config.max_tokens} is more than the model's context of {context}")
        self.gpt = gpt
        if gpt.output is not None:
            gpt.output.requires_grad_(False)  # the head takes its place
        self.config = config
        self.frozen: GPT | None = None
        """In a training that leaves blocks as they are, these blocks; `gpt` then has the others alone."""
        self.head = nn.Linear(gpt.config.n_embd, len(config.labels))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.ngrams = NgramModel(config.ngram_buckets, len(config.labels)) if config.ngram_buckets else None

    def describe(self) -> dict[str, Any]:
        """What a model folder's config.json says of it."""
        return self.gpt.describe() | {"classifier": self.config.model_dump()}

    def decide(self, probability: np.ndarray) -> np.ndarray:
        """As its configuration does."""
        return self.config.decide(probability)

    def is_unsure(self, probability: np.ndarray) -> np.ndarray:
        """As its configuration says."""
        return self.config.is_unsure(probability)

    def windows(self, texts: Sequence[str]) -> list[str]:
        """What of each text is read closely: the window that looks most like the second of two labels."""
        if self.ngrams is None or len(self.config.labels) > 2:
            return list(texts)
        return [self.ngrams.window_of(text) for text in texts]

    def mean_states(self, inputs: Tensor, lengths_B: Tensor) -> Tensor:
        """The mean of the GPT's hidden states, BC, of texts that are padded on the right; the padding counts nowhere.

        `inputs` are tokens, BT, or the stream behind the frozen blocks, BTC. The state of the last token has seen the
        whole text, but pre-training made it a prediction of the next token.
        """
        x_BTC = self.gpt.hidden_states(inputs)
        real_BT1 = (torch.arange(inputs.shape[1], device=lengths_B.device) < lengths_B[:, None]).unsqueeze(-1)
        return (x_BTC * real_BT1).sum(dim=1) / lengths_B[:, None]

    def forward(self, inputs: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, B x K, by the GPT alone, from the same inputs."""
        return self.head(self.mean_states(inputs, lengths_B))

    def states(self, texts: Sequence[list[int]], batch_size: int = 8) -> Tensor:
        """`states_of` texts as tokens."""
        return self.states_of(TokenInputs(texts), range(len(texts)), batch_size)

    @torch.no_grad()
    def states_of(self, inputs: Inputs, texts: range, batch_size: int = 8) -> Tensor:
        """`mean_states`, float32 N x C on the CPU, of these texts: by decode.c, or in bfloat16 where that is fast.

        A text comes out the same alone and among others, but for torch's last bits: it is padded by its own length.
        """
        device = self.head.weight.device
        reading = reading_of(self.gpt)
        states = torch.zeros(len(texts), self.head.in_features)
        by_padding: dict[int, list[int]] = {}
        for text in texts:
            length = min(-(-inputs.lengths[text] // reading.padding) * reading.padding, self.config.max_tokens)
            by_padding.setdefault(length, []).append(text)
        with reading.autocast():
            for length, alike in by_padding.items():
                for first in range(0, len(alike), batch_size):
                    batch = alike[first : first + batch_size]
                    tensors, lengths_B = inputs.batch(batch, length)
                    means_BC = self.mean_states(tensors.to(device), lengths_B.to(device))
                    states[[text - texts.start for text in batch]] = means_BC.float().cpu()
        return states

    @torch.no_grad()
    def logits(self, texts: Sequence[str], windows: Sequence[str], states_NC: Tensor) -> Tensor:
        """Logits, float32 N x K on the CPU, of texts, their `windows`, and the GPT's `states` of those."""
        logits = nn.functional.linear(states_NC, self.head.weight.cpu().float(), self.head.bias.cpu().float())
        return logits if self.ngrams is None else logits + self.ngrams(texts, windows)


def build(gpt: GPT, config: Mapping[str, Any]) -> Classifier:
    """The classifier around a GPT that config.json describes."""
    return Classifier(gpt, ClassifierConfig.model_validate(config["classifier"]))


def row_text(parts: Sequence[str]) -> str:
    """The texts in a row's columns as the model reads them, a blank line between two."""
    return "\n\n".join(parts)


def email_text(subject: str, body: str) -> str:
    """An email as the model reads it, subject first."""
    return row_text([subject, body])


def row_texts(columns: Iterable[Iterable[str]]) -> list[str]:
    """Rows as the model reads them, from the texts in each of their columns."""
    return [row_text(parts) for parts in zip(*columns, strict=True)]


def email_texts(subjects: Iterable[str], bodies: Iterable[str]) -> list[str]:
    """Emails as the model reads them."""
    return row_texts([subjects, bodies])


def encoded(model: Classifier, encoding: tiktoken.Encoding, windows: Sequence[str]) -> list[list[int]]:
    """The tokens of texts that the GPT reads."""
    # tiktoken's own threads take longer to start than a mail does
    return [encoding.encode_ordinary(window)[: model.config.max_tokens] for window in windows]


def probabilities(
    model: Classifier, encoding: tiktoken.Encoding, texts: Sequence[str], batch_size: int = 8
) -> np.ndarray:
    """The probability of each label of each text, float64 N x K; none of the texts is empty."""
    windows = model.windows(texts)
    logits = model.logits(texts, windows, model.states(encoded(model, encoding, windows), batch_size))
    return logits.double().softmax(dim=-1).numpy()


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
