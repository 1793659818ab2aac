"""What people read of an assistant beside its figures: answers, shares by kind, and samples."""

from pathlib import Path

import numpy as np
import pandas as pd

from tasks.measures.scores import BASELINE, NEAREST, OURS, ROW, TEST, answer_column, by_row
from tasks.measures.tables import for_spreadsheets

PREFIXES = {OURS: "", BASELINE: "baseline_", NEAREST: "nearest_"}
"""How the names of a contender's columns begin."""
COLUMNS = {"exact": "correct", "contains": "contains", "rouge_l": "rouge_l"}
"""Measures of the test split by their columns in answers.csv."""
METRICS = {"exact": "exact_match", "contains": "contains_answer", "rouge_l": "rouge_l"}
"""The metrics of the same measures."""


def write_evidence(rows: pd.DataFrame, scores: pd.DataFrame, *, samples: int, evidence: Path) -> None:
    """The answers to the test split, the shares by kind, and some samples; `rows` are those of `assistant_rows`."""
    table = with_scores(rows, scores)
    test = table[table["part"] == TEST]
    _write_answers(test, evidence)
    _write_kinds(test, evidence)
    general = table[table["part"] == "general"]
    write_samples(test if general.empty else general, samples, evidence)


def with_scores(rows: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The rows with each contender's answer and measures, under the contender's prefix."""
    table = rows.set_index(ROW)
    answers = scores.drop_duplicates(ROW).set_index(ROW)
    for contender, prefix in PREFIXES.items():
        table[f"{prefix}answer"] = answers[answer_column(contender)]
        measures = by_row(scores, contender)
        for measure in COLUMNS:
            table[f"{prefix}{measure}"] = measures[measure].astype(float) if measure in measures else np.nan
    return table.reset_index()


def _write_answers(test: pd.DataFrame, evidence: Path) -> None:
    """`answers.csv`: a row of the test split each; a measure that does not apply to it is blank."""
    columns = ["id", "kind", "wording", "system", "history", "instruction", "input", "output"]
    table = test[columns].copy()
    for prefix in PREFIXES.values():
        table[f"{prefix}answer"] = test[f"{prefix}answer"]
        for measure in METRICS:
            values = test[f"{prefix}{measure}"]
            table[f"{prefix}{COLUMNS[measure]}"] = values if measure == "rouge_l" else as_words(values)
    for_spreadsheets(table).to_csv(evidence / "answers.csv", index=False, float_format="%.4f")


def as_words(values: pd.Series) -> pd.Series:
    """0 and 1 as False and True; blank stays blank."""
    return values.map({0.0: False, 1.0: True})


def _write_kinds(test: pd.DataFrame, evidence: Path) -> None:
    """`by_kind.csv`: a row a kind; and `not_ahead.csv`, those in which the model is not ahead of the baseline."""
    measures = [measure for measure in METRICS if test[measure].notna().any()]
    scores = pd.DataFrame({"kind": test["kind"], "rows": 1})
    for measure in measures:
        for prefix in PREFIXES.values():
            scores[f"{prefix}{METRICS[measure]}"] = test[f"{prefix}{measure}"]
    means = dict.fromkeys(scores.columns.drop(["kind", "rows"]), "mean")
    by_kind = scores.groupby("kind").agg({"rows": "sum", **means})
    for measure in measures:
        metric = METRICS[measure]
        by_kind[f"{metric}_gain"] = by_kind[metric] - by_kind[f"baseline_{metric}"]
    by_kind.to_csv(evidence / "by_kind.csv", float_format="%.4f")
    gains = by_kind[[f"{METRICS[measure]}_gain" for measure in measures if measure != "contains"]]
    is_ahead = gains.bfill(axis=1).iloc[:, 0] > 0
    by_kind[~is_ahead].dropna(axis="columns", how="all").to_csv(evidence / "not_ahead.csv", float_format="%.4f")


def write_samples(table: pd.DataFrame, samples: int, evidence: Path) -> None:
    """A draw of questions with the answer, what was expected, and what the base says, for people to read."""
    shown = table.sample(min(samples, len(table)), random_state=1).sort_index()
    entries = ["# Answers of the assistant"]
    for row in shown.to_dict("records"):
        answer = " ".join(row["answer"].split())
        expected = " ".join(row["expected"].split())
        baseline = " ".join(row["baseline_answer"].split())
        entries.append(
            f"**{row['question']}**\n\n- answer: {answer}\n- expected: {expected}\n- its base says: {baseline}"
        )
    (evidence / "samples.md").write_text("\n\n".join(entries) + "\n")
