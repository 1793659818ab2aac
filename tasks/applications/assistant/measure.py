"""How good answers to instructions are, next to those of a prompted base and of the most similar training row."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from pydantic import Field

from llm.config import Config
from llm.formats.model_folder import load_model, read_config
from llm.objectives.assistant import Question, build
from llm.objectives.assistant.rows import questions_of
from tasks.applications.assistant.answers import Answers, Contender, answer_rows
from tasks.applications.assistant.baseline import brief, nearest_answers, shots
from tasks.applications.assistant.behaviour import answer_questions, question_of
from tasks.applications.assistant.evidence import write_evidence
from tasks.applications.assistant.judge import Judge, judge_answers
from tasks.applications.assistant.scores import (
    ASKED,
    FOR_SCORING,
    WORDS,
    assistant_metrics,
    assistant_rows,
    score_answers,
)
from tasks.measures.description import Asking, Evaluation, Measured, Subject
from tasks.measures.scores import BASELINE, NEAREST, OURS, TEST, answer_column, score_table
from tasks.training.setup import split_file


class Evaluate(Config):
    """How the assistant is measured on the test split."""

    batch_size: int = Field(gt=0)
    """Rows that are answered at once."""
    max_new_tokens: int = Field(gt=0)
    """An answer is cut after this many tokens, one that a rule checks when it is longer than what could be right."""
    samples: int = Field(default=30, ge=0)
    """Answers kept for people to read."""
    judge: Judge | None = None
    """Scores answers that no rule checks, by a language model at an endpoint; null leaves it out."""


def measure(subject: Subject) -> Measured:
    """The scores of answers to the test split and to what people ask, and the response loss in nats a token.

    The baseline is the base in its own template, untuned and prompted as baseline.py says; both choose tokens in the
    same way. `nearest` answers as the training row most alike does. `unanswered` counts rows that leave no room for an
    answer, where there are any.
    """
    data, params, evidence = subject.data, subject.params, subject.evidence
    train = pd.read_parquet(split_file(data, "train"))
    test = pd.read_parquet(split_file(data, TEST))
    rows = assistant_rows(data)
    people = [question_of(row) for row in rows["row"].dropna()]
    scored = {}
    further: dict[str, float] = {}
    for column, contender in contenders(subject, train, test, people=people).items():
        answers, texts = _answer(contender.packed(), test, subject)
        prefix = "" if column == OURS else f"{column}_"
        further[f"{prefix}response_loss"] = answers.loss
        if answers.unanswered:
            further[f"{prefix}unanswered"] = answers.unanswered
        scored[column] = _scored(rows, [*answers.texts, *texts])
    nearest = _scored(rows, nearest_answers(train, [*questions_of(test), *people]))
    scored[NEAREST] = nearest.drop(columns="loop", errors="ignore")
    scores = score_table(rows.drop(columns=[*ASKED, *FOR_SCORING]), **scored)
    write_evidence(rows, scores, samples=params.samples, evidence=evidence)
    ratio = general_right_ratio(scores)
    if ratio is not None:
        further["general_right_ratio"] = ratio
    if params.judge and (rows["checked_by"] == WORDS).any():
        judged = _judged(test, scores, judge=params.judge, evidence=evidence)
        further["judge_unjudged"] = judged[OURS].isna().tolist().count(True)
        scores = pd.concat([scores, judged.dropna(subset=OURS)], ignore_index=True)
    return Measured(scores, further)


def contenders(
    subject: Subject, train: pd.DataFrame, test: pd.DataFrame, *, people: Sequence[Question]
) -> dict[str, Contender]:
    """Ours and its base, untuned and prompted as baseline.py says; a base that is an assistant is asked as ours is."""
    ours = Contender(
        name="assistant",
        loaded=subject.loaded,
        examples=[()] * len(test),
        questions=people,
    )
    assert subject.base is not None, "an assistant has a base"
    loaded = load_model(subject.base, subject.compute.device, build=build, context_length=ours.context_length)
    penalty = {"text_penalty": ours.model.chat.text_penalty}
    loaded.model.chat = loaded.model.chat.model_copy(update=penalty)  # both are decoded alike
    base = replace(ours, name="its base", loaded=loaded)
    if read_config(subject.base)["objective"] != "assistant":
        base = replace(base, examples=shots(train, test), questions=list(map(brief, people)))
    return {OURS: ours, BASELINE: base}


def _answer(contender: Contender, test: pd.DataFrame, subject: Subject) -> tuple[Answers, list[str]]:
    """A contender's answers to the test split, and to what people ask."""
    params = subject.params
    answers = answer_rows(
        contender,
        test,
        split_file(subject.data, TEST),
        max_new_tokens=params.max_new_tokens,
        batch_size=params.batch_size,
    )
    if not contender.questions:
        return answers, []
    texts = answer_questions(contender.loaded, contender.questions, max_new_tokens=params.max_new_tokens)
    return answers, texts


def _scored(rows: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    return score_answers(rows, pd.DataFrame({"output": texts, "error": None}, index=rows.index))


def _judged(test: pd.DataFrame, scores: pd.DataFrame, *, judge: Judge, evidence: Path) -> pd.DataFrame:
    """The judge's scores of free answers to the test split, as rows of the score table."""
    free = scores[(scores["checked_by"] == WORDS) & (scores["measure"] == "rouge_l")]
    answers = free[["id", answer_column(OURS), answer_column(BASELINE)]]
    judged = judge_answers(test.merge(answers, on="id"), judge, evidence)
    texts = free.drop(columns=["measure", OURS, BASELINE, NEAREST])
    return texts.merge(judged, on="id").assign(measure="judge_score")


def general_right_ratio(scores: pd.DataFrame) -> float | None:
    """The share of general questions with a good answer, over the base's; None if that is 0 or nobody asks."""
    general = scores[(scores["part"] == "general") & (scores["measure"] == "right")]
    baseline = general[BASELINE].mean()
    return float(general[OURS].mean() / baseline) if baseline > 0 else None


def _cut(evaluate: Evaluate) -> dict[str, int]:
    """An answer is cut where the evaluation cuts it."""
    return {"max_new_tokens": evaluate.max_new_tokens}


EVALUATION = Evaluation(
    params=Evaluate,
    measure=measure,
    metrics=assistant_metrics,
    main="exact_match",
    unit="questions",
    judged_by=("exact", "rouge_l", "right"),
    step=0.5,
    slices=("kind", "behavioural"),
    baseline="the model that training started from, asked in its own template",
    asking=Asking(rows=assistant_rows, columns=ASKED, score=score_answers, for_scoring=FOR_SCORING, options=_cut),
)
