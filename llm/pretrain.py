"""Pre-training: predict the next token of unlabelled text."""

from typing import Any

import numpy as np
import tiktoken
from torch import Tensor

from llm.config import TrainConfig
from llm.dataset import Shuffled, TokenWindows
from llm.device import Compute
from llm.generate import generate_text
from llm.gpt import GPT
from llm.loss import bits_per_byte, next_token_loss
from llm.train import Objective


def text_loss(model: GPT, windows: TokenWindows, batches: list[np.ndarray], compute: Compute) -> float:
    """Mean cross-entropy, in nats a token, over batches of window numbers."""
    total = count = 0
    for rows in batches:
        inputs_BT, targets_BT = (tensor.to(compute.device) for tensor in windows.batch(rows))
        with compute.autocast():
            total += next_token_loss(model(inputs_BT), targets_BT, reduction="sum").item()
        count += targets_BT.numel()
    return total / count


def continuations(
    model: GPT, encoding: tiktoken.Encoding, prompts: tuple[str, ...], *, tokens: int, seed: int
) -> list[str]:
    """Each prompt with its continuation of at most `tokens`, at temperature 0.8 from the nucleus of 0.95."""
    texts = []
    for prompt in prompts:
        room = model.config.context_length - len(encoding.encode_ordinary(prompt))
        texts.append(prompt + generate_text(model, encoding, prompt, max_new_tokens=min(tokens, room), seed=seed))
    return texts


def objective(
    model: GPT,
    encoding: tiktoken.Encoding,
    config: TrainConfig,
    train: TokenWindows,
    validation: TokenWindows,
    compute: Compute,
    *,
    evaluation_batches: int,
    prompts: tuple[str, ...],
) -> Objective:
    """Learn from shuffled windows of `train`; keep the weights with the lowest loss on `validation`."""
    order = Shuffled(len(train), config.batch_size, config.seed)
    looks = validation.spread(evaluation_batches, config.batch_size)

    def loss(index: int) -> Tensor:
        inputs_BT, targets_BT = (tensor.to(compute.device) for tensor in train.batch(order[index]))
        with compute.autocast():
            return next_token_loss(model(inputs_BT), targets_BT)

    def evaluate() -> dict[str, Any]:
        found = text_loss(model, validation, looks, compute)
        return {
            "validation_loss": found,
            "validation_bits_per_byte": bits_per_byte(found, 1, validation.bytes_per_token),
            "samples": continuations(model, encoding, prompts, tokens=40, seed=config.seed),
        }

    return Objective(loss, evaluate, best="validation_loss")
