"""Rows of texts, classified; and requests that a guard reads before an assistant answers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from llm.errors import UserError
from llm.loaded_model import LoadedModel
from llm.objectives.classifier.config import UNSURE, ClassifierConfig
from llm.objectives.classifier.explanations import in_words, moved_by
from llm.objectives.classifier.model import Classifier, probabilities
from llm.objectives.classifier.texts import row_text
from llm.objectives.interface import CLASSIFY, GUARD, Interface
from llm.objectives.rows import InputRow, OutputRow, answer_each, text_of

EXAMPLES = {"subject": "Meeting on Friday"}
EXAMPLE = "Shall we say ten o'clock?"
"""The text of a row to try, in the columns for which EXAMPLES has none."""


def interface(config: Mapping[str, Any]) -> Interface:
    """What programs see of a classifier.

    It answers with the label or UNSURE, the label that it leans to, the probability of each label, and, with the option
    `explain`, the phrases that moved it.
    """
    classifier = ClassifierConfig.model_validate(config["classifier"])
    probability = {f"{label}_probability": float for label in classifier.labels}
    return Interface(
        inputs=dict.fromkeys(classifier.columns, str | None),
        outputs={"label": str, "leaning": str, **probability, "moved_by": str | None},
        example={column: EXAMPLES.get(column, EXAMPLE) for column in classifier.columns},
        capabilities=(GUARD,) if classifier.replies else (CLASSIFY,),
        options={"explain": (int, 0)},
    )


def serve(loaded: LoadedModel[Classifier], rows: Sequence[InputRow], *, explain: int = 0) -> list[OutputRow]:
    """An answer for each row's text, with the `explain` phrases that moved it most; `interface` has its columns."""
    if explain < 0:
        raise UserError(f"explain {explain} is no number of phrases")
    config = loaded.model.config

    def prepare(row: InputRow) -> str:
        text = row_text([text_of(row, column, "") for column in config.columns])
        if not text.strip():
            raise UserError("there is no text to classify")
        return text

    def answer(texts: list[str]) -> list[OutputRow]:
        probability_NK = probabilities(loaded, texts)
        decided = zip(
            texts, probability_NK, config.decide(probability_NK), config.is_unsure(probability_NK), strict=True
        )
        answers: list[OutputRow] = []
        for text, probability_K, number, unsure in decided:
            leaning = config.labels[number]
            output: OutputRow = {"label": UNSURE if unsure else leaning, "leaning": leaning}
            for label, probability in zip(config.labels, probability_K, strict=True):
                output[f"{label}_probability"] = float(probability)
            if explain:
                moved = moved_by(partial(probabilities, loaded), config.labels, text)
                output["moved_by"] = in_words(moved[:explain])
            answers.append(output)
        return answers

    return answer_each(rows, prepare, answer)


def guard_replies(loaded: LoadedModel[Classifier], requests: Sequence[str]) -> list[str | None]:
    """For each request what to say instead of an answer; None where an assistant should answer, as to a blank one.

    Turns of one user are joined by a line feed.
    """
    config = loaded.model.config
    labels = np.zeros(len(requests), dtype=int)  # the first one passes
    numbers = [number for number, request in enumerate(requests) if request.strip()]
    if numbers:
        labels[numbers] = config.decide(probabilities(loaded, [requests[number] for number in numbers]))
    return [config.replies.get(config.labels[label]) for label in labels]
