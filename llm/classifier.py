"""The email classifier: a GPT whose last real token decides between ham and spam.

That token is the only one that has seen the whole email. Its features, which pre-training shaped to predict the next
token, go through one new layer with an output a class.
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
from llm.tokenizer import END_OF_TEXT
from llm.train import Objective

LABELS = ("ham", "spam")


class Classifier(nn.Module):
    """A GPT body with a classification head."""

    def __init__(self, gpt: GPT, max_tokens: int) -> None:
        super().__init__()
        if max_tokens > gpt.config.context_length:
            raise ValueError(f"max_tokens {max_tokens} is more than the model's context of {gpt.config.context_length}")
        self.gpt = gpt
        self.max_tokens = max_tokens
        self.head = nn.Linear(gpt.config.n_embd, len(LABELS))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def freeze(self, layers: int) -> None:
        """Keep the first `layers` blocks, and with one the embeddings, as they are.

        Raises ValueError when there are fewer blocks.
        """
        if layers > len(self.gpt.blocks):
            raise ValueError(f"frozen_layers {layers} is more than the model's {len(self.gpt.blocks)} blocks")
        if layers:
            self.gpt.token_embedding.requires_grad_(False)
            self.gpt.position_embedding.requires_grad_(False)
        for block in self.gpt.blocks[:layers]:
            block.requires_grad_(False)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, B x 2, of texts that are padded on the right."""
        x_BTC = self.gpt.features(tokens_BT)
        return self.head(x_BTC[torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1])


def encode_emails(
    encoding: tiktoken.Encoding, subjects: Sequence[str], bodies: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """Tokens of each email, subject first, cut so that with the end token they are at most `max_tokens`."""
    end = encoding.encode_single_token(END_OF_TEXT)
    texts = [f"{subject}\n\n{body}" for subject, body in zip(subjects, bodies, strict=True)]
    return [[*tokens[: max_tokens - 1], end] for tokens in encoding.encode_ordinary_batch(texts)]


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
    model: Classifier, config: TrainConfig, train: Emails, validation: Emails, compute: Compute, *, balanced: bool
) -> Objective:
    """Learn from shuffled emails; keep the weights with the highest F1 on `validation`.

    `balanced` weighs each class by the inverse of its share of `train`, so that the rarer one counts as much.
    """
    order = Shuffled(len(train.tokens), config.batch_size, config.seed)
    counts = train.labels.bincount(minlength=len(LABELS))
    weights = (len(train.labels) / (len(LABELS) * counts)).to(compute.device) if balanced else None

    def loss(index: int) -> Tensor:
        rows = order[index]
        tokens_BT, lengths_B = (t.to(compute.device) for t in pad([train.tokens[row] for row in rows], 0))
        with compute.autocast():
            logits_B2 = model(tokens_BT, lengths_B)
        return F.cross_entropy(logits_B2.float(), train.labels[rows].to(compute.device), weight=weights)

    def evaluate() -> dict[str, float]:
        with compute.autocast():
            logits = predict(model, validation.tokens)
        return {
            "validation_loss": F.cross_entropy(logits, validation.labels).item(),
            "validation_f1": f1_score(validation.labels.numpy() == 1, logits.argmax(dim=-1).numpy() == 1),
        }

    return Objective(loss, evaluate, best="validation_f1", lower_is_better=False)
