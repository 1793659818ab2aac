"""The assistant: a GPT that is spoken to by a chat template, and learns from its own turns alone."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, pairwise
from typing import Any, NamedTuple

import tiktoken
import torch
from torch import Tensor
from torch.nn import functional as F

from llm.chat import Chat, Message, encode_chat, prompt_tokens, turn_ends
from llm.config import GPTConfig, TrainConfig
from llm.dataset import BatchSampler, pad
from llm.device import Compute
from llm.errors import UserError
from llm.generation.request import Request
from llm.generation.sampling import GREEDY, Sampling
from llm.generation.text import generate, options, request_maker, write_all
from llm.kernels.training.cross_entropy import IGNORE
from llm.model.gpt import GPT
from llm.objectives import CHAT, COMPLETE, Row, answer_each, text_of
from llm.tokenizer import decode
from llm.training.loop import Objective
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


@dataclass(frozen=True)
class Example:
    """A conversation as tokens, and which of them the assistant says."""

    tokens: list[int]
    learned: list[bool]
    shared: int = 0
    """How many of its first tokens are a prefix, which a packed row holds once for all examples that have it."""

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

    @property
    def responses(self) -> int:
        """The number of the assistant's turns in the loss."""
        return sum(learned and not before for before, learned in pairwise(self.learned))


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


def shared_prefix(examples: Sequence[Example]) -> list[int]:
    """The longest beginning that more than half of the examples have: most often the system prompt.

    It ends before anything that is learned, so that its tokens have no targets.
    """
    prefix: list[int] = []
    while True:
        length = len(prefix) + 1
        having = [each for each in examples if _may_share(each, length) and each.tokens[: length - 1] == prefix]
        token, count = next(iter(Counter(each.tokens[length - 1] for each in having).most_common(1)), (0, 0))
        if 2 * count <= len(examples):
            return prefix
        prefix.append(token)


def _may_share(example: Example, length: int) -> bool:
    """Whether so many first tokens have no targets, and another token is asked to predict behind them."""
    return len(example) > length + 1 and not any(example.learned[: length + 1])


def pack_sequences(examples: Sequence[Example], length: int) -> list[list[Example]]:
    """Pack examples into windows of at most `length` tokens: each, in order, goes into the first window with room.

    A short row alone would leave most of a window to padding. In a random order each window has rows of many kinds, so
    that the steps of a training are alike. Their shared prefix counts once a window: of the default
    instructions it is 14 tokens of 51. Raises UserError for an example that fits no window.
    """
    prefix = shared_prefix(examples)
    windows: list[list[Example]] = []
    space: list[int] = []
    begun: list[bool] = []  # whether a window has the prefix
    for example in examples:
        if len(example) > length:
            raise UserError(f"an example of {len(example)} tokens does not fit a window of {length}")
        has_prefix = example.tokens[: len(prefix)] == prefix and _may_share(example, len(prefix))
        example = replace(example, shared=len(prefix) if has_prefix else 0)
        own = len(example) - example.shared
        needed = (len(example), own)  # without the prefix, and with it
        place = next((i for i, left in enumerate(space) if left >= needed[begun[i]]), None)
        if place is None:
            windows.append([])
            space.append(length)
            begun.append(False)
            place = len(windows) - 1
        windows[place].append(example)
        space[place] -= needed[begun[place]]
        begun[place] |= example.shared > 0
    return windows


def row_width(window: Sequence[Example]) -> int:
    """Tokens that a window's row of inputs takes: without the last of each example, which is only predicted."""
    return max(example.shared for example in window) + sum(len(example) - 1 - example.shared for example in window)


def batch(windows: Sequence[Sequence[Example]], width: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, targets, positions and sequences of packed windows, all int64 BT; rows are at least `width` long.

    Each example keeps positions and a sequence of its own, so that it learns as if it were alone. A shared prefix
    is the first sequence of its row. Targets are IGNORE but where a token of the assistant's comes next.
    """
    inputs, targets, positions, sequences = [], [], [], []
    for window in windows:
        longest = max(window, key=lambda example: example.shared)
        inputs.append(longest.tokens[: longest.shared])
        targets.append([IGNORE] * longest.shared)
        positions.append([*range(longest.shared)])
        sequences.append([0] * longest.shared)
        for number, example in enumerate(window, 1):
            inputs[-1] += example.tokens[example.shared : -1]
            targets[-1] += example.targets[example.shared :]
            positions[-1] += range(example.shared, len(example) - 1)
            sequences[-1] += [number] * (len(example) - 1 - example.shared)
    return tuple(
        pad(rows, value, width)[0] for rows, value in ((inputs, 0), (targets, IGNORE), (positions, 0), (sequences, -1))
    )


def response_loss(
    model: GPT,
    windows: Sequence[Sequence[Example]],
    compute: Compute,
    width: int = 0,
    opening_weight: float = 1.0,
) -> Tensor:
    """Sum the cross-entropy of all response tokens in a batch, in nats. Rows are padded to `width`.

    The first token of each response counts `opening_weight` times.
    """
    inputs_BT, targets_BT, positions_BT, sequences_BT = (t.to(compute.device) for t in batch(windows, width))
    with compute.autocast():
        x_BTC = model.hidden_states(inputs_BT, positions_BT, sequences_BT=sequences_BT)
        counted_BT = targets_BT != IGNORE
        loss = model.backend.cross_entropy(x_BTC[counted_BT], model.output_weight, targets_BT[counted_BT])
        if opening_weight != 1:
            begins_BT = sequences_BT != F.pad(sequences_BT, (1, -1), value=-1)
            first_BT = counted_BT & (begins_BT | ~F.pad(counted_BT, (1, -1)))
            first = model.backend.cross_entropy(x_BTC[first_BT], model.output_weight, targets_BT[first_BT])
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
    sum_loss = workers.wrap(model, response_loss)

    def weight(index: int) -> float:
        examples = [example for row in order[index] for example in windows[row]]
        return sum(example.counted + (opening_weight - 1) * example.responses for example in examples)

    def loss(index: int) -> Tensor:
        total = sum_loss([windows[row] for row in workers.part(order[index])], compute, width, opening_weight)
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
        sampling=sampling,
        stop_tokens=turn_ends(encoding, model.chat),
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
