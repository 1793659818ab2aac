"""Replay: the base's own answers to general prompts, learned among new tasks so that its skills are not forgotten.

A fine-tune on narrow tasks moves weights that other tasks need, too. To rehearse what the model said before keeps them
near where they were (Robins 1995; with a language model's own answers, Yang et al. 2024).
"""

import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from llm.chat import prompt_tokens, turn_ends
from llm.config import Replay
from llm.errors import UserError
from llm.files import write_atomic
from llm.formats.model_folder import load_model
from llm.generation.packed import pack_for_inference
from llm.generation.sampling import Sampling
from llm.generation.text import generate
from llm.objectives.assistant.loops import has_loop
from llm.objectives.assistant.model import Question, build
from llm.tokenizer import decode, letterless_tokens

SHORTEST = 3  # words of an answer that is learned
NO_ROOM = "the prompt leaves no room in the context"

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A base's answer to a prompt."""

    question: Question
    """The prompt."""
    output: str
    """The answer."""
    left_out: str = ""
    """Why no fine-tune learns from it; empty if one does."""


def answer_prompts(params: Replay, base: Path, device: torch.device) -> list[Answer]:
    """Answer each prompt greedily, in the base's own chat template.

    Raises UserError, naming the file, if it does not hold prompts.
    """
    questions = _read(params.prompts, _question)
    model, encoding = load_model(base, device, build=build)
    prompts: dict[int, list[int]] = {}
    for number, question in enumerate(questions):
        prompt = prompt_tokens(encoding, model.chat, question._replace(system=params.system).messages())
        if len(prompt) + params.max_new_tokens <= model.config.context_length:
            prompts[number] = prompt
    texts = generate(
        pack_for_inference(model),
        list(prompts.values()),
        max_new_tokens=params.max_new_tokens,
        sampling=Sampling(text_penalty=params.text_penalty),
        stop_tokens=turn_ends(encoding, model.chat),
        exempt=letterless_tokens(encoding),
    )
    answers = [Answer(question, "", NO_ROOM) for question in questions]
    for number, tokens in zip(prompts, texts, strict=True):
        question = questions[number]
        output = decode(encoding, tokens).strip()
        is_finished = len(tokens) < params.max_new_tokens
        reason = flaw(f"{question.instruction} {question.input}", output) if is_finished else "unfinished"
        answers[number] = Answer(question, output, reason)
    reasons = Counter(answer.left_out or "learned from" for answer in answers)
    logger.info("%d prompts answered by %s: %s", len(answers), base, dict(reasons))
    return answers


def _question(row: dict[str, Any]) -> Question:
    return Question(row["instruction"], row.get("input", ""), history=tuple(row.get("history", ())))


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(_question(row), row["output"], row["left_out"])


def _read(file: Path, make: Callable[[dict[str, Any]], T]) -> list[T]:
    """What `make` makes of each of a file's JSON lines. Raises UserError, naming the file, where it can't."""
    try:
        return [make(json.loads(line)) for line in filter(None, file.read_bytes().splitlines())]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not the JSON lines of a replay: {type(error).__name__}: {error}") from None


def write_replay(file: Path, answers: Iterable[Answer]) -> None:
    """Write answers as JSON lines: `instruction`, `input`, `history`, `output` and `left_out`."""
    lines = []
    for question, output, left_out in answers:
        row = question._asdict() | {"output": output, "left_out": left_out}
        del row["system"]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_atomic(file, "".join(lines))


def read_replay(file: Path) -> list[Answer]:
    """The answers to learn from in a file of `write_replay`. Raises UserError, naming the file, for another one."""
    return [answer for answer in _read(file, _answer) if not answer.left_out]


def flaw(prompt: str, answer: str) -> str:
    """Why an answer is not sound: it is short, repeats itself, or leaves the prompt's scripts; empty if it is sound."""
    words = re.findall(r"\w+", answer.lower())
    if len(words) < SHORTEST:
        return "short"
    lines = [line.strip() for line in answer.lower().splitlines() if line.strip()]
    if len(set(lines)) < len(lines) or has_loop(answer):
        return "repeats itself"
    if not _scripts(answer) <= _scripts(prompt) | {"LATIN"}:
        return "in another script"
    return ""


def _scripts(text: str) -> set[str]:
    """The scripts of a text's letters, such as LATIN and CYRILLIC."""
    return {unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha()}
