"""Two versions of an assistant on the same test rows: what a rule can check, and how near the others come."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm.objectives.assistant.rows import contains_answer, is_right
from tasks.applications import Evidence, Review, Sample
from tasks.evaluation.assistant.rouge import rouge_l
from tasks.evaluation.statistics import FORMULA, Wordings
from tasks.training.setup import split_file


def rows(data: Path) -> pd.DataFrame:
    """The rows of the test split as a served model takes them."""
    test = pd.read_parquet(split_file(data, "test"))
    turns = [list(each) for each in test["history"]]
    asked = zip(turns, test["instruction"], test["input"], strict=True)
    return test[["id", "kind", "wording", "instruction", "input", "system", "answers"]].assign(
        history=[json.dumps(each, ensure_ascii=False) if each else "" for each in turns],
        text=[" ".join([*history, instruction, about]).strip() for history, instruction, about in asked],
        expected=test["output"],
    )


def score(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """1 or 0 for an answer that a rule checks, ROUGE-L for the others; a row without an answer has 0."""
    scored = []
    columns = (answers["output"], answers["error"], rows["answers"], rows["expected"])
    for output, error, accepted, expected in zip(*columns, strict=True):
        if not isinstance(output, str):
            scored.append((0.0, f"no answer: {error}"))
        elif len(accepted):
            scored.append((float(is_right(output, accepted)), output))
        else:
            scored.append((rouge_l(expected, output), output))
    return pd.DataFrame(scored, columns=["score", "answer"], index=rows.index).assign(confidence=0.0)


def measure(rows: pd.DataFrame, answers: pd.DataFrame) -> dict[str, Sample]:
    """Exact match of the rows that a rule checks and the share that contain a right answer, ROUGE-L of the others."""
    scores, checkable = score(rows, answers)["score"].to_numpy(), rows["answers"].map(len).to_numpy() > 0
    texts = answers["output"].map(lambda output: output if isinstance(output, str) else "")
    contains = np.array(list(map(contains_answer, texts, rows["answers"])), dtype=float)
    parts = {"exact_match": (scores, checkable), "contains_answer": (contains, checkable)}
    parts |= {"rouge_l": (scores, ~checkable)}
    kinds, wordings = rows["kind"].to_numpy(), rows["wording"].to_numpy()
    return {
        name: Sample(np.mean, (values[part],), Wordings(kinds[part], wordings[part]))
        for name, (values, part) in parts.items()
        if part.any()
    }


def evidence(rows: pd.DataFrame, folder: Path) -> Evidence | None:
    """The answers in the evaluation's `answers.csv`, and the scores of its baseline by kind."""
    if not (path := folder / "answers.csv").exists():
        return None
    table = pd.read_csv(path, keep_default_na=False).set_index(rows.index)
    marked = table["answer"].str.startswith(tuple(f"'{each}" for each in FORMULA))  # for spreadsheets
    output = table["answer"].where(~marked, table["answer"].str[1:])
    checkable = rows["answers"].map(len) > 0
    its = table["baseline_correct"].map({"True": 1.0, "False": 0.0, True: 1.0, False: 0.0})
    scores = its.where(checkable, table["baseline_rouge_l"].astype(float))
    return pd.DataFrame({"output": output, "error": None}), {
        ("kind", str(kind)): float(mean) for kind, mean in scores.groupby(rows["kind"]).mean().items()
    }


def options(evaluate: Any) -> dict[str, Any]:
    """An answer is cut where the evaluation cuts it."""
    return {"max_new_tokens": evaluate.max_new_tokens}


REVIEW = Review(
    main="exact_match",
    unit="questions",
    columns=("instruction", "input", "system", "history"),
    rows=rows,
    score=score,
    measure=measure,
    evidence=evidence,
    baseline="the model that training started from, asked in its own template",
    slices=("kind",),
    step=0.5,
    options=options,
)
