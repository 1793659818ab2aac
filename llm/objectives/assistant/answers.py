"""The assistant's answers to questions, many at once."""

from collections.abc import Sequence

import torch

from llm.chat import prompt_tokens, turn_ends
from llm.device import Compute
from llm.generation.sampling import GREEDY
from llm.generation.text import generate
from llm.loaded_model import LoadedModel
from llm.objectives.assistant.model import Assistant, Question
from llm.tokenizer import decode, letterless_tokens

ANSWER = 64
"""Tokens after which an answer is cut by default."""
SHOWN = 5
"""Answers that are shown at each evaluation of a training."""


def answer_all(
    loaded: LoadedModel[Assistant], questions: Sequence[Question], *, max_new_tokens: int = ANSWER
) -> list[str]:
    """The likeliest answer to each question; it is cut after `max_new_tokens`."""
    model, encoding = loaded
    texts = generate(
        model,
        [prompt_tokens(encoding, model.chat, question.messages()) for question in questions],
        max_new_tokens=max_new_tokens,
        sampling=GREEDY.with_default_penalty(model.chat.text_penalty),
        stop_tokens=turn_ends(encoding, model.chat),
        exempt=letterless_tokens(encoding),
    )
    return [decode(encoding, tokens).strip() for tokens in texts]


@torch.inference_mode()
def shown_answers(loaded: LoadedModel[Assistant], questions: Sequence[Question], compute: Compute) -> list[str]:
    """SHOWN of the questions with their answers, for people to read; those that fill the context are left out."""
    model, encoding = loaded
    shown: list[Question] = []
    for question in questions:
        prompt = prompt_tokens(encoding, model.chat, question.messages())
        if len(prompt) + ANSWER <= model.config.context_length:
            shown.append(question)
        if len(shown) == SHOWN:
            break
    with compute.autocast():
        answers = answer_all(loaded, shown)
    lines = []
    for question, answer in zip(shown, answers, strict=True):
        asked = " ".join([*question.history, question.instruction, question.input]).strip()
        lines.append(f"{asked} -> {answer}")
    return lines
