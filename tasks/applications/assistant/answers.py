"""How a model answers the rows: its answers, and how likely it finds those that are expected.

Beside the assistant answers what one would use instead of a fine-tune: its base, told to be brief and shown examples of
a task, or the answer to the most similar training row. The prompt and the number of examples were fixed before anything
was measured with them.
"""

import logging
import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from llm.chat import turn_ends
from llm.errors import UserError
from llm.generation.packed import pack_for_inference
from llm.generation.request import Request
from llm.generation.sampling import GREEDY
from llm.generation.text import run
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant, Example, Question, encode_example
from llm.objectives.assistant.rows import questions_of
from llm.tokenizer import decode, letterless_tokens
from tasks.stages.progress_bar import ProgressBar

BRIEF = "You are a helpful assistant. Answer in at most three short sentences."
"""The system prompt under which the base answers what people ask."""
SHOTS = 4
"""The most training rows of its kind that stand before a test row."""
SEED = 1
MARGIN = 16  # tokens by which a checkable answer may be longer than all that count: it is wrong however it goes on
TOGETHER = 256  # questions that are asked at once: in the batch one takes the place of another that is answered

logger = logging.getLogger(__name__)

Turns = tuple[str, ...]
"""What user and assistant say, in turn."""


@dataclass(frozen=True)
class Asked:
    """A question as a model is asked it."""

    question: Question
    output: str = ""
    """The expected answer; empty where its loss does not count."""
    accepted: Sequence[str] = ()
    """The right answers, where a rule knows them."""
    examples: tuple[Turns, ...] = ()
    """The conversations that stand before it, the same ones for the whole kind."""


@dataclass(frozen=True)
class Answers:
    """A model's answers."""

    texts: list[str]
    """Empty where the context has no room for one."""
    loss: float
    """Of the expected answers, in nats a token, but for conversations that are too long."""
    unanswered: int
    """Questions without room for an answer."""


@dataclass(frozen=True)
class Prompted:
    """A question as tokens."""

    example: Example
    """The conversation with the expected answer, which counts in the loss alone."""
    asked: int
    """Tokens of it before the answer."""
    longest: int
    """Tokens that the answer may have."""
    has_room: bool
    """Whether the context holds the longest answer."""
    is_scored: bool
    """Whether the expected answer counts and the context holds it."""
    examples: tuple[Turns, ...]


def answer(
    name: str, loaded: LoadedModel[Assistant], asked: Sequence[Asked], *, max_new_tokens: int, batch_size: int
) -> Answers:
    """Greedy answers of a model as it is served, and the loss of those that are expected.

    Answers and loss come at once, so that what is asked is read one time. Untuned weights would write on to the last
    token. Raises UserError where no question has room.
    """
    encoding, chat = loaded.encoding, loaded.model.chat
    model = pack_for_inference(loaded.model)
    prompted = [_prompted(loaded, question, max_new_tokens) for question in asked]
    _check_lengths(name, prompted, model.config.context_length)
    sampling = GREEDY.with_default_penalty(chat.text_penalty)
    ends, exempt = turn_ends(encoding, chat), letterless_tokens(encoding)
    texts = [""] * len(prompted)
    logprobs: list[float] = []
    order = sorted(range(len(prompted)), key=lambda number: _place(prompted[number]))
    order = [number for number in order if prompted[number].has_room or prompted[number].is_scored]
    with ProgressBar(total=len(order), desc=name, unit="answer") as bar:
        for first in range(0, len(order), TOGETHER):
            numbers = order[first : first + TOGETHER]
            requests = []
            for number in numbers:
                row = prompted[number]
                request = Request(
                    prompt=row.example.tokens[: row.asked],
                    max_new_tokens=row.longest if row.has_room else 1,
                    sampling=sampling,
                    stop_tokens=ends,
                    exempt=exempt,
                )
                requests.append(_with_expected(request, row.example) if row.is_scored else request)
            for number, (tokens, scored) in zip(numbers, run(model, requests, batch_size), strict=True):
                row = prompted[number]
                if row.has_room:
                    texts[number] = decode(encoding, tokens).strip()
                learned = row.example.learned[len(row.example) - len(scored) :]
                logprobs += [value for value, is_learned in zip(scored, learned, strict=True) if is_learned]
            bar.update(len(numbers))
    unanswered = sum(not row.has_room for row in prompted)
    return Answers(texts=texts, loss=-math.fsum(logprobs) / max(1, len(logprobs)), unanswered=unanswered)


def _place(row: Prompted) -> tuple[tuple[Turns, ...], int]:
    """Where a question stands, so that those with the same beginning and of like lengths are neighbours."""
    return row.examples, len(row.example)


def _prompted(loaded: LoadedModel[Assistant], asked: Asked, max_new_tokens: int) -> Prompted:
    """A question as tokens, after as many of its examples as fit."""
    context_length = loaded.model.config.context_length
    counted = max(map(len, loaded.encoding.encode_ordinary_batch(list(asked.accepted))), default=sys.maxsize)
    longest = min(max_new_tokens, counted + MARGIN)
    example = with_shots(loaded, asked, longest=context_length - longest)
    before = max((number for number, learned in enumerate(example.learned, 1) if not learned), default=0)
    return Prompted(
        example=example,
        asked=before,
        longest=longest,
        has_room=before + longest <= context_length,
        is_scored=bool(asked.output) and len(example) <= context_length,
        examples=asked.examples,
    )


def with_shots(loaded: LoadedModel[Assistant], asked: Asked, *, longest: int) -> Example:
    """The conversation of a question, after as many examples as `longest` tokens hold; they are no part of the loss."""
    chat, question = loaded.model.chat, asked.question
    alone = encode_example(loaded.encoding, chat, question, output=asked.output)
    for count in range(len(asked.examples), 0, -1):
        earlier = [turn for turns in asked.examples[:count] for turn in turns]
        longer_question = question._replace(history=(*earlier, *question.history))
        longer = encode_example(loaded.encoding, chat, longer_question, output=asked.output)
        if len(longer) <= longest:
            shown = sum(longer.learned) - sum(alone.learned)
            counts = accumulate(map(int, longer.learned))
            own = [learned and count > shown for learned, count in zip(longer.learned, counts, strict=True)]
            return Example(longer.tokens, own)
    return alone


def _check_lengths(name: str, prompted: Sequence[Prompted], context_length: int) -> None:
    """Warn of questions without room for an answer; raise UserError if none has."""
    unanswered = sum(not row.has_room for row in prompted)
    if unanswered == len(prompted):
        shortest = min(row.asked for row in prompted)
        raise UserError(
            f"{name}: the shortest of {unanswered} questions of the test split has {shortest} tokens, which leaves no "
            f"room for an answer of {prompted[0].longest} in {context_length}: lower evaluate.max_new_tokens, or raise "
            "train.context_length"
        )
    if unanswered:
        questions = f"{name}: {unanswered} of {len(prompted)} questions"
        logger.warning("%s leave no room for an answer in %d tokens, and count as wrong", questions, context_length)


def _with_expected(request: Request, example: Example) -> Request:
    """The request, and how likely all is that its assistant says, which has no first token."""
    asked = len(request.prompt)
    first_learned = next(number for number, learned in enumerate(example.learned) if learned and number)
    return replace(request, scored=example.tokens[asked:], prompt_scored=max(0, asked - first_learned))


def brief(question: Question) -> Question:
    """The question under the system prompt BRIEF, unless it brings one of its own."""
    return question if question.system else question._replace(system=BRIEF)


def shots(train: pd.DataFrame, test: pd.DataFrame) -> list[tuple[Turns, ...]]:
    """For each test row the turns of up to SHOTS training rows of its kind, the same ones for the whole kind.

    Their system prompt is the test row's: an answer given under another prompt would be a wrong example.
    """
    groups = dict(iter(train.groupby(["kind", "system"])))
    drawn: dict[tuple[str, str], tuple[Turns, ...]] = {}
    for key in set(zip(test["kind"], test["system"], strict=True)):
        rows = groups.get(key, train.iloc[:0])
        rows = rows.sample(min(SHOTS, len(rows)), random_state=SEED)
        drawn[key] = tuple(_turns(row) for row in rows.to_dict("records"))
    return [drawn[key] for key in zip(test["kind"], test["system"], strict=True)]


def _turns(row: Mapping[Hashable, Any]) -> Turns:
    asked = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return (*row["history"], asked, row["output"])


def nearest_answers(train: pd.DataFrame, questions: Sequence[Question]) -> list[str]:
    """For each question the answer to the training row that asks most alike: TF-IDF of words, cosine.

    What is asked is all that the assistant reads: system prompt and earlier turns, too.
    """
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
    learned = csr_matrix(words.fit_transform(map(_all_turns, questions_of(train))))
    asked = csr_matrix(words.transform(map(_all_turns, questions)))
    outputs = train["output"].to_numpy()
    return [outputs[int((row @ learned.T).toarray().argmax())] for row in asked]


def _all_turns(question: Question) -> str:
    return "\n".join(turn.content for turn in question.messages())
