"""What people ask: general questions, and harmless ones with alarming words."""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path

from llm.chat import prompt_tokens
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant, Question, answer_all
from tasks.applications.assistant import rubrics

FOLDER = Path("data/behavioural")
METRICS = {"general": "general_right", "harmless": "harmless_useful"}
"""The share of each file's rows with a good answer."""


def read_questions(dataset: str) -> dict[str, list[rubrics.Question]]:
    """The rows of each file of METRICS that the dataset has. Raises UserError for a wrong row."""
    paths = {name: FOLDER / dataset / f"{name}.jsonl" for name in METRICS}
    return {name: rubrics.read_rows(path) for name, path in paths.items() if path.exists()}


def question_of(row: rubrics.Question) -> Question:
    """What a row asks."""
    return Question(row.instruction, row.input, history=tuple(row.history))


def failures(row: rubrics.Question, answer: str) -> list[str]:
    """What is wrong with an answer to a row; nothing of a good one."""
    return rubrics.failures(row.rubric, answer, row.input)


def answer_questions(
    loaded: LoadedModel[Assistant], questions: Sequence[Question], *, max_new_tokens: int
) -> list[str]:
    """Answers to questions, empty where the context has no room for one."""
    model, encoding = loaded
    lengths = [len(prompt_tokens(encoding, model.chat, question.messages())) for question in questions]
    fits = [length + max_new_tokens <= model.config.context_length for length in lengths]
    asked = list(compress(questions, fits))
    answers = [""] * len(questions)
    numbers = compress(range(len(questions)), fits)
    for number, text in zip(numbers, answer_all(loaded, asked, max_new_tokens=max_new_tokens), strict=True):
        answers[number] = text
    return answers
