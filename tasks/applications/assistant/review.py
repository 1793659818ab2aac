"""Two versions of an assistant on the same test rows and on what people ask: what a rule can check, and how near the
others come."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llm.objectives.assistant.rows import contains_answer, is_right
from tasks.applications.assistant import behaviour
from tasks.applications.assistant.rouge import rouge_l
from tasks.measures.description import Evidence, Review, Sample
from tasks.measures.intervals import Wordings
from tasks.measures.tables import FORMULA
from tasks.training.setup import split_file

SLICES = ("kind", "asked")


def rows(data: Path) -> pd.DataFrame:
    """The rows of the test split as a served model takes them, and after them what people ask (`asked`), each with the
    row that judges its answer."""
    test = pd.read_parquet(split_file(data, "test")).assign(asked=None, judged_by=None)
    people = [
        behaviour.question_of(row)._asdict()
        | {"id": row.id, "asked": f"{name}: {row.slice}", "judged_by": row, "output": behaviour.expected(row)}
        for name, each in behaviour.read(Path("data/behavioural") / data.name).items()
        for row in each
    ]
    if people:
        more = pd.DataFrame(people).assign(kind=None, wording=None, answers=[[]] * len(people))
        test = pd.concat([test, more], ignore_index=True)
    turns = [list(each) for each in test["history"]]
    asked = zip(turns, test["instruction"], test["input"], strict=True)
    return test[["id", "kind", "wording", "asked", "judged_by", "instruction", "input", "system", "answers"]].assign(
        history=[json.dumps(each, ensure_ascii=False) if each else "" for each in turns],
        text=[" ".join([*history, instruction, about]).strip() for history, instruction, about in asked],
        expected=test["output"],
    )


def score(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """1 or 0 for an answer that a rule checks, ROUGE-L for the others; a row without an answer has 0."""
    scored = []
    columns = (answers["output"], answers["error"], rows["answers"], rows["expected"], rows["judged_by"])
    for output, error, accepted, expected, judged_by in zip(*columns, strict=True):
        if not isinstance(output, str):
            scored.append((0.0, f"no answer: {error}"))
        elif judged_by is not None:
            scored.append((float(not behaviour.failures(judged_by, output)), output))
        elif len(accepted):
            scored.append((float(is_right(output, accepted)), output))
        else:
            scored.append((rouge_l(expected, output), output))
    return pd.DataFrame(scored, columns=["score", "answer"], index=rows.index).assign(confidence=0.0)


def measure(rows: pd.DataFrame, answers: pd.DataFrame) -> dict[str, Sample]:
    """Exact match of the test rows that a rule checks and the share that contain a right answer, ROUGE-L of the others;
    and the shares of good answers to what people ask."""
    scores, checkable = score(rows, answers)["score"].to_numpy(), rows["answers"].map(len).to_numpy() > 0
    test = rows["asked"].isna().to_numpy()
    texts = answers["output"].map(lambda output: output if isinstance(output, str) else "")
    contains = np.array(list(map(contains_answer, texts, rows["answers"])), dtype=float)
    parts = {"exact_match": (scores, checkable), "contains_answer": (contains, checkable)}
    parts |= {"rouge_l": (scores, test & ~checkable)}
    kinds, wordings = rows["kind"].to_numpy(), rows["wording"].to_numpy()
    samples = {
        name: Sample(np.mean, (values[part],), Wordings(kinds[part], wordings[part]))
        for name, (values, part) in parts.items()
        if part.any()
    }
    for name, metric in behaviour.METRICS.items():
        if (part := rows["asked"].str.startswith(f"{name}: ").fillna(False).to_numpy(bool)).any():
            samples[metric] = Sample(np.mean, (scores[part],))
    return samples


def evidence(rows: pd.DataFrame, folder: Path) -> Evidence | None:
    """The answers in the evaluation's `answers.csv` and `general.csv`, and the scores of its baseline by slice."""
    if not (path := folder / "answers.csv").exists():
        return None
    people = rows["asked"].notna()
    table = _read(path).set_index(rows.index[~people])
    correct, near = table["baseline_correct"] == "True", table["baseline_rouge_l"].astype(float)
    checkable = rows["answers"][~people].map(len) > 0
    answers = [table["answer"]]
    scores = [correct.where(checkable, near)]
    if (path := folder / "general.csv").exists():
        table = _read(path).set_index("id").reindex(rows["id"][people]).set_index(rows.index[people]).dropna()
        answers.append(table["answer"])
        scores.append(table["baseline_right"] == "True")
    baseline = pd.concat(scores).astype(float)
    slices = {(by, str(name)): float(mean) for by in SLICES for name, mean in baseline.groupby(rows[by]).mean().items()}
    return pd.DataFrame({"output": pd.concat(answers), "error": None}), slices


def _read(path: Path) -> pd.DataFrame:
    """Evidence as text, without what spreadsheets need."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    marked = table["answer"].str.startswith(tuple(f"'{each}" for each in FORMULA))
    return table.assign(answer=table["answer"].where(~marked, table["answer"].str[1:]))


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
    slices=SLICES,
    step=0.5,
    options=options,
)
