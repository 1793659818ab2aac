"""The assistant: a GPT that is spoken to by a chat template, and learns from its own turns alone."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, NamedTuple

import tiktoken
import torch
from torch import Tensor

from llm.applications import Row, answer_each, text_of
from llm.chat import Chat, Message, encode_chat, prompt_tokens, turn_ends
from llm.config import GPTConfig, TrainConfig
from llm.dataset import BatchSampler, pad
from llm.device import Compute
from llm.errors import UserError
from llm.generation.engine import Request
from llm.generation.sampling import GREEDY, Sampling
from llm.generation.text import generate, options, request_maker, write_all
from llm.model.gpt import GPT
from llm.tokenizer import decode
from llm.training.loop import Objective
from llm.training.loss import IGNORE, linear_cross_entropy
from llm.training.workers import ALONE, Workers

INPUTS = {"instruction": str, "input": str | None, "system": str | None, "history": str | None}  # history as JSON
OUTPUTS = {"output": str}
OPTIONS = options(GREEDY)
EXAMPLE = {"instruction": "What is the opposite of this word?", "input": "early"}

logger = logging.getLogger(__name__)


class Assistant(GPT):
    """A GPT and the form in which it is spoken to."""

    def __init__(self, config: GPTConfig, chat: Chat) -> None:
        super().__init__(config)
        self.chat = chat

    def describe(self) -> dict[str, Any]:
        """What a model folder's config.json says of it."""
        return super().describe() | {"chat": self.chat.model_dump()}


def build(gpt: GPT, config: Mapping[str, Any]) -> Assistant:
    """The assistant on a GPT, with the chat of config.json, or our own template where a base has none."""
    return Assistant(gpt.config, Chat.model_validate(config.get("chat", {})))


class Question(NamedTuple):
    """What the assistant is asked: an instruction, what it is about, and what came before."""

    instruction: str
    input: str = ""
    system: str = ""
    """A system prompt instead of the model's own."""
    history: Sequence[str] = ()
    """Earlier turns, the user's and the assistant's by turns."""

    def messages(self) -> list[Message]:
        """The turns; an input stands below its instruction."""
        system = [Message("system", self.system)] if self.system else []
        earlier = [Message(role, text) for role, text in zip(cycle(("user", "assistant")), self.history)]
        asked = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        return [*system, *earlier, Message("user", asked)]


@dataclass(frozen=True)
class Example:
    """A conversation as tokens, and which of them the assistant says."""

    tokens: list[int]
    learned: list[bool]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def targets(self) -> list[int]:
        """What comes after each token but the last: IGNORE where the assistant does not say it."""
        return [token if learned else IGNORE for token, learned in zip(self.tokens[1:], self.learned[1:], strict=True)]

    @property
    def counted(self) -> int:
        """Tokens that the loss counts."""
        return sum(self.learned[1:])


def encode_examples(
    encoding: tiktoken.Encoding, chat: Chat, questions: Sequence[Question], outputs: Sequence[str], longest: int
) -> list[Example]:
    """Conversations with their answers; one of more than `longest` tokens is left out, and counted in the log."""
    examples = [_example(encoding, chat, *row) for row in zip(questions, outputs, strict=True)]
    kept = [example for example in examples if len(example) <= longest]
    if len(kept) < len(examples):
        left_out = len(examples) - len(kept)
        logger.warning("%d rows are longer than %d tokens and left out, of %d", left_out, longest, len(examples))
    return kept


def _example(encoding: tiktoken.Encoding, chat: Chat, question: Question, output: str) -> Example:
    parts = encode_chat(encoding, chat, [*question.messages(), Message("assistant", output)])
    while parts and not parts[-1].learned:  # what a template writes behind the last turn
        parts.pop()
    tokens = [token for part in parts for token in part.tokens]
    return Example(tokens, [part.learned for part in parts for _ in part.tokens])


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
    where a token of the assistant's comes next.
    """
    inputs, targets, positions, segments = [], [], [], []
    for window in windows:
        inputs.append([token for example in window for token in example.tokens[:-1]])
        targets.append([target for example in window for target in example.targets])
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
def mean_response_loss(
    model: GPT, examples: Sequence[Example], batch_size: int, compute: Compute, window: int | None = None
) -> float:
    """Mean cross-entropy, in nats a token of the assistant's, over all examples, packed into windows of that length."""
    windows = pack_sequences(examples, window or model.config.context_length)
    batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
    total = sum(response_loss(model, part, compute).item() for part in batches)
    return total / sum(example.counted for example in examples)


def objective(
    model: Assistant,
    encoding: tiktoken.Encoding,
    config: TrainConfig,
    windows: Sequence[Sequence[Example]],
    validation: Sequence[Example],
    compute: Compute,
    *,
    questions: Sequence[Question],
    workers: Workers = ALONE,
) -> Objective:
    """Learn from packed windows; keep the weights with the lowest response loss on `validation`.

    `questions` are answered at every evaluation, but for those that fill the context.
    """
    order = BatchSampler(len(windows), config.batch_size, config.seed)
    questions = [question for question in questions if leaves_room(model, encoding, question)]
    longest = max(*(sum(map(len, window)) for window in windows), *map(len, validation))
    sum_loss = workers.wrap(model, response_loss)

    def tokens(index: int) -> int:
        return sum(example.counted for row in order[index] for example in windows[row])

    def loss(index: int) -> Tensor:
        total = sum_loss([windows[row] for row in workers.part(order[index])], compute)
        return total * workers.count / tokens(index)

    def evaluate() -> dict[str, Any]:
        with compute.autocast():
            answers = answer_all(model, encoding, questions) if questions else []
        return {
            "validation_loss": mean_response_loss(model, validation, config.batch_size, compute, longest),
            "samples": [
                f"{' '.join([*asked.history, asked.instruction, asked.input]).strip()} -> {text}"
                for asked, text in zip(questions, answers, strict=True)
            ],
        }

    return Objective(loss, evaluate, best="validation_loss", weight=tokens)


def serve(model: Assistant, encoding: tiktoken.Encoding, rows: Sequence[Row], **options: Any) -> list[dict[str, Any]]:
    """Answer the instruction of each row; OPTIONS names the keyword arguments.

    A row's `history` is JSON text: an array of strings, the user's and the assistant's by turns.
    """
    make, ends = request_maker(model, encoding, GREEDY, **options), turn_ends(encoding, model.chat)

    def ask(row: Row) -> Request:
        texts = (text_of(row, "instruction"), text_of(row, "input", ""), text_of(row, "system", ""))
        question = Question(*texts, _history(text_of(row, "history", "")))
        return replace(make(prompt_tokens(encoding, model.chat, question.messages())), stop_tokens=ends)

    return answer_each(
        rows,
        ask,
        lambda requests: [{"output": text.strip()} for text in write_all(model, encoding, requests)],
    )


def _history(text: str) -> list[str]:
    """Earlier turns from JSON; none from an empty text. Raises UserError for anything but whole turns of two."""
    if not text.strip():
        return []
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"history: not JSON: {error}") from None
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise UserError('history: not an array of strings, such as ["Hi", "Hello!"]')
    if len(turns) % 2:
        raise UserError(f"history: {len(turns)} turns; user and assistant take turns, and the assistant's is the last")
    return turns


def leaves_room(model: Assistant, encoding: tiktoken.Encoding, question: Question, max_new_tokens: int = 64) -> bool:
    """Whether a question leaves room in the context for an answer of `max_new_tokens`."""
    tokens = prompt_tokens(encoding, model.chat, question.messages())
    return len(tokens) + max_new_tokens <= model.config.context_length


def answer_all(
    model: Assistant,
    encoding: tiktoken.Encoding,
    questions: Sequence[Question],
    *,
    max_new_tokens: int | Sequence[int] = 64,
    sampling: Sampling = GREEDY,
) -> list[str]:
    """Answer questions, many at once; each answer is cut after `max_new_tokens`, of all or of each."""
    tokens = generate(
        model,
        [prompt_tokens(encoding, model.chat, question.messages()) for question in questions],
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_tokens=turn_ends(encoding, model.chat),
    )
    return [decode(encoding, text).strip() for text in tokens]
