"""What people ask: general questions, and harmless ones with alarming words."""

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from llm.chat import prompt_tokens
from llm.loaded_model import LoadedModel
from llm.objectives.assistant import Assistant, Question, answer_all
from tasks.applications.assistant import rubrics
from tasks.measures.intervals import interval, lead, with_interval
from tasks.measures.tables import for_spreadsheets

METRICS = {"general": "general_right", "harmless": "harmless_useful"}
"""The share of each file's rows with a good answer."""

Row = rubrics.Question


def read(folder: Path) -> dict[str, list[Row]]:
    """The rows of each file of METRICS in a folder, of those that are there. Raises UserError for a wrong row."""
    paths = {name: folder / f"{name}.jsonl" for name in METRICS}
    return {name: rubrics.read_rows(path) for name, path in paths.items() if path.exists()}


def question_of(row: Row) -> Question:
    """What a row asks."""
    return Question(row.instruction, row.input, history=tuple(row.history))


def expected(row: Row) -> str:
    """What a good answer is, for people to read."""
    return f"such as: {row.example}"


def answer(loaded: LoadedModel[Assistant], questions: Sequence[Question], max_new_tokens: int) -> list[str]:
    """Answers to questions, empty where the context has no room for one."""
    model, encoding = loaded
    lengths = [len(prompt_tokens(encoding, model.chat, each.messages())) for each in questions]
    fits = [length + max_new_tokens <= model.config.context_length for length in lengths]
    texts = iter(answer_all(loaded, list(compress(questions, fits)), max_new_tokens=max_new_tokens))
    return [next(texts) if fit else "" for fit in fits]


def failures(row: Row, answer: str) -> list[str]:
    """What is wrong with an answer to a row; nothing of a good one."""
    return rubrics.failures(row.rubric, answer, row.input)


def judged(rows: Mapping[str, Sequence[Row]], answers: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A row a question, with what is `right` and what `failed` of each one's answers.

    `answers` are to all rows, in their order, by whose they are: "", "baseline_" and so on.
    """
    asked = [(name, row) for name, each in rows.items() for row in each]
    table = pd.DataFrame(
        {"set": name, "id": row.id, "slice": row.slice} | question_of(row)._asdict() | {"expected": expected(row)}
        for name, row in asked
    )
    for who, texts in answers.items():
        failed = [failures(row, text) for (_, row), text in zip(asked, texts, strict=True)]
        table[f"{who}answer"], table[f"{who}right"] = list(texts), [not each for each in failed]
        table[f"{who}failed"] = list(map("; ".join, failed))
    return table


def measure_shares(table: pd.DataFrame) -> dict[str, float]:
    """METRICS with their intervals, the others', and the lead over the baseline; `general_right_ratio` is the share of
    general questions over the baseline's."""
    metrics: dict[str, float] = {}
    for name, part in table.groupby("set", sort=False):
        metric = METRICS[name]
        ours = part["right"].to_numpy(float)
        baseline = part["baseline_right"].to_numpy(float)
        nearest = part["nearest_right"].to_numpy(float)
        metrics |= with_interval(metric, float(ours.mean()), interval(np.mean, ours)) | lead(metric, ours, baseline)
        metrics |= {f"baseline_{metric}": float(baseline.mean()), f"nearest_{metric}": float(nearest.mean())}
    if baseline_share := metrics.get("baseline_general_right"):
        metrics["general_right_ratio"] = metrics["general_right"] / baseline_share
    return metrics


def write_evidence(table: pd.DataFrame, evidence: Path) -> None:
    """All questions with their answers, and the shares that are right by slice."""
    for_spreadsheets(table.drop(columns=["system", "history", "expected"])).to_csv(
        evidence / "general.csv", index=False
    )
    right = [name for name in table if name.endswith("right")]
    slices = table.groupby(["set", "slice"]).agg({"id": "size", **dict.fromkeys(right, "mean")})
    slices.rename(columns={"id": "rows"}).to_csv(evidence / "by_slice.csv", float_format="%.4f")
