"""The assistant: a GPT that is spoken to by a chat template, and learns from its own turns alone."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, NamedTuple

import tiktoken
import torch
from torch import Tensor
from torch.nn import functional as F

from llm.chat import Chat, Message, encode_chat, prompt_tokens, turn_ends
from llm.config import GPTConfig, TrainConfig
from llm.dataset import BatchSampler
from llm.device import Compute
from llm.errors import UserError
from llm.generation.request import Request
from llm.generation.sampling import GREEDY, Sampling
from llm.generation.text import generate, options, request_maker, write_all
from llm.kernels.training.backend import CrossEntropy
from llm.model.gpt import GPT
from llm.objectives import CHAT, COMPLETE, Row, answer_each, text_of
from llm.objectives.assistant.packing import IGNORE, Example, batch, pack_sequences, row_width
from llm.tokenizer import decode, letterless_tokens
from llm.training.loop import Objective
from llm.training.loss import linear_cross_entropy
from llm.training.workers import ALONE, Workers

INPUTS = {"instruction": str, "input": str | None, "system": str | None, "history": str | None}  # history as JSON
OUTPUTS = {"output": str}
OPTIONS = options(GREEDY)
EXAMPLE = {"instruction": "What is the opposite of this word?", "input": "early"}
CAPABILITIES = (CHAT, COMPLETE)
ANSWER = 64
"""Tokens after which an answer is cut where nothing else is said."""
SHOWN = 5
"""Answers that are shown at each evaluation of a training."""

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


def encode_examples(
    encoding: tiktoken.Encoding, chat: Chat, questions: Sequence[Question], outputs: Sequence[str], longest: int
) -> list[Example]:
    """Conversations with their answers; one of more than `longest` tokens is left out, and counted in the log."""
    examples = [encode_example(encoding, chat, *row) for row in zip(questions, outputs, strict=True)]
    kept = [example for example in examples if len(example) <= longest]
    if len(kept) < len(examples):
        left_out = len(examples) - len(kept)
        logger.warning("%d rows are longer than %d tokens and left out, of %d", left_out, longest, len(examples))
    return kept


def encode_example(encoding: tiktoken.Encoding, chat: Chat, question: Question, output: str) -> Example:
    """A conversation with its answer, which ends it. Raises UserError for one that the chat's template can't say."""
    parts = encode_chat(encoding, chat, [*question.messages(), Message("assistant", output)])
    while parts and not parts[-1].learned:  # what a template writes behind the last turn
        parts.pop()
    tokens = [token for part in parts for token in part.tokens]
    return Example(tokens, [part.learned for part in parts for _ in part.tokens])


def response_loss(
    model: GPT,
    windows: Sequence[Sequence[Example]],
    compute: Compute,
    *,
    width: int = 0,
    opening_weight: float = 1.0,
    cross_entropy: CrossEntropy = linear_cross_entropy,
) -> Tensor:
    """Sum the cross-entropy of all response tokens in a batch, in nats. Rows are padded to `width`.

    The first token of each response counts `opening_weight` times. A training has a `cross_entropy` of its own, that of
    its backend.
    """
    inputs_BT, targets_BT, positions_BT, sequences_BT = (t.to(compute.device) for t in batch(windows, width))
    with compute.autocast():
        x_BTC = model.hidden_states(inputs_BT, positions_BT, sequences_BT=sequences_BT)
        counted_BT = targets_BT != IGNORE
        loss = cross_entropy(x_BTC[counted_BT], model.output_weight, targets_BT[counted_BT])
        if opening_weight != 1:
            begins_BT = sequences_BT != F.pad(sequences_BT, (1, -1), value=-1)
            first_BT = counted_BT & (begins_BT | ~F.pad(counted_BT, (1, -1)))
            first = cross_entropy(x_BTC[first_BT], model.output_weight, targets_BT[first_BT])
            loss = loss + (opening_weight - 1) * first
        return loss


@torch.inference_mode()
def mean_response_loss(
    model: GPT,
    examples: Sequence[Example],
    batch_size: int,
    compute: Compute,
    window: int | None = None,
) -> float:
    """Mean cross-entropy, in nats a token of the assistant's, over all examples, packed into windows of that length."""
    windows = pack_sequences(examples, window or model.config.context_length)
    batches = [windows[first : first + batch_size] for first in range(0, len(windows), batch_size)]
    total = sum(response_loss(model, part, compute).item() for part in batches)
    return total / sum(example.counted for example in examples)


def objective(
    model: Assistant,
    config: TrainConfig,
    windows: Sequence[Sequence[Example]],
    validation: Sequence[Example],
    compute: Compute,
    *,
    opening_weight: float = 1.0,
    workers: Workers = ALONE,
) -> Objective:
    """Learn from packed windows; keep the weights with the lowest response loss on `validation`.

    In training, the first token of each response counts `opening_weight` times; on `validation` all tokens count alike,
    so the two losses do not compare.
    """
    order = BatchSampler(len(windows), config.batch_size, config.seed)
    widest = max(map(row_width, windows))
    longest = max(widest, *map(len, validation))
    width = widest if compute.backend.compiles else 0

    def weight(index: int) -> float:
        examples = [example for row in order[index] for example in windows[row]]
        return sum(example.counted + (opening_weight - 1) * example.responses for example in examples)

    def loss(training_model: Assistant, index: int) -> Tensor:
        total = response_loss(
            training_model,
            [windows[row] for row in workers.part(order[index])],
            compute,
            width=width,
            opening_weight=opening_weight,
            cross_entropy=training_model.backend.cross_entropy,
        )
        return total * workers.count / weight(index)

    def evaluate() -> dict[str, float]:
        return {"validation_loss": mean_response_loss(model, validation, config.batch_size, compute, longest)}

    return Objective(loss, evaluate, best="validation_loss", weight=weight)


def serve(model: Assistant, encoding: tiktoken.Encoding, rows: Sequence[Row], **options: Any) -> list[dict[str, Any]]:
    """Answer the instruction of each row; OPTIONS names the keyword arguments.

    A row's `history` is JSON text: an array of strings, the user's and the assistant's by turns.
    """
    make, ends = request_maker(model, encoding, GREEDY, **options), turn_ends(encoding, model.chat)

    def ask(row: Row) -> Request:
        texts = (text_of(row, "instruction"), text_of(row, "input", ""), text_of(row, "system", ""))
        question = Question(*texts, _history(text_of(row, "history", "")))
        request = make(prompt_tokens(encoding, model.chat, question.messages()))
        sampling = request.sampling.with_default_penalty(model.chat.text_penalty)
        return replace(request, stop_tokens=ends, sampling=sampling)

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


def leaves_room(model: Assistant, encoding: tiktoken.Encoding, question: Question) -> bool:
    """Whether a question leaves room in the context for an answer of ANSWER tokens."""
    return len(prompt_tokens(encoding, model.chat, question.messages())) + ANSWER <= model.config.context_length


def answer_all(
    model: Assistant,
    encoding: tiktoken.Encoding,
    questions: Sequence[Question],
    *,
    max_new_tokens: int = ANSWER,
    sampling: Sampling = GREEDY,
) -> list[str]:
    """Answer questions, many at once; each answer is cut after `max_new_tokens`."""
    tokens = generate(
        model,
        [prompt_tokens(encoding, model.chat, question.messages()) for question in questions],
        max_new_tokens=max_new_tokens,
        sampling=sampling.with_default_penalty(model.chat.text_penalty),
        stop_tokens=turn_ends(encoding, model.chat),
        exempt=letterless_tokens(encoding),
    )
    return [decode(encoding, text).strip() for text in tokens]


@torch.inference_mode()
def shown_answers(
    model: Assistant, encoding: tiktoken.Encoding, questions: Sequence[Question], compute: Compute
) -> list[str]:
    """SHOWN of the questions with their answers, for people to read; those that fill the context are left out."""
    asked = list(islice((each for each in questions if leaves_room(model, encoding, each)), SHOWN))
    with compute.autocast():
        answers = answer_all(model, encoding, asked) if asked else []
    return [
        f"{' '.join([*each.history, each.instruction, each.input]).strip()} -> {text}"
        for each, text in zip(asked, answers, strict=True)
    ]
