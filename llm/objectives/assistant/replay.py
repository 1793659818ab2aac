"""Replay: the base's own answers to general prompts, learned among new tasks so that its skills are not forgotten.

A fine-tune on narrow tasks moves weights that other tasks need, too. To rehearse what the model said before keeps them
near where they were (Robins 1995; with a language model's own answers, Yang et al. 2024).
"""

import hashlib
import json
import logging
import re
import unicodedata
from collections import Counter
from pathlib import Path

from pydantic import Field

from llm.chat import prompt_tokens, turn_ends
from llm.config import Config
from llm.device import Compute
from llm.errors import UserError
from llm.formats.model_folder import load_model
from llm.generation.packed import pack_for_inference
from llm.generation.text import generate
from llm.objectives.assistant import Question, build
from llm.tokenizer import decode

SHORTEST = 3  # words of an answer that is kept
RUN = 4  # words in a row that an answer to be kept says at most twice

logger = logging.getLogger(__name__)


class Replay(Config):
    """Which prompts the base answers before the training."""

    file: Path
    """JSON lines with a prompt as `instruction` and, if any, `input` and `history`."""
    sha256: str
    """Of the file: the weights depend on it."""
    system: str = ""
    """What the base is told, such as to be brief; the fine-tune is not. Empty: what its template says."""
    max_new_tokens: int = Field(gt=0)
    """A longer answer is left out, because it is unfinished."""


def answer_prompts(params: Replay, base: Path, compute: Compute, context_length: int) -> list[tuple[Question, str]]:
    """Prompts with the base's greedy answers, in its own chat template; answers that `is_sound` refuses are left out.

    The same answers each time, so a training that goes on after an interruption learns from what it began with. Raises
    UserError for a file with another hash, or that is no such file.
    """
    questions = _questions(params)
    model, encoding = load_model(base, compute.device, build=build, context_length=context_length)
    told = {question: question._replace(system=params.system).messages() for question in questions}
    asked = {question: prompt_tokens(encoding, model.chat, messages) for question, messages in told.items()}
    asked = {
        question: prompt for question, prompt in asked.items() if len(prompt) + params.max_new_tokens <= context_length
    }
    texts = generate(
        pack_for_inference(model),
        list(asked.values()),
        max_new_tokens=params.max_new_tokens,
        stop_tokens=turn_ends(encoding, model.chat),
    )
    answers = [(decode(encoding, text).strip(), len(text) < params.max_new_tokens) for text in texts]
    kept = [
        (question, answer)
        for question, (answer, ended) in zip(asked, answers, strict=True)
        if ended and is_sound(f"{question.instruction} {question.input}", answer)
    ]
    logger.info("%s answers %d of %d prompts well enough to learn from", base, len(kept), len(questions))
    return kept


def _questions(params: Replay) -> list[Question]:
    try:
        content = params.file.read_bytes()
    except OSError as error:
        raise UserError(f"replay.file: {params.file}: {error.strerror}") from None
    if (found := hashlib.sha256(content).hexdigest()) != params.sha256:
        raise UserError(f"{params.file} has the sha256 {found}, and replay.sha256 is {params.sha256}")
    try:
        rows = map(json.loads, content.splitlines())
        return [Question(row["instruction"], row.get("input", ""), history=(*row.get("history", ()),)) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{params.file}: not JSON lines with an `instruction`: {error}") from None


def is_sound(prompt: str, answer: str) -> bool:
    """Whether an answer has SHORTEST words or more, does not repeat itself, and stays in the prompt's scripts."""
    words = re.findall(r"\w+", answer.lower())
    lines = Counter(line for line in map(str.strip, answer.lower().splitlines()) if line)
    runs = Counter(zip(*(words[first:] for first in range(RUN)), strict=False))
    repeats = max(lines.values(), default=0) > 1 or max(runs.values(), default=0) > 2
    return len(words) >= SHORTEST and not repeats and _scripts(answer) <= _scripts(prompt) | {"LATIN"}


def _scripts(text: str) -> set[str]:
    return {unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha()}
