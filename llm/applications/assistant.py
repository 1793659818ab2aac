"""The assistant: one prompt template, training rows whose loss counts the response only, and answers."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tiktoken
import torch
from torch import Tensor

from llm.applications import Row, answer_each, text_of
from llm.config import TrainConfig
from llm.dataset import BatchSampler, pad
from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import build_gpt
from llm.generation.sampling import GREEDY, Sampling
from llm.generation.text import generate, options, request_maker, write_all
from llm.model.gpt import GPT
from llm.tokenizer import decode, end_of_text, stop_tokens
from llm.training.loop import Objective
from llm.training.loss import IGNORE, linear_cross_entropy
from llm.training.workers import ALONE, Workers

build = build_gpt
INPUTS = {"instruction": str, "input": str | None}
OUTPUTS = {"output": str}
OPTIONS = options(GREEDY)
EXAMPLE = {"instruction": "What is the opposite of this word?", "input": "early"}

logger = logging.getLogger(__name__)


def prompt_text(instruction: str, input: str = "") -> str:
    """What the model reads before it answers."""
    parts = [f"### Instruction:\n{instruction}"]
    if input:
        parts.append(f"### Input:\n{input}")
    return "\n\n".join([*parts, "### Response:\n"])


@dataclass(frozen=True)
class Example:
    """One row as tokens: the prompt, then the response and the end token."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


def encode_examples(
    encoding: tiktoken.Encoding,
    instructions: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    context_length: int,
) -> list[Example]:
    """Rows as tokens; one that is longer than the context is left out, and counted in the log.

    A response ends with the end token: that is how the model learns to stop.
    """
    end = end_of_text(encoding)
    prompts = encoding.encode_ordinary_batch([prompt_text(*row) for row in zip(instructions, inputs, strict=True)])
    responses = encoding.encode_ordinary_batch(list(outputs))
    examples = [Example(prompt, [*text, end]) for prompt, text in zip(prompts, responses, strict=True)]
    kept = [example for example in examples if len(example) <= context_length]
    if len(kept) < len(examples):
        logger.info("%d rows are longer than %d tokens and left out", len(examples) - len(kept), context_length)
    return kept


def pack_sequences(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Put examples together into windows of at most `length` tokens, the longest first, each where it fits first.

    A short row alone would leave most of a window to padding. Raises UserError for an example that fits no window.
    """
    windows: list[list[Example]] = []
    space: list[int] = []
    for example in sorted(examples, key=len, reverse=True):
        if len(example) > length:
            raise UserError(f"an example of {len(example)} tokens does not fit a window of {length}")
        place = next((i for i, left in enumerate(space) if left >= len(example)), None)
        if place is None:
            windows.append([])
            space.append(length)
            place = len(windows) - 1
        windows[place].append(example)
        space[place] -= len(example)
    return windows


def batch(windows: Sequence[Sequence[Example]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, targets, positions and segments of packed windows, all int64 BT.

    Each example keeps positions and a segment of its own, so that it learns as if it were alone. Targets are IGNORE but
    where a response token comes next.
    """
    inputs, targets, positions, segments = [], [], [], []
    for window in windows:
        inputs.append([token for example in window for token in [*example.prompt, *example.response][:-1]])
        targets.append([t for example in window for t in [*[IGNORE] * (len(example.prompt) - 1), *example.response]])
        positions.append([position for example in window for position in range(len(example) - 1)])
        segments.append([number for number, example in enumerate(window) for _ in range(len(example) - 1)])
    return pad(inputs, 0)[0], pad(targets, IGNORE)[0], pad(positions, 0)[0], pad(segments, -1)[0]


def response_loss(model: GPT, windows: Sequence[Sequence[Example]], compute: Compute) -> Tensor:
    """The sum of the cross-entropy, in nats, over a batch's response tokens."""
    inputs_BT, targets_BT, positions_BT, segments_BT = (tensor.to(compute.device) for tensor in batch(windows))
    with compute.autocast():
        x_BTC = model.features(inputs_BT, positions_BT, segments_BT=segments_BT)
        counted_BT = targets_BT != IGNORE
        return linear_cross_entropy(x_BTC[counted_BT], model.output_weight, targets_BT[counted_BT])


@torch.inference_mode()
def mean_response_loss(model: GPT, examples: Sequence[Example], batch_size: int, compute: Compute) -> float:
    """Mean cross-entropy, in nats a response token, over all examples."""
    windows = pack_sequences(examples, model.config.context_length)
    batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
    total = sum(response_loss(model, part, compute).item() for part in batches)
    return total / sum(len(example.response) for example in examples)


def objective(
    model: GPT,
    encoding: tiktoken.Encoding,
    config: TrainConfig,
    windows: Sequence[Sequence[Example]],
    validation: Sequence[Example],
    compute: Compute,
    *,
    questions: Sequence[tuple[str, str]],
    workers: Workers = ALONE,
) -> Objective:
    """Learn from packed windows; keep the weights with the lowest response loss on `validation`.

    `questions`, pairs of instruction and input, are answered at every evaluation, but for those that fill the context.
    """
    order = BatchSampler(len(windows), config.batch_size, config.seed)
    questions = [row for row in questions if leaves_room(model, encoding, row)]
    sum_loss = workers.wrap(model, response_loss)

    def tokens(index: int) -> int:
        return sum(len(example.response) for row in order[index] for example in windows[row])

    def loss(index: int) -> Tensor:
        total = sum_loss([windows[row] for row in workers.part(order[index])], compute)
        return total * workers.count / tokens(index)

    def evaluate() -> dict[str, Any]:
        answers = answer_all(model, encoding, questions) if questions else []
        return {
            "validation_loss": mean_response_loss(model, validation, config.batch_size, compute),
            "samples": [f"{' '.join(pair).strip()} -> {text}" for pair, text in zip(questions, answers, strict=True)],
        }

    return Objective(loss, evaluate, best="validation_loss", weight=tokens)


def serve(model: GPT, encoding: tiktoken.Encoding, rows: Sequence[Row], **options: Any) -> list[dict[str, Any]]:
    """Answer the instruction of each row; OPTIONS names the keyword arguments."""
    ask = request_maker(model, encoding, GREEDY, **options)
    return answer_each(
        rows,
        lambda row: ask(prompt_text(text_of(row, "instruction"), text_of(row, "input", ""))),
        lambda requests: [{"output": text.strip()} for text in write_all(model, encoding, requests)],
    )


def leaves_room(model: GPT, encoding: tiktoken.Encoding, row: tuple[str, str], max_new_tokens: int = 64) -> bool:
    """Whether an instruction and its input leave room in the context for an answer of `max_new_tokens`."""
    return len(encoding.encode_ordinary(prompt_text(*row))) + max_new_tokens <= model.config.context_length


def answer_all(
    model: GPT,
    encoding: tiktoken.Encoding,
    rows: Sequence[tuple[str, str]],
    *,
    max_new_tokens: int = 64,
    sampling: Sampling = GREEDY,
) -> list[str]:
    """Answer pairs of instruction and input, many at once."""
    tokens = generate(
        model,
        [encoding.encode_ordinary(prompt_text(instruction, input)) for instruction, input in rows],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_tokens=stop_tokens(encoding),
    )
    return [decode(encoding, text).strip() for text in tokens]
