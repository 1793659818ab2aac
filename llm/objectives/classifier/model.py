"""The classifier's model: a GPT and n-grams, two views of a text, and one linear head over both."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tiktoken
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from llm.config import Config
from llm.dataset import pad
from llm.errors import UserError
from llm.model.gpt import GPT
from llm.objectives.classifier.calibration import UnsureRates
from llm.objectives.classifier.ngrams import NgramModel

UNSURE = "unsure"
"""The answer for a text between the two bounds of `ClassifierConfig.unsure`."""
WINDOW = 100
"""Words of a window; windows overlap by half."""
MOST_WINDOWS = 32
"""Of more windows of a text the number does not count."""


class ReadingConfig(Config):
    """What a classifier reads of a text: given for its training, and kept with it."""

    max_tokens: int = Field(gt=1)
    """Tokens of a text that the GPT reads; of a longer one the beginning, and for a fifth of them the end."""
    ngram_buckets: int = Field(default=0, ge=0)
    """Buckets for the n-grams of a text, of all of it; 0 leaves them out."""


class ClassifierConfig(ReadingConfig):
    """What a classifier reads and how it decides: the same in training, evaluation and serving."""

    labels: tuple[str, ...] = Field(min_length=2)
    """Of two, the second is the one that is looked for, such as spam."""
    opinion_weights: tuple[float, ...] = ()
    """What each of the model's opinions counts (`Classifier.opinions`); without any all count 1."""
    bias: tuple[float, ...] = ()
    """What is added to the logit of each label."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Above this probability of the second of two labels a text is given it; null takes the likelier."""
    false_positive_rate: float | None = Field(default=None, ge=0, le=1)
    """The share of other texts that may lie above the threshold; null where no threshold was chosen."""
    unsure: tuple[float, float] | None = None
    """A probability of the second of two labels between these bounds is answered with UNSURE; null always answers. The
    threshold is between them, so that a sure answer is the one that the threshold gives."""
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
        if len(self.labels) > 2 and self.threshold is not None:
            raise ValueError(f"threshold {self.threshold}: there are {len(self.labels)} labels, and it is one of two")
        return self

    def decide(self, probability: np.ndarray) -> np.ndarray:
        """The number of the label that each text is given, N, from the labels' probabilities, N x K."""
        if self.threshold is None:
            return probability.argmax(axis=1)
        return (probability[:, 1] > self.threshold).astype(int)

    def is_unsure(self, probability: np.ndarray) -> np.ndarray:
        """Whether each text lies between the bounds of `unsure`, bool N, from the labels' probabilities, N x K."""
        low, high = self.unsure or (1.0, 0.0)
        return (probability[:, 1] > low) & (probability[:, 1] <= high)


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

    def freeze(self, layers: int) -> None:
        """Keep the first `layers` blocks, and with one the embeddings, as they are.

        Raises UserError when there are fewer blocks.
        """
        if layers > len(self.gpt.blocks):
            raise UserError(f"frozen_layers {layers} is more than the model's {len(self.gpt.blocks)} blocks")
        if layers:
            self.gpt.embedding.requires_grad_(False)
        for block in self.gpt.blocks[:layers]:
            block.requires_grad_(False)

    def read(self, tokens: list[int]) -> list[int]:
        """What of a text the GPT reads."""
        size, end = self.config.max_tokens, self.config.max_tokens // 5
        return tokens if len(tokens) <= size else tokens[: size - end] + tokens[len(tokens) - end :]

    def mean_states(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The mean of the GPT's hidden states, BC, of texts that are padded on the right; the padding counts nowhere.

        The last token alone has seen the whole text, but pre-training taught it to look near by, at what comes next.
        """
        x_BTC = self.gpt.hidden_states(tokens_BT)
        real_BT1 = (torch.arange(tokens_BT.shape[1], device=lengths_B.device) < lengths_B[:, None]).unsqueeze(-1)
        return (x_BTC * real_BT1).sum(dim=1) / lengths_B[:, None]

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, B x K, by the GPT alone."""
        return self.head(self.mean_states(tokens_BT, lengths_B))

    @torch.no_grad()
    def states(self, texts: Sequence[list[int]], batch_size: int = 8) -> Tensor:
        """`mean_states`, float32 N x C on the CPU, of texts as tokens: by decode.c, or in bfloat16 where that is fast.

        A text comes out the same alone and among others, but for torch's last bits: it is padded by its own length.
        """
        device, padding = self.head.weight.device, self.gpt.padding
        states = torch.zeros(len(texts), self.head.in_features)
        by_padding: dict[int, list[int]] = {}
        for row, tokens in enumerate(texts):
            by_padding.setdefault(min(-(-len(tokens) // padding) * padding, self.config.max_tokens), []).append(row)
        dtype = self.gpt.reading_dtype
        with torch.autocast(device.type, dtype=dtype, enabled=dtype == torch.bfloat16):
            for length, rows in by_padding.items():
                for first in range(0, len(rows), batch_size):
                    batch = rows[first : first + batch_size]
                    tokens_BT, lengths_B = (t.to(device) for t in pad([texts[row] for row in batch], 0, length))
                    states[batch] = self.mean_states(tokens_BT, lengths_B).float().cpu()
        return states

    @torch.no_grad()
    def opinions(self, texts: Sequence[str], states_NC: Tensor) -> list[Tensor]:
        """What speaks for each label, each float32 N x K on the CPU, of texts and the GPT's `states` of them.

        The first is both views' of the whole text. Of two labels the second is the n-grams' of the window that is most
        like the second label, and the third counts the windows, as the maximum grows with their number. What is put
        around a text dilutes the whole, and leaves one of its windows nearly as it was.
        """
        whole = nn.functional.linear(states_NC, self.head.weight.cpu().float(), self.head.bias.cpu().float())
        if self.ngrams is None:
            return [whole]
        ngrams = self.ngrams(texts)
        if len(self.config.labels) > 2:
            return [whole + ngrams]
        strongest, counts = ngrams.clone(), torch.zeros_like(ngrams)
        for row, text in enumerate(texts):
            if len(windows := windows_of(text)) > 1:
                found = self.ngrams(windows)
                strongest[row] = found[(found[:, 1] - found[:, 0]).argmax()]
                counts[row, 0] = np.log(min(len(windows), MOST_WINDOWS))
        return [whole + ngrams, strongest, counts]


def windows_of(text: str) -> list[str]:
    """The windows of a text, as words; a text of at most WINDOW words is its own."""
    words = text.split()
    if len(words) <= WINDOW:
        return [text]
    starts = range(0, len(words) - WINDOW // 2, WINDOW // 2)
    return [" ".join(words[min(start, len(words) - WINDOW) :][:WINDOW]) for start in starts]


def mixed(config: ClassifierConfig, opinions: Sequence[Tensor]) -> Tensor:
    """Logits of the labels, N x K."""
    weights = config.opinion_weights or (1.0,) + (0.0,) * (len(opinions) - 1)
    bias = torch.tensor(config.bias or 0.0)
    return sum(weight * each for weight, each in zip(weights, opinions, strict=True)) + bias


def build(gpt: GPT, config: Mapping[str, Any]) -> Classifier:
    """The classifier around a GPT that config.json describes."""
    return Classifier(gpt, ClassifierConfig.model_validate(config["classifier"]))


def email_text(subject: str, body: str) -> str:
    """An email as the model reads it, subject first."""
    return f"{subject}\n\n{body}"


def email_texts(subjects: Iterable[str], bodies: Iterable[str]) -> list[str]:
    """Emails as the model reads them."""
    return [email_text(*each) for each in zip(subjects, bodies, strict=True)]


def read_states(model: Classifier, encoding: tiktoken.Encoding, texts: Sequence[str], batch_size: int = 8) -> Tensor:
    """The GPT's `states` of texts, N x C."""
    # tiktoken's own threads take longer to start than a mail does
    return model.states([model.read(encoding.encode_ordinary(text)) for text in texts], batch_size)


def probabilities(
    model: Classifier, encoding: tiktoken.Encoding, texts: Sequence[str], batch_size: int = 8
) -> np.ndarray:
    """The probability of each label of each text, float64 N x K; none of the texts is empty."""
    opinions = model.opinions(texts, read_states(model, encoding, texts, batch_size))
    return mixed(model.config, opinions).double().softmax(dim=-1).numpy()


def f1_score(actual: np.ndarray, predicted: np.ndarray, labels: int) -> float:
    """The harmonic mean of precision and recall of the second of two labels, or its mean over more.

    Labels are numbers below `labels`; of more than two those count that a text has or is given.
    """
    wanted = np.arange(labels)[:, None] if labels > 2 else np.array([[1]])
    hits = ((actual == wanted) & (predicted == wanted)).sum(axis=1)
    sizes = (actual == wanted).sum(axis=1) + (predicted == wanted).sum(axis=1)
    return float((2 * hits / np.maximum(1, sizes)).sum() / max(1, (sizes > 0).sum()))
