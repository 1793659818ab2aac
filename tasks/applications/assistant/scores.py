"""The rows that an assistant answers, the measures of its answers, and the metrics of their table."""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm.objectives.assistant.loops import has_loop
from llm.objectives.assistant.rows import contains_answer, is_right
from tasks.applications.assistant.behaviour import METRICS, failures, question_of, read_questions
from tasks.applications.assistant.rouge import rouge_l
from tasks.measures.metrics import Metric
from tasks.measures.scores import BASELINE, TEST
from tasks.training.setup import split_file

ASKED = ("instruction", "input", "system", "history")
"""The columns that an assistant is asked with."""
RULE, WORDS, RUBRIC = "rule", "words", "rubric"
"""What checks an answer: a rule that knows right answers, the words that it shares with the expected one, a rubric."""
FOR_SCORING = ("answers", "row", "output")
"""Further columns of the rows that are no part of the score table."""


def assistant_rows(data: Path) -> pd.DataFrame:
    """The rows of the test split as a served model takes them, and after them what people ask, each with the row of
    its rubric.

    `answers` are the right answers that a rule compares with; free rows have none.
    """
    test = pd.read_parquet(split_file(data, TEST)).assign(part=TEST, behavioural=None, row=None)
    test["expected"] = test["output"]
    tables = [test]
    for part, rows in read_questions(data.name).items():
        asked = pd.DataFrame([question_of(row)._asdict() for row in rows])
        asked["id"] = [row.id for row in rows]
        asked["behavioural"] = [f"{part}: {row.slice}" for row in rows]
        asked["expected"] = [f"such as: {row.example}" for row in rows]
        asked["answers"] = [[] for _ in rows]
        asked["row"] = pd.Series(rows, dtype=object)
        tables.append(asked.assign(part=part, kind=None, wording=None, output=""))
    table = pd.concat(tables, ignore_index=True)
    turns = [list(history) for history in table["history"]]
    texts = zip(turns, table["instruction"], table["input"], strict=True)
    table["question"] = [" ".join([*history, instruction, about]).strip() for history, instruction, about in texts]
    table["history"] = [_as_json(history) for history in turns]
    table["checked_by"] = np.where(table["answers"].map(len) > 0, RULE, np.where(table["part"] == TEST, WORDS, RUBRIC))
    slices = ["kind", "wording", "behavioural", "checked_by"]
    return table[["part", "id", *slices, "question", "expected", *ASKED, *FOR_SCORING]]


def _as_json(turns: list[str]) -> str:
    """Earlier turns as a served model takes them."""
    return json.dumps(turns, ensure_ascii=False) if turns else ""


def score_answers(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The measures of answers, `output`: a row without one has the reason in `error`, and 0 in all.

    Rows of the test split have `rouge_l`, and with right answers to compare with `exact` and `contains`; what people
    ask has `right`. Free answers have `loop`, too.
    """
    scored = []
    texts = zip(rows.to_dict("records"), answers["output"], answers["error"], strict=True)
    for row, output, error in texts:
        is_answered = isinstance(output, str)
        measures = measures_of(row, output if is_answered else "")
        if not is_answered:
            measures = dict.fromkeys(measures, 0.0)
        scored.append({**measures, "answer": output if is_answered else f"no answer: {error}"})
    return pd.DataFrame(scored, index=rows.index)


def measures_of(row: Mapping[Hashable, Any], output: str) -> dict[str, float]:
    """The measures of one answer."""
    if row["part"] != TEST:
        return {"right": float(not failures(row["row"], output)), "loop": float(has_loop(output))}
    if len(row["answers"]):
        is_exact = is_right(output, row["answers"])
        contains = contains_answer(output, row["answers"])
        return {"exact": float(is_exact), "contains": float(contains), "rouge_l": rouge_l(row["expected"], output)}
    return {"rouge_l": rouge_l(row["expected"], output), "loop": float(has_loop(output))}


def assistant_metrics(scores: pd.DataFrame) -> Sequence[Metric]:
    """The metrics of a score table: intervals of the test split resample wordings, and rows within them.

    `exact_match` and `contains_answer` are of the rows that a rule checks, `rouge_l` of the others. `loops` is the
    share of free answers with a loop.
    """
    return [
        *(Metric(name, ("right",), where={"part": part}) for part, name in METRICS.items()),
        Metric("exact_match", ("exact",), over_wordings=True),
        Metric("contains_answer", ("contains",), over_wordings=True),
        Metric("rouge_l", ("rouge_l",), where={"checked_by": WORDS}, over_wordings=True),
        Metric("loops", ("loop",), where={}, logs=frozenset({BASELINE})),
        Metric("judge_score", ("judge_score",)),
    ]
