"""Texts in data/behavioural, written to test a classifier; no model learns from them.

A file `data/behavioural/<dataset>/<name>.jsonl` gives the metrics `<name>_<label>`. Those whose name begins with
`validation` are for choices, and are not measured here.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.data.mail import clean_mail
from tasks.measures.labels.baseline import MAIL, Reader, numbers_of, texts_of
from tasks.measures.tables import for_spreadsheets

RUN = 6  # words in a row that no behavioural text may share with what was learned from
FOLDER = Path("data/behavioural")
EVERYDAY = {"test": "everyday"}
"""What metrics call a file that has another name."""

logger = logging.getLogger(__name__)


def behavioural_files(dataset: str) -> dict[str, Path]:
    """The files of a dataset's behavioural tests, by the beginning of their metrics and in its order."""
    files = [file for file in (FOLDER / dataset).glob("*.jsonl") if not file.stem.startswith("validation")]
    return dict(sorted((EVERYDAY.get(file.stem, file.stem), file) for file in files))


def read_behavioural(file: Path, columns: Sequence[str], labels: set[str]) -> pd.DataFrame | None:
    """The texts of a file; None where they have other columns or labels than these. Mails are cleaned as others are."""
    table = pd.read_json(file, lines=True, dtype=False)
    if not {*columns} <= {*table.columns} or not {*table["label"]} <= labels:
        return None
    if tuple(columns) != MAIL:
        return table
    cleaned = [clean_mail(*row) for row in zip(table["subject"], table["body"], strict=True)]
    return table.assign(subject=[subject for subject, _ in cleaned], body=[body for _, body in cleaned])


def measure_behavioural(
    dataset: str, learned: pd.DataFrame, ours: Reader, its: Reader, evidence: Path
) -> dict[str, float]:
    """The shares of each label's behavioural texts that are right, of model and baseline; a row a text as evidence."""
    labels, shares, tables = ours.config.labels, {}, []
    for name, file in behavioural_files(dataset).items():
        if (rows := read_behavioural(file, ours.config.columns, set(labels))) is None:
            continue
        rows = unlike(rows, learned, ours.config.columns)
        if rows.empty:
            continue
        texts, actual = texts_of(rows, ours.config.columns), numbers_of(rows["label"], labels)
        probability = ours.probabilities(texts)
        predicted = ours.config.decide(probability)
        right, its_right = predicted == actual, its.config.decide(its.probabilities(texts)) == actual
        columns = {
            "predicted": np.array(labels)[predicted],
            "probability": probability[np.arange(len(rows)), predicted].round(4),
            "right": right,
            "baseline_right": its_right,
        }
        for number, label in enumerate(labels):
            if (actual == number).any():
                shares[f"{name}_{label}"] = float(right[actual == number].mean())
                shares[f"baseline_{name}_{label}"] = float(its_right[actual == number].mean())
        tables.append(rows[["id", "label", "slice"]].assign(**columns))
    if tables:
        for_spreadsheets(pd.concat(tables)).to_csv(evidence / "behavioural.csv", index=False)
    return shares


def unlike(rows: pd.DataFrame, learned: pd.DataFrame, columns: Sequence[str] = MAIL) -> pd.DataFrame:
    """The behavioural texts that share neither their subject nor RUN words in a row with what was learned from."""

    def runs(table: pd.DataFrame) -> pd.Series:
        texts = pd.Series(texts_of(table, columns), table.index, dtype=object)
        words = texts.str.lower().str.findall(r"[^\W_]+")
        return words.map(lambda each: {tuple(each[first : first + RUN]) for first in range(len(each) - RUN + 1)})

    def subjects(table: pd.DataFrame) -> pd.Series:
        return table["subject"].str.lower().str.replace(r"^(?:\s*(?:re|fwd?)\s*:)+|[\W_]+", "", regex=True)

    known = set().union(*runs(learned))
    alike = ~runs(rows).map(known.isdisjoint)
    if "subject" in columns:
        alike |= subjects(rows).isin(set(subjects(learned)) - {""})
    if alike.any():
        logger.warning(
            "%d of %d behavioural texts left out: their subject or %d words in a row stand in train or validation: %s",
            alike.sum(), len(rows), RUN, ", ".join(rows.loc[alike, "id"]),
        )  # fmt: skip
    return rows[~alike].reset_index(drop=True)
