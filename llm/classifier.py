"""The email classifier: a GPT whose last real token, beside the mean of all of them, decides between ham and spam.

The last token alone has seen the whole email, but pre-training taught it to look near by: what comes next. The mean
gives every token a say. Measured on the default data, 256 tokens, after one epoch: F1 on validation 0.78 with the last
token alone, 0.92 with both. One new layer makes an output a class of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tiktoken
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm.config import TrainConfig
from llm.dataset import Shuffled, pad
from llm.device import Compute
from llm.gpt import GPT
from llm.train import Objective
from llm.workers import ALONE, Workers

LABELS = ("ham", "spam")


class Classifier(nn.Module):
    """A GPT body with a classification head."""

    def __init__(self, gpt: GPT, max_tokens: int) -> None:
        super().__init__()
        if max_tokens > gpt.config.context_length:
            raise ValueError(f"max_tokens {max_tokens} is more than the model's context of {gpt.config.context_length}")
        self.gpt = gpt
        if gpt.output is not None:
            gpt.output.requires_grad_(False)  # the head takes its place
        self.max_tokens = max_tokens
        self.head = nn.Linear(2 * gpt.config.n_embd, len(LABELS))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def freeze(self, layers: int) -> None:
        """Keep the first `layers` blocks, and with one the embeddings, as they are.

        Raises ValueError when there are fewer blocks.
        """
        if layers > len(self.gpt.blocks):
            raise ValueError(f"frozen_layers {layers} is more than the model's {len(self.gpt.blocks)} blocks")
        if layers:
            self.gpt.embedding.requires_grad_(False)
        for block in self.gpt.blocks[:layers]:
            block.requires_grad_(False)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, B x 2, of texts that are padded on the right; the padding counts nowhere."""
        x_BTC = self.gpt.features(tokens_BT)
        last_BC = x_BTC[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1]
        real_BT1 = (torch.arange(tokens_BT.shape[1], device=lengths_B.device) < lengths_B[:, None]).unsqueeze(-1)
        mean_BC = (x_BTC * real_BT1).sum(dim=1) / lengths_B[:, None]
        return self.head(torch.cat([last_BC, mean_BC], dim=-1))


def encode_emails(
    encoding: tiktoken.Encoding, subjects: Sequence[str], bodies: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """The first `max_tokens` tokens of each email, subject first."""
    texts = [f"{subject}\n\n{body}" for subject, body in zip(subjects, bodies, strict=True)]
    return [tokens[:max_tokens] for tokens in encoding.encode_ordinary_batch(texts)]


@torch.inference_mode()
def predict(model: Classifier, emails: Sequence[list[int]], batch_size: int = 32) -> Tensor:
    """Logits, float32 N x 2 on the CPU, of emails as tokens."""
    logits = torch.zeros(len(emails), len(LABELS))
    by_length = sorted(range(len(emails)), key=lambda row: len(emails[row]))  # little padding in a batch
    for first in range(0, len(emails), batch_size):
        rows = by_length[first : first + batch_size]
        tokens_BT, lengths_B = (t.to(model.head.weight.device) for t in pad([emails[row] for row in rows], 0))
        logits[rows] = model(tokens_BT, lengths_B).float().cpu()
    return logits


def spam_probability(
    model: Classifier,
    encoding: tiktoken.Encoding,
    subjects: Sequence[str],
    bodies: Sequence[str],
    batch_size: int = 32,
) -> np.ndarray:
    """The probability of spam of each email, float32 between 0 and 1."""
    emails = encode_emails(encoding, subjects, bodies, model.max_tokens)
    return predict(model, emails, batch_size).softmax(dim=-1)[:, 1].numpy()


def f1_score(actual: np.ndarray, predicted: np.ndarray) -> float:
    """The harmonic mean of precision and recall of spam; both arrays are boolean."""
    hits = (actual & predicted).sum()
    return float(2 * hits / max(1, actual.sum() + predicted.sum()))


@dataclass(frozen=True)
class Emails:
    """A split of the emails as tokens, with labels as 0 (ham) and 1 (spam)."""

    tokens: list[list[int]]
    labels: Tensor


def objective(
    model: Classifier,
    config: TrainConfig,
    train: Emails,
    validation: Emails,
    compute: Compute,
    *,
    balanced: bool,
    workers: Workers = ALONE,
) -> Objective:
    """Learn from shuffled emails; keep the weights with the highest F1 on `validation`.

    `balanced` weighs each class by the inverse of its share of `train`, so that the rarer one counts as much.
    """
    lengths = np.array(list(map(len, train.tokens)))
    order = Shuffled(len(train.tokens), config.batch_size, config.seed, lengths)
    counts = train.labels.bincount(minlength=len(LABELS))
    weights = len(train.labels) / (len(LABELS) * counts) if balanced else torch.ones(len(LABELS))
    logits = workers.wrap(model, lambda classifier, *inputs: classifier(*inputs))

    def loss(index: int) -> Tensor:
        rows = workers.part(order[index])
        tokens_BT, lengths_B = (t.to(compute.device) for t in pad([train.tokens[row] for row in rows], 0))
        with compute.autocast():
            logits_B2 = logits(tokens_BT, lengths_B)
        labels_B = train.labels[rows].to(compute.device)
        mean = F.cross_entropy(logits_B2.float(), labels_B, weight=weights.to(compute.device) if balanced else None)
        return mean * (weights[train.labels[rows]].sum() * workers.count / weights[train.labels[order[index]]].sum())

    def evaluate() -> dict[str, float]:
        with compute.autocast():
            logits = predict(model, validation.tokens)
        return {
            "validation_loss": F.cross_entropy(logits, validation.labels).item(),
            "validation_f1": f1_score(validation.labels.numpy() == 1, logits.argmax(dim=-1).numpy() == 1),
        }

    return Objective(loss, evaluate, best="validation_f1", lower_is_better=False)
