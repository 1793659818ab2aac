"""The classifier: a GPT and n-grams, two views of a text, and one head over both, decide among labels.

`objective` fine-tunes the GPT with a head of its own. Afterwards the head over both views is fitted to the optimum, as
a support vector machine (llm/objectives/classifier/fit.py). It can be fitted without a fine-tune, too.

With a reply to some of its labels it is a guard, which reads what people ask before an assistant answers.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import tiktoken
from torch import Tensor
from torch.nn import functional as F

from llm.config import TrainConfig
from llm.dataset import BatchSampler
from llm.device import Compute
from llm.errors import UserError
from llm.objectives import CLASSIFY, GUARD, Row, answer_each, text_of
from llm.objectives.classifier.explanations import in_words, moved_by
from llm.objectives.classifier.fit import LabelledTexts as LabelledTexts
from llm.objectives.classifier.fit import ReadTexts
from llm.objectives.classifier.fit import read_texts as read_texts
from llm.objectives.classifier.model import (
    UNSURE,
    Classifier,
    ClassifierConfig,
    f1_score,
    probabilities,
    row_text,
)
from llm.objectives.classifier.model import build as build
from llm.objectives.classifier.model import email_text as email_text
from llm.objectives.classifier.model import email_texts as email_texts
from llm.objectives.classifier.model import encoded as encoded
from llm.training.loop import Objective
from llm.training.workers import ALONE, Workers

OPTIONS: dict[str, tuple[type, Any]] = {"explain": (int, 0)}
EXAMPLES = {"subject": "Meeting on Friday", "body": "Shall we say ten o'clock?"}
"""What a row to try has in these columns."""


def _config(config: Mapping[str, Any]) -> ClassifierConfig:
    return ClassifierConfig.model_validate(config["classifier"])


def _capabilities(config: Mapping[str, Any]) -> tuple[str, ...]:
    return (GUARD,) if _config(config).replies else (CLASSIFY,)


def _inputs(config: Mapping[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(_config(config).columns, str | None)


def _example(config: Mapping[str, Any]) -> dict[str, str]:
    return {column: EXAMPLES.get(column, "Shall we say ten o'clock?") for column in _config(config).columns}


def _outputs(config: Mapping[str, Any]) -> dict[str, Any]:
    """The label or UNSURE, the label that it leans to, the probability of each label, and, with the option `explain`,
    the phrases that moved it."""
    probability = {f"{label}_probability": float for label in _config(config).labels}
    return {"label": str, "leaning": str, **probability, "moved_by": str | None}


CAPABILITIES, INPUTS, EXAMPLE, OUTPUTS = _capabilities, _inputs, _example, _outputs


def serve(
    model: Classifier, encoding: tiktoken.Encoding, rows: Sequence[Row], *, explain: int = 0
) -> list[dict[str, Any]]:
    """An answer for each row's text, as in `OUTPUTS`, with the `explain` phrases that moved it most."""
    if explain < 0:
        raise UserError(f"explain {explain} is no number of phrases")

    def read(row: Row) -> str:
        text = row_text([text_of(row, column, "") for column in model.config.columns])
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


def guard_replies(model: Classifier, encoding: tiktoken.Encoding, requests: Sequence[str]) -> list[str | None]:
    """For each request what to say instead of an answer; None where an assistant should answer, as to a blank one.

    Turns of one user are joined by a line feed.
    """
    config = model.config
    replies: list[str | None] = [None] * len(requests)
    numbers = [number for number, request in enumerate(requests) if request.strip()]
    if not numbers:
        return replies
    found = model.decide(probabilities(model, encoding, [requests[number] for number in numbers]))
    for number, label in zip(numbers, found, strict=True):
        replies[number] = config.replies.get(config.labels[label])
    return replies


def objective(
    model: Classifier,
    config: TrainConfig,
    train: ReadTexts,
    validation: ReadTexts,
    compute: Compute,
    workers: Workers = ALONE,
) -> Objective:
    """Train the GPT and its head on shuffled texts; keep the weights with the highest F1 on `validation`.

    Ties are broken by the smaller loss.
    """
    lengths = train.inputs.lengths
    width = max(lengths) if compute.backend.compiles else 0  # else that of the longest in a batch
    order = BatchSampler(len(lengths), config.batch_size, config.seed, np.array(lengths))
    labels, actual = train.labelled.labels, validation.labelled.labels
    shown = range(len(actual))

    def loss(training_model: Classifier, index: int) -> Tensor:
        rows = workers.part(order[index])
        inputs, lengths_B = train.inputs.batch(rows, width)
        with compute.autocast():
            logits_BK = training_model(inputs.to(compute.device), lengths_B.to(compute.device))
        return F.cross_entropy(logits_BK.float(), labels[rows].to(compute.device))

    def evaluate() -> dict[str, float]:
        states_NC = model.states_of(validation.inputs, shown).to(model.head.weight.device)
        logits_NK = model.head(states_NC).float().cpu()
        predicted = logits_NK.argmax(dim=1).numpy()
        return {
            "validation_loss": F.cross_entropy(logits_NK, actual).item(),
            "validation_f1": float(f1_score(actual.numpy(), predicted, len(model.config.labels))),
        }

    return Objective(
        loss,
        evaluate,
        best="validation_f1",
        lower_is_better=False,
        tie="validation_loss",  # F1 says nothing of a rare label that nobody is given yet, nor of a split that is easy
    )
