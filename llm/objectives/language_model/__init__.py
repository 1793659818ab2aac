"""The language model: predict the next token of unlabelled text, and so continue a prompt."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tiktoken
import torch
from torch import Tensor

from llm.config import TrainConfig
from llm.dataset import BatchSampler, TokenWindows
from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import build_gpt
from llm.generation.sampling import LIVELY
from llm.generation.text import generate_text, options, request_maker, write_all
from llm.kernels.training.backend import CrossEntropy
from llm.model.gpt import GPT
from llm.objectives import COMPLETE, Row, answer_each, text_of
from llm.training.loop import Objective
from llm.training.loss import bits_per_byte, linear_cross_entropy
from llm.training.workers import ALONE, Workers

build = build_gpt
INPUTS = {"prompt": str}
OUTPUTS = {"text": str}
OPTIONS = options(LIVELY)
EXAMPLE = {"prompt": "My fellow citizens,"}
CAPABILITIES = (COMPLETE,)


def serve(model: GPT, encoding: tiktoken.Encoding, rows: Sequence[Row], **options: Any) -> list[dict[str, Any]]:
    """Continue the prompt of each row; OPTIONS names the keyword arguments."""
    ask = request_maker(model, encoding, LIVELY, **options)
    return answer_each(
        rows,
        lambda row: ask(encoding.encode_ordinary(text_of(row, "prompt"))),
        lambda requests: [{"text": text} for text in write_all(model, encoding, requests)],
    )


def window_loss(
    model: GPT,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    length: int | None = None,
    cross_entropy: CrossEntropy = linear_cross_entropy,
) -> Tensor:
    """Mean cross-entropy, in nats a token, of a batch of windows; call it under autocast.

    With `length` each is cut into pieces of so many tokens, which do not see each other. A training has a
    `cross_entropy` of its own, that of its backend.
    """
    sequences_BT = None
    if length is not None and length < inputs_BT.shape[1]:
        sequences_BT = (torch.arange(inputs_BT.shape[1], device=inputs_BT.device) // length).expand_as(inputs_BT)
    x_NC = model.hidden_states(inputs_BT, sequences_BT=sequences_BT).flatten(0, 1)
    return cross_entropy(x_NC, model.output_weight, targets_BT.flatten()) / targets_BT.numel()


def context_at(step: int, steps: int, first: int | None, context_length: int) -> int:
    """How many tokens see each other at update number `step` (from 0) of `steps`: sequence length warm-up.

    `first`, doubled after equal parts of the training up to the context, which fewer steps than doublings do not reach;
    without it always the context. Neighbours say most about the next token, and among few tokens that is learned in
    less time (Shortformer, Press et al. 2021; Li et al. 2022).
    """
    if first is None:
        return context_length
    doublings = max(0, math.ceil(math.log2(context_length / first)))
    return min(context_length, first << (doublings + 1) * step // steps)


@torch.inference_mode()
def text_loss(
    model: GPT, windows: TokenWindows, batches: Iterable[np.ndarray], compute: Compute, workers: Workers = ALONE
) -> float:
    """Mean cross-entropy, in nats a token, over batches of window numbers; those of all workers count."""
    total = count = 0
    for rows in batches:
        inputs_BT, targets_BT = (tensor.to(compute.device) for tensor in windows.batch(rows))
        with compute.autocast():
            total += window_loss(model, inputs_BT, targets_BT).item() * targets_BT.numel()
        count += targets_BT.numel()
    total, count = workers.sums(total, count)
    return total / count


def continuations(
    model: GPT, encoding: tiktoken.Encoding, prompts: Sequence[str], *, tokens: int, seed: int
) -> list[str]:
    """Each prompt with its continuation of at most `tokens`, at temperature 0.8 from the nucleus of 0.95."""
    sampling = LIVELY.model_copy(update={"seed": seed})
    texts = []
    for prompt in prompts:
        room = model.config.context_length - len(encoding.encode_ordinary(prompt))
        text = generate_text(model, encoding, prompt, max_new_tokens=min(tokens, room), sampling=sampling)
        texts.append(prompt + text)
    return texts


def check_prompts(encoding: tiktoken.Encoding, prompts: Sequence[str], context_length: int) -> None:
    """Raises UserError for a prompt without tokens, or with no room for another one."""
    for prompt in prompts:
        length = len(encoding.encode_ordinary(prompt))
        if not 0 < length < context_length:
            raise UserError(f"sample prompt {prompt!r}: {length} tokens, of 1 to {context_length - 1}")


def objective(
    model: GPT,
    config: TrainConfig,
    train: TokenWindows,
    validation: TokenWindows,
    compute: Compute,
    *,
    evaluation_batches: int,
    first_context_length: int | None = None,
    start_counts: bool = False,
    workers: Workers = ALONE,
) -> Objective:
    """Learn from shuffled windows of `train`; keep the weights with the lowest loss on `validation`.

    How many tokens see each other is `context_at` each step, from `first_context_length` on. With `start_counts` the
    weights kept may be the ones before the first step.
    """
    order = BatchSampler(len(train), config.batch_size, config.seed)
    batches = validation.evaluation_batches(evaluation_batches, config.batch_size, workers.count)

    def loss(training_model: GPT, index: int) -> Tensor:
        inputs_BT, targets_BT = (tensor.to(compute.device) for tensor in train.batch(workers.part(order[index])))
        step = index // config.gradient_accumulation
        length = context_at(step, config.steps, first_context_length, model.config.context_length)
        with compute.autocast():
            return window_loss(training_model, inputs_BT, targets_BT, length, training_model.backend.cross_entropy)

    def evaluate() -> dict[str, float]:
        found = text_loss(model, validation, batches[workers.rank :: workers.count], compute, workers)
        return {
            "validation_loss": found,
            "validation_bits_per_byte": bits_per_byte(found, 1, validation.bytes_per_token),
        }

    return Objective(loss, evaluate, best="validation_loss", start_counts=start_counts)
