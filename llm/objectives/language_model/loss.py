"""The loss of a language model over windows of text, and the objective that minimises it.

Tensor names end in their shape: B windows, T positions, N tokens, C width of the model.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.device import Compute
from llm.kernels.training.backend import CrossEntropy
from llm.model.gpt import GPT
from llm.training.loss import bits_per_byte, linear_cross_entropy
from llm.training.objective import Objective


def window_loss(
    model: GPT,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    *,
    length: int | None = None,
    cross_entropy: CrossEntropy = linear_cross_entropy,
) -> Tensor:
    """Mean cross-entropy, in nats a token, of a batch of windows; call it under autocast.

    With `length` each is cut into pieces of so many tokens, which do not see each other. A training has a
    `cross_entropy` of its own, that of its backend.
    """
    sequences_BT = None
    if length is not None and length < inputs_BT.shape[1]:
        pieces_T = torch.arange(inputs_BT.shape[1], device=inputs_BT.device) // length
        sequences_BT = pieces_T.expand_as(inputs_BT)
    x_NC = model.hidden_states(inputs_BT, sequences_BT=sequences_BT).flatten(0, 1)
    return cross_entropy(x_NC, model.output_weight, targets_BT.flatten()) / targets_BT.numel()


def context_at(step: int, steps: int, *, first: int | None, context_length: int) -> int:
    """How many tokens see each other at update number `step` (from 0) of `steps`: sequence length warm-up.

    `first`, doubled after equal parts of the training up to the context, which fewer steps than doublings do not reach;
    without it always the context. Neighbours say most about the next token, and among few tokens that is learned in
    less time (Shortformer, Press et al. 2021; Li et al. 2022).
    """
    if first is None:
        return context_length
    lengths = 1 + max(0, math.ceil(math.log2(context_length / first)))
    return min(context_length, first * 2 ** (lengths * step // steps))


@torch.inference_mode()
def text_loss(model: GPT, windows: TokenWindows, batches: Iterable[np.ndarray], *, compute: Compute) -> float:
    """Mean cross-entropy, in nats a token, over batches of window numbers."""
    total = 0.0
    count = 0
    for rows in batches:
        inputs_BT, targets_BT = windows.batch(rows, compute.device)
        with compute.autocast():
            total += window_loss(model, inputs_BT, targets_BT).item() * targets_BT.numel()
        count += targets_BT.numel()
    return total / count


def objective(
    model: GPT,
    config: TrainConfig,
    train: TokenWindows,
    *,
    validation: TokenWindows,
    compute: Compute,
    evaluation_batches: int,
    first_context_length: int | None = None,
    start_counts: bool = False,
) -> Objective[GPT]:
    """Learn from shuffled windows of `train`; keep the weights with the lowest loss on `validation`.

    How many tokens see each other is `context_at` each step, from `first_context_length` on. With `start_counts` the
    weights kept may be the ones before the first step.
    """
    order = BatchSampler(len(train), config.batch_size, config.seed)
    batches = validation.evaluation_batches(evaluation_batches, config.batch_size)

    def loss(training_model: GPT, index: int) -> Tensor:
        inputs_BT, targets_BT = train.batch(order[index], compute.device)
        step = index // config.gradient_accumulation
        length = context_at(step, config.steps, first=first_context_length, context_length=model.config.context_length)
        cross_entropy = training_model.backend.cross_entropy
        with compute.autocast():
            return window_loss(training_model, inputs_BT, targets_BT, length=length, cross_entropy=cross_entropy)

    def evaluate() -> dict[str, float]:
        loss = text_loss(model, validation, batches, compute=compute)
        bits = bits_per_byte(loss, 1, validation.bytes_per_token)
        return {"validation_loss": loss, "validation_bits_per_byte": bits}

    return Objective(loss, evaluate, best="validation_loss", start_counts=start_counts)
