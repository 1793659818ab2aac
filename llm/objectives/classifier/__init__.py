"""The classifier: a GPT with a head, and a linear model on n-grams beside it, decide among labels.

The head reads the last real token beside the mean of all: the last alone has seen the whole text, but pre-training
taught it to look near by, at what comes next; the mean gives every token a say. The linear model reads all of a text,
and each window of it; the GPT reads the window that the linear model finds most like the label that is looked for. So
a spam in the midst of harmless words is read as if it stood alone (benchmarks/LOG.md, 2026-11-29).

Where the linear model is certain by itself, which of the default mails it is of two in three, the GPT is not asked (a
cascade, Viola and Jones 2001), and learns from few such texts (llm/objectives/classifier/text_selection.py).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import tiktoken
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from llm.config import Config, TrainConfig
from llm.dataset import BatchSampler, pad
from llm.device import Compute
from llm.errors import UserError
from llm.model.gpt import GPT
from llm.objectives import CLASSIFY, Row, answer_each, text_of
from llm.objectives.classifier.calibration import best_threshold, fit_mixture
from llm.objectives.classifier.explanations import in_words, moved_by
from llm.objectives.classifier.ngrams import NgramModel
from llm.objectives.classifier.text_selection import LabelledTexts, covered
from llm.training.loop import Objective
from llm.training.workers import ALONE, Workers

INPUTS = {"subject": str | None, "body": str | None}
OPTIONS: dict[str, tuple[type, Any]] = {"explain": (int, 0)}
EXAMPLE = {"subject": "Meeting on Friday", "body": "Shall we say ten o'clock?"}
CAPABILITIES = (CLASSIFY,)
MOST_WINDOWS = 32
"""Of more windows of a text the number does not count."""
UNSURE = "unsure"
"""The answer for a text between the two bounds of `ClassifierConfig.unsure`."""

logger = logging.getLogger(__name__)


class ReadingConfig(Config):
    """What a classifier reads of a text: given for its training, and kept with it."""

    max_tokens: int = Field(gt=1)
    """Tokens of a text that the GPT reads: of a longer one the window that the linear model finds most like the second
    of two labels. The first ones, where there is no linear model or there are more labels."""
    ngram_buckets: int = Field(default=0, ge=0)
    """Buckets of a linear model that reads all of a text and decides with the GPT; 0 leaves it out."""
    certain: float | None = Field(default=None, gt=0.5, le=1)
    """A text to which the linear model alone gives a label with this probability is not read by the GPT, which learns
    from few of them; null reads all."""

    @model_validator(mode="after")
    def _has_ngrams_to_be_certain(self) -> Self:
        if self.certain is not None and not self.ngram_buckets:
            raise ValueError(f"certain {self.certain}: without ngram_buckets there is no linear model to be so")
        return self


class ClassifierConfig(ReadingConfig):
    """What a classifier reads and how it decides: the same in training, evaluation and serving."""

    labels: tuple[str, ...] = Field(min_length=2)
    """Of two, the second is the one that is looked for, such as spam."""
    gpt_weight: float = Field(default=1.0, gt=0)
    """What the GPT's logits count."""
    ngram_weights: tuple[float, ...] = ()
    """What the linear model's opinions count beside them (`Reading.beside`)."""
    bias: tuple[float, ...] = ()
    """What is added to the logit of each label."""
    alone_weights: tuple[float, ...] = ()
    """What its opinions count where it decides alone (`Reading.alone`)."""
    alone_bias: tuple[float, ...] = ()
    """What is added there."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """Above this probability of the second of two labels a text is given it; null takes the likelier."""
    false_positive_rate: float | None = Field(default=None, ge=0, le=1)
    """The share of validation's other texts that may lie above the threshold; null where no threshold was chosen."""
    unsure: tuple[float, float] | None = None
    """A probability of the second of two labels between these bounds is answered with UNSURE; null always answers. The
    threshold is between them, so that a sure answer is the one that the threshold gives."""

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


def _outputs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The label or UNSURE, the label that it leans to, the probability of each label, and, with the option `explain`,
    the phrases that moved it."""
    labels = ClassifierConfig.model_validate(config["classifier"]).labels
    probability = {f"{label}_probability": float for label in labels}
    return {"label": str, "leaning": str, **probability, "moved_by": str | None}


OUTPUTS = _outputs


class Classifier(nn.Module):
    """A GPT body with a classification head, and a linear model on n-grams beside it."""

    def __init__(self, gpt: GPT, config: ClassifierConfig) -> None:
        super().__init__()
        context = gpt.config.context_length
        if config.max_tokens > context:
            raise UserError(f"max_tokens {config.max_tokens} is more than the model's context of {context}")
        self.gpt = gpt
        if gpt.output is not None:
            gpt.output.requires_grad_(False)  # the head takes its place
        self.config = config
        self.head = nn.Linear(2 * gpt.config.n_embd, len(config.labels))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.ngrams = NgramModel(config.ngram_buckets, len(config.labels)) if config.ngram_buckets else None

    def describe(self) -> dict[str, Any]:
        """What a model folder's config.json says of it."""
        return self.gpt.describe() | {"classifier": self.config.model_dump()}

    def decide(self, probability: np.ndarray) -> np.ndarray:
        """The number of the label that each text is given, N, from the labels' probabilities, N x K."""
        if self.config.threshold is None:
            return probability.argmax(axis=1)
        return (probability[:, 1] > self.config.threshold).astype(int)

    def is_unsure(self, probability: np.ndarray) -> np.ndarray:
        """Whether each text lies between the bounds of `unsure`, bool N, from the labels' probabilities, N x K."""
        low, high = self.config.unsure or (1.0, 0.0)
        return (probability[:, 1] > low) & (probability[:, 1] <= high)

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

    @property
    def reads_windows(self) -> bool:
        """Whether a linear model chooses the window of a text that the GPT reads."""
        return self.ngrams is not None and len(self.config.labels) == 2

    def read(self, texts: Sequence[list[int]]) -> "Reading":
        """What GPT and linear model read of texts."""
        size = self.config.max_tokens
        whole = self.ngrams(texts) if self.ngrams is not None and texts else None
        if whole is None or not self.reads_windows:
            opinions = [] if whole is None else [whole]
            return Reading([tokens[:size] for tokens in texts], opinions, opinions)
        windows, strongest, count = self.ngrams.strongest(texts, size)
        # The maximum grows with the number of windows. Validation has few texts of more than MOST_WINDOWS: with no
        # bound a cover of 65,536 tokens hid three in four spams.
        many = torch.stack([count.clamp(max=MOST_WINDOWS).log(), torch.zeros(len(count))], dim=1)
        return Reading(windows, [whole, strongest, many], [strongest, many])

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The GPT's logits, B x K, of texts that are padded on the right; the padding counts nowhere."""
        x_BTC = self.gpt.hidden_states(tokens_BT)
        last_BC = x_BTC[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1]
        real_BT1 = (torch.arange(tokens_BT.shape[1], device=lengths_B.device) < lengths_B[:, None]).unsqueeze(-1)
        mean_BC = (x_BTC * real_BT1).sum(dim=1) / lengths_B[:, None]
        return self.head(torch.cat([last_BC, mean_BC], dim=-1))


class Reading(NamedTuple):
    """Texts as they are read; each opinion of the linear model is logits, float32 N x K on the CPU. Without a linear
    model there are none."""

    windows: list[list[int]]
    """What of each text the GPT reads."""
    alone: list[Tensor]
    """The opinions by which the linear model decides alone: of all of a text and, of two labels, of its window and of
    the number of windows."""
    beside: list[Tensor]
    """Those that count beside the GPT's, which has read the window; what stands around it does not count there."""


def build(gpt: GPT, config: Mapping[str, Any]) -> Classifier:
    """The classifier around a GPT that config.json describes."""
    return Classifier(gpt, ClassifierConfig.model_validate(config["classifier"]))


def email_text(subject: str, body: str) -> str:
    """An email as the model reads it, subject first."""
    return f"{subject}\n\n{body}"


def email_texts(subjects: Iterable[str], bodies: Iterable[str]) -> list[str]:
    """Emails as the model reads them."""
    return [email_text(*each) for each in zip(subjects, bodies, strict=True)]


@torch.inference_mode()
def gpt_logits(model: Classifier, texts: Sequence[list[int]], batch_size: int = 8) -> Tensor:
    """The GPT's logits, float32 N x K on the CPU, of texts as tokens, none of over `max_tokens`: by decode.c, or in
    bfloat16 where that is fast.

    A text comes out the same alone and among others, but for torch's last bits, as it is padded by its own length: on
    cores with AMX, in bfloat16, the default classifier's logits differ by 0.03 at most.
    """
    device, padding = model.head.weight.device, model.gpt.padding
    logits = torch.zeros(len(texts), len(model.config.labels))
    by_padding: dict[int, list[int]] = {}
    for row, tokens in enumerate(texts):
        by_padding.setdefault(min(-(-len(tokens) // padding) * padding, model.config.max_tokens), []).append(row)
    dtype = model.gpt.reading_dtype
    with torch.autocast(device.type, dtype=dtype, enabled=dtype == torch.bfloat16):
        for length, rows in by_padding.items():
            for first in range(0, len(rows), batch_size):
                batch = rows[first : first + batch_size]
                tokens_BT, lengths_B = (t.to(device) for t in pad([texts[row] for row in batch], 0, length))
                logits[batch] = model(tokens_BT, lengths_B).float().cpu()
    return logits


def _unsure(config: ClassifierConfig, linear: Sequence[Tensor]) -> list[int]:
    """The texts that the linear model is not certain of, by its logits."""
    if config.certain is None:
        return [*range(len(linear[0]))]
    return (_alone(config, linear).softmax(dim=-1).amax(dim=-1) < config.certain).nonzero()[:, 0].tolist()


def _alone(config: ClassifierConfig, linear: Sequence[Tensor]) -> Tensor:
    return _mixed(linear, config.alone_weights or (1.0,) * len(linear), config.alone_bias)


def _together(config: ClassifierConfig, gpt: Tensor, linear: Sequence[Tensor]) -> Tensor:
    weights = config.ngram_weights or (0.0,) * len(linear)
    return _mixed([gpt, *linear], (config.gpt_weight, *weights), config.bias)


def _mixed(logits: Sequence[Tensor], weights: Sequence[float], bias: Sequence[float]) -> Tensor:
    return sum(weight * each for weight, each in zip(weights, logits, strict=True)) + torch.tensor(bias or 0.0)


@torch.inference_mode()
def predict(
    model: Classifier, texts: Sequence[list[int]], batch_size: int = 8, *, as_the_first: bool = False
) -> Tensor:
    """Logits of the labels, float32 N x K on the CPU, of texts as tokens, none of them empty.

    `as_the_first`: whether the GPT reads all or none depends on the first alone, so that they can be compared.
    """
    config = model.config
    reading = model.read(texts)
    if not reading.alone:
        return _together(config, gpt_logits(model, reading.windows, batch_size), [])
    read = _unsure(config, reading.alone)
    if as_the_first:
        read = [*range(len(texts))] if 0 in read else []
    logits = _alone(config, reading.alone)
    gpt = gpt_logits(model, [reading.windows[row] for row in read], batch_size)
    logits[read] = _together(config, gpt, [each[read] for each in reading.beside])
    return logits


def probabilities(
    model: Classifier, encoding: tiktoken.Encoding, texts: Sequence[str], batch_size: int = 8
) -> np.ndarray:
    """The probability of each label of each text, float64 N x K."""
    tokens = list(map(encoding.encode_ordinary, texts))  # tiktoken's own threads take longer to start than a mail does
    return predict(model, tokens, batch_size).double().softmax(dim=-1).numpy()


def _fitted(opinions: Sequence[Tensor], labels: Tensor, plain: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Weights of opinions and a bias. All texts choose what each opinion counts; how sure they are together is fitted
    on the first `plain` texts, which are as they come."""
    weights, _ = fit_mixture(opinions, labels)
    (scale,), bias = fit_mixture([_mixed(opinions, weights, ())[:plain]], labels[:plain])
    return tuple(scale * weight for weight in weights), tuple(bias)


def finish(model: Classifier, validation: LabelledTexts, *, false_positive_rate: float, seed: int) -> dict[str, float]:
    """Choose on `validation` what GPT and linear model count and where the threshold is.

    Of two labels, some texts of the second amidst those of the first help to choose the weights.
    Gives the loss and F1 that both have on `validation` together, and the share of it that the GPT is asked for. They
    are those of the weights in training; decode.c's 8 bits move log-odds by 0.01 in the mean of the default mails.
    """
    config, plain = model.config, len(validation.tokens)
    labelled = validation + covered(validation, seed) if model.reads_windows else validation
    reading = model.read(labelled.tokens)
    gpt = gpt_logits(model, reading.windows)
    weights, bias = _fitted([gpt, *reading.beside], labelled.labels, plain)
    found: dict[str, Any] = {"gpt_weight": weights[0], "ngram_weights": weights[1:], "bias": bias}
    if reading.alone:
        weights, bias = _fitted(reading.alone, labelled.labels, plain)
        found |= {"alone_weights": weights, "alone_bias": bias}
    config, labels = config.model_copy(update=found), validation.labels
    alone, beside = ([each[:plain] for each in opinions] for opinions in (reading.alone, reading.beside))
    logits, read = _together(config, gpt[:plain], beside), [*range(plain)]
    if alone:
        both, logits, read = logits, _alone(config, alone), _unsure(config, alone)
        logits[read] = both[read]
    probability = logits.double().softmax(dim=-1).numpy()
    if len(config.labels) == 2:
        threshold = best_threshold(probability[:, 1], labels.numpy() == 1, false_positive_rate)
        config = config.model_copy(update={"threshold": threshold, "false_positive_rate": false_positive_rate})
    model.config = config
    logger.info(
        "chosen on validation: the GPT counts %.2f, the linear model %s, the threshold is %s; the GPT reads %d of %d",
        config.gpt_weight, ", ".join(f"{weight:.2f}" for weight in config.ngram_weights) or "nothing",
        config.threshold, len(read), plain,
    )  # fmt: skip
    return {
        "calibrated_validation_loss": F.cross_entropy(logits, labels).item(),
        "calibrated_validation_f1": f1_score(labels.numpy(), model.decide(probability), len(config.labels)),
        "read_by_gpt": len(read) / plain,
    }


def serve(
    model: Classifier, encoding: tiktoken.Encoding, rows: Sequence[Row], *, explain: int = 0
) -> list[dict[str, Any]]:
    """An answer for each row's email, as in `OUTPUTS`, with the `explain` phrases that moved it most."""
    if explain < 0:
        raise UserError(f"explain {explain} is no number of phrases")

    def read(row: Row) -> str:
        text = email_text(text_of(row, "subject", ""), text_of(row, "body", ""))
        if not text.strip():
            raise UserError("there is no text to classify")
        return text

    def classify(texts: list[str]) -> list[dict[str, Any]]:
        found, labels = probabilities(model, encoding, texts), model.config.labels
        answers = []
        for row, number, unsure in zip(found, model.decide(found), model.is_unsure(found), strict=True):
            chances = {f"{name}_probability": float(p) for name, p in zip(labels, row, strict=True)}
            answers.append({"label": UNSURE if unsure else labels[number], "leaning": labels[number], **chances})
        if explain:
            for answer, text in zip(answers, texts, strict=True):
                answer["moved_by"] = in_words(moved_by(partial(probabilities, model, encoding), labels, text)[:explain])
        return answers

    return answer_each(rows, read, classify)


def f1_score(actual: np.ndarray, predicted: np.ndarray, labels: int) -> float:
    """The harmonic mean of precision and recall of the second of two labels, or its mean over more.

    Labels are numbers below `labels`; of more than two those count that a text has or is given.
    """
    wanted = np.arange(labels)[:, None] if labels > 2 else np.array([[1]])
    hits = ((actual == wanted) & (predicted == wanted)).sum(axis=1)
    sizes = (actual == wanted).sum(axis=1) + (predicted == wanted).sum(axis=1)
    return float((2 * hits / np.maximum(1, sizes)).sum() / max(1, (sizes > 0).sum()))


def objective(
    model: Classifier,
    config: TrainConfig,
    train: LabelledTexts,
    validation: LabelledTexts,
    compute: Compute,
    *,
    balanced: bool,
    workers: Workers = ALONE,
) -> Objective:
    """Learn from shuffled texts; keep the weights with the highest F1 on `validation`, of equals those with the least
    loss. The GPT alone: see `finish`.

    `balanced` weighs each class by the inverse of its share of `train`, so that the rarer one counts as much.
    """
    read, windows = model.read(train.tokens).windows, model.read(validation.tokens).windows
    width = max(map(len, read)) if compute.backend.compiles else 0  # else that of the longest in a batch
    order = BatchSampler(len(read), config.batch_size, config.seed, np.array(list(map(len, read))))
    weights = train.class_weights(len(model.config.labels), balanced)
    logits = workers.wrap(model, lambda classifier, *inputs: classifier(*inputs))

    def weight(rows: Sequence[int]) -> Tensor:
        return weights[train.labels[rows]].sum()

    def loss(index: int) -> Tensor:
        rows = workers.part(order[index])
        tokens_BT, lengths_B = (t.to(compute.device) for t in pad([read[row] for row in rows], 0, width))
        with compute.autocast():
            logits_BK = logits(tokens_BT, lengths_B)
        labels_B = train.labels[rows].to(compute.device)
        mean = F.cross_entropy(logits_BK.float(), labels_B, weight=weights.to(compute.device) if balanced else None)
        return mean * (weight(rows) * workers.count / weight(order[index]))

    def evaluate() -> dict[str, float]:
        found, labels = gpt_logits(model, windows), validation.labels
        return {
            "validation_loss": F.cross_entropy(found, labels).item(),
            "validation_f1": f1_score(labels.numpy(), found.argmax(dim=1).numpy(), len(model.config.labels)),
        }

    return Objective(
        loss,
        evaluate,
        best="validation_f1",
        lower_is_better=False,
        tie="validation_loss",  # F1 says nothing of a rare label that nobody is given yet, nor of a split that is easy
        weight=lambda index: weight(order[index]).item(),
    )
