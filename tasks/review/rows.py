"""What a review shows of single rows: what changed, the worst errors, and the mean of each slice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from tasks.measures.description import Evaluation
from tasks.measures.intervals import interval, mean
from tasks.measures.scores import ANSWER, BASELINE, OURS, ROW, answer_column, by_row, first_measures
from tasks.registry.main_figures import lower_is_better
from tasks.review.comparison import Comparison, Row, Slice
from tasks.review.metrics import Difference

ERRORS = 8  # of the challenger that the page shows
CONFIDENCE = "confidence"
"""The measure that breaks ties between equal scores: the most confident error comes first."""


@dataclass(frozen=True)
class JudgedRows:
    """The rows of a challenger's score table, judged: `score`, above which the better answer is."""

    rows: pd.DataFrame
    """With `score` and `baseline`, and, beside a champion, its `champion` score and answer."""
    is_paired: bool

    @property
    def gain(self) -> pd.Series:
        """By how much the challenger is better than the champion."""
        return self.rows["score"] - self.rows["champion"]


def judged_rows(evaluation: Evaluation, table: pd.DataFrame, joined: pd.DataFrame | None) -> JudgedRows:
    """The rows of a challenger's table, or those of `joined` alone, which has the champion as the baseline."""
    judged = _signed(evaluation, table).rename(columns={OURS: "score"})
    confidence = by_row(table).get(CONFIDENCE)
    judged[CONFIDENCE] = 0.0 if confidence is None else confidence.reindex(judged.index)
    if BASELINE not in judged:
        judged[BASELINE] = None
    if joined is None:
        return JudgedRows(rows=judged.assign(champion_answer=None), is_paired=False)
    champions = _signed(evaluation, joined)[[BASELINE, answer_column(BASELINE)]]
    champions.columns = ["champion", "champion_answer"]
    return JudgedRows(rows=judged.join(champions, how="inner"), is_paired=True)


def _signed(evaluation: Evaluation, table: pd.DataFrame) -> pd.DataFrame:
    """A table's rows with the measure that judges each, such that more is better."""
    rows = first_measures(table, evaluation.judged_by).set_index(ROW)
    is_turned = rows["measure"].map(lower_is_better)
    for column in rows.columns.intersection([OURS, BASELINE]):
        scores = rows[column].astype(float)
        rows[column] = scores.where(~is_turned, -scores)
    return rows


def with_rows(comparison: Comparison, evaluation: Evaluation, judged: JudgedRows) -> Comparison:
    """The comparison, with slices, changed answers and errors."""
    rows = judged.rows
    wrong = rows[rows["score"] < 1].sort_values(["score", CONFIDENCE], ascending=[True, False], kind="stable")
    comparison = replace(
        comparison,
        rows=len(rows),
        errors=_shown(wrong[:ERRORS]),
        slices=[
            _slice(judged, part, by=by, name=str(name))
            for by in evaluation.slices
            for name, part in rows.groupby(by, sort=True).groups.items()
        ],
    )
    if not judged.is_paired:
        return comparison
    gain = judged.gain
    lost = gain[gain <= -evaluation.step].sort_values(kind="stable")
    won = gain[gain >= evaluation.step].sort_values(ascending=False, kind="stable")
    return replace(comparison, lost=_shown(rows.loc[lost.index]), won=_shown(rows.loc[won.index]))


def _shown(rows: pd.DataFrame) -> Sequence[Row]:
    return [
        Row(
            id=row["id"],
            text=row["question"],
            expected=row["expected"],
            challenger=row[ANSWER],
            champion=row["champion_answer"],
        )
        for row in rows.reset_index().to_dict("records")
    ]


def _slice(judged: JudgedRows, part: pd.Index, *, by: str, name: str) -> Slice:
    scores = judged.rows.loc[part]
    value = float(scores["score"].mean())
    baseline = None if scores[BASELINE].isna().any() else float(scores[BASELINE].mean())
    summary = Slice(by=by, name=name, rows=len(part), challenger=value, baseline=baseline)
    if not judged.is_paired:
        return summary
    gain = judged.gain.loc[part]
    low, high = interval(mean, gain.to_numpy(float))
    difference = Difference(float(gain.mean()), low, high)
    return replace(summary, champion=value - difference.value, difference=difference)
