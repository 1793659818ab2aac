"""A contender answers the rows of the test split: its answers, and how likely it finds those that are expected."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import tiktoken

from llm.chat import turn_ends
from llm.errors import UserError
from llm.generation.packed import pack_for_inference
from llm.generation.request import Request
from llm.generation.sampling import GREEDY
from llm.generation.text import run
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant, Example, Question
from llm.objectives.assistant.rows import examples_of, questions_of
from llm.tokenizer import decode, letterless_tokens
from tasks.applications.assistant.baseline import Turns, with_shots
from tasks.stages.progress_bar import ProgressBar

MARGIN = 16  # tokens by which a checkable answer may be longer than all that count: it is wrong however it goes on
TOGETHER = 256  # questions that are asked at once: in the batch one takes the place of another that is answered

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contender:
    """A model that is measured, and what it is asked."""

    name: str
    loaded: LoadedModel[Assistant]
    examples: Sequence[Sequence[Turns]]
    """The conversations that stand before each row of the test split."""
    questions: Sequence[Question]
    """What people ask."""

    @property
    def model(self) -> Assistant:
        """The model."""
        return self.loaded.model

    @property
    def encoding(self) -> tiktoken.Encoding:
        """Its tokenizer."""
        return self.loaded.encoding

    @property
    def context_length(self) -> int:
        """Tokens of its longest conversation."""
        return self.model.config.context_length

    def packed(self) -> "Contender":
        """As it is served: on a CPU in the weights that decode.c has."""
        return replace(self, loaded=LoadedModel(pack_for_inference(self.model), self.encoding))


@dataclass(frozen=True)
class Prompted:
    """A row of the test split as tokens."""

    example: Example
    """The whole conversation."""
    asked: int
    """Tokens of it before the answer."""
    longest: int
    """Tokens that the answer may have."""
    examples: Sequence[Turns]
    """The conversations before it."""

    def has_room(self, context_length: int) -> bool:
        """Whether the context holds the longest answer."""
        return self.asked + self.longest <= context_length


@dataclass(frozen=True)
class Answers:
    """A contender's answers to the test split."""

    texts: list[str]
    """Empty where the context has no room for one."""
    loss: float
    """Of the expected answers, in nats a token, but for rows that are too long."""
    unanswered: int
    """Rows without room for an answer."""


def answer_rows(contender: Contender, test: pd.DataFrame, file: Path, max_new_tokens: int, batch_size: int) -> Answers:
    """Greedy answers to the rows of `file`, and the loss of those that are expected.

    Before each row stand its examples, as many as fit. Answers and loss come at once, so that what is asked is read one
    time. Untuned weights would write on to the last token. Raises UserError where no question has room.
    """
    prompted = _prompted(contender, test, max_new_tokens)
    context_length = contender.context_length
    _check_lengths(contender, prompted, test=test, file=file)
    requests = _requests(contender, prompted)
    texts = [""] * len(prompted)
    nats = 0.0
    tokens = 0
    order = list(requests)
    with ProgressBar(total=len(order), desc=contender.name, unit="answer") as bar:
        for first in range(0, len(order), TOGETHER):
            numbers = order[first : first + TOGETHER]
            written = run(contender.model, [requests[number] for number in numbers], batch_size)
            for number, (text, scored) in zip(numbers, written, strict=True):
                row = prompted[number]
                if row.has_room(context_length):
                    texts[number] = decode(contender.encoding, text).strip()
                learned = row.example.learned[len(row.example) - len(scored) :]
                logprobs = [value for value, is_learned in zip(scored, learned, strict=True) if is_learned]
                nats -= sum(logprobs)
                tokens += len(logprobs)
            bar.update(len(numbers))
    unanswered = sum(not row.has_room(context_length) for row in prompted)
    return Answers(texts=texts, loss=nats / tokens, unanswered=unanswered)


def _prompted(contender: Contender, test: pd.DataFrame, max_new_tokens: int) -> list[Prompted]:
    """The rows of a table as tokens, each after as many of its examples as fit."""
    encoding, chat = contender.encoding, contender.model.chat
    rows = []
    columns = zip(questions_of(test), test["output"], test["answers"], contender.examples, strict=True)
    for question, output, answers, examples in columns:
        counted = max(map(len, encoding.encode_ordinary_batch(list(answers))), default=sys.maxsize)
        longest = min(max_new_tokens, counted + MARGIN)
        room = contender.context_length - longest
        example = with_shots(encoding, chat, question, output=output, examples=examples, longest=room)
        unlearned = [number for number, learned in enumerate(example.learned, 1) if not learned]
        asked = max(unlearned, default=0)
        rows.append(Prompted(example=example, asked=asked, longest=longest, examples=examples))
    return rows


def _check_lengths(contender: Contender, prompted: Sequence[Prompted], *, test: pd.DataFrame, file: Path) -> None:
    """Warn of rows that are too long; raise UserError if all are."""
    context_length = contender.context_length
    long = sum(len(row.example) > context_length for row in prompted)
    if long == len(prompted):
        way_out = "raise train.context_length, or bring shorter rows"
        examples_of(contender.encoding, contender.model.chat, test, longest=context_length, file=file, way_out=way_out)
    if long:
        rows = f"{contender.name}: {long} of {len(prompted)} rows"
        logger.warning("%s are longer than %d tokens: no part of its loss", rows, context_length)
    unanswered = sum(not row.has_room(context_length) for row in prompted)
    if unanswered == len(prompted):
        shortest = min(row.longest for row in prompted)
        raise UserError(
            f"{file}: no question of its {len(test)} leaves {shortest} of {context_length} tokens for an answer: lower "
            "evaluate.max_new_tokens, or raise train.context_length"
        )
    if unanswered:
        questions = f"{contender.name}: {unanswered} of {len(prompted)} questions"
        logger.warning("%s leave no room for an answer, and count as wrong", questions)


def _requests(contender: Contender, prompted: Sequence[Prompted]) -> dict[int, Request]:
    """What is asked, by the number of the row, so that rows with the same beginning and of like lengths are neighbours.

    A row has no request if it neither leaves room for an answer nor fits the context with the expected one.
    """
    model, context_length = contender.model, contender.context_length
    sampling = GREEDY.with_default_penalty(model.chat.text_penalty)
    exempt = letterless_tokens(contender.encoding)
    ends = turn_ends(contender.encoding, model.chat)

    def place(number: int) -> tuple[Sequence[Turns], int]:
        return prompted[number].examples, len(prompted[number].example)

    requests = {}
    for number in sorted(range(len(prompted)), key=place):
        row = prompted[number]
        has_room = row.has_room(context_length)
        fits = len(row.example) <= context_length
        if not (has_room or fits):
            continue
        request = Request(
            prompt=row.example.tokens[: row.asked],
            max_new_tokens=row.longest if has_room else 1,
            sampling=sampling,
            stop_tokens=ends,
            exempt=exempt,
        )
        requests[number] = with_expected(request, row.example) if fits else request
    return requests


def with_expected(request: Request, example: Example) -> Request:
    """The request, and how likely all is that its assistant says, which has no first token."""
    asked = len(request.prompt)
    first_learned = next(number for number, learned in enumerate(example.learned) if learned and number)
    prompt_scored = max(0, asked - first_learned)
    return replace(request, scored=example.tokens[asked:], prompt_scored=prompt_scored)
