"""The score table: built from measures, kept as `scores.parquet`, and joined with another version's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

FILE = "scores.parquet"
TEST = "test"
"""The part of the test split."""
ROW = ["part", "id"]
"""The columns that name a test row."""
ANSWER = "answer"
OURS, BASELINE, NEAREST = "ours", "baseline", "nearest"
SHOWN = 600  # characters of a question that people read


def answer_column(contender: str) -> str:
    """The column of a contender's answers."""
    return ANSWER if contender == OURS else f"{contender}_{ANSWER}"


def score_table(rows: pd.DataFrame, **contenders: pd.DataFrame) -> pd.DataFrame:
    """The score table of test rows, from each contender's measures.

    `rows` has `part`, `id`, `question`, `expected` and the slices. The tables of the contenders, of which `ours` is
    one, have the same index, a column for each measure, and the column `answer`. A measure that is missing for ours
    does not apply to the row, and has none in the table.
    """
    texts = rows.assign(question=rows["question"].str[:SHOWN])
    for contender, scored in contenders.items():
        texts[answer_column(contender)] = scored[ANSWER]
    tables = []
    for measure in contenders[OURS].columns.drop(ANSWER):
        table = texts.assign(measure=measure)
        for contender, scored in contenders.items():
            table[contender] = scored.get(measure, np.nan)
        tables.append(table.dropna(subset=OURS))
    return pd.concat(tables, ignore_index=True)


def by_row(table: pd.DataFrame, contender: str = OURS) -> pd.DataFrame:
    """A contender's scores with a line for each test row, in the table's order, and a column for each measure."""
    rows = table[ROW].drop_duplicates()
    scores = table.pivot(index=ROW, columns="measure", values=contender)
    return scores.reindex(pd.MultiIndex.from_frame(rows))


def test_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The texts and slices of a table, with a line for each test row, in its order."""
    return table.drop_duplicates(ROW).set_index(ROW).drop(columns="measure")


def first_measures(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """A line for each test row of a table, with the first of these measures that it has."""
    rank = {measure: number for number, measure in enumerate(measures)}
    ranks = table["measure"].map(rank).dropna().sort_values(kind="stable")
    return table.loc[ranks.index].drop_duplicates(ROW).sort_index()


def join(table: pd.DataFrame, champion: pd.DataFrame) -> pd.DataFrame:
    """A challenger's scores of the rows and measures that both versions have, with the champion as the baseline."""
    keys = [*ROW, "measure"]
    columns = champion[[*keys, OURS, ANSWER]].rename(columns={OURS: BASELINE, ANSWER: answer_column(BASELINE)})
    own = table.drop(columns=[BASELINE, answer_column(BASELINE)], errors="ignore")
    return own.merge(columns, on=keys)


def write_scores(table: pd.DataFrame, evidence: Path) -> None:
    """Write the table into an evaluation's evidence."""
    table.to_parquet(evidence / FILE, index=False, compression="zstd")


def read_scores(evidence: Path) -> pd.DataFrame | None:
    """The table of an evaluation's evidence; None if it was made before evaluations wrote one."""
    path = evidence / FILE
    return pd.read_parquet(path) if path.exists() else None
