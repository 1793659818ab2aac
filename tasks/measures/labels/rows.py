"""The rows that a model of labels is measured on: the test split, and texts that were written to test it.

A file `data/behavioural/<dataset>/<name>.jsonl` gives the metrics `<name>_<label>` and, if it has texts of every label,
`<name>_balanced_accuracy`. Nothing learns from these texts.
Those whose name begins with `validation` are for choices, and are not measured here.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from llm.objectives.classifier.texts import row_texts
from tasks.data.mail import clean_mail
from tasks.measures.scores import TEST
from tasks.measures.tables import short_paths
from tasks.training.setup import split_file

MAIL = ("subject", "body")
"""The columns of a mail."""
RUN = 6  # words in a row that no behavioural text may share with what was learned from
FOLDER = Path("data/behavioural")
EVERYDAY = {"test": "everyday"}
"""What metrics call a file that has another name."""
LENGTHS = {"to 50": 50, "51 to 200": 200, "201 to 500": 500, "over 500": np.inf}

logger = logging.getLogger(__name__)


def label_rows(data: Path, columns: Sequence[str] = MAIL) -> pd.DataFrame:
    """The texts of the test split, and after them the behavioural ones, each with its slices and its `expected` label.

    The slices `label`, `source` and `words` are of the test split alone, `behavioural` of the others.
    """
    test = pd.read_parquet(split_file(data, TEST))[["id", "source", *columns, "label"]]
    test = test.rename(columns={"label": "expected"}).assign(part=TEST, behavioural=None)
    test["label"] = test["expected"]
    test["source"] = short_paths(test["source"])
    test["words"] = lengths(test[columns[-1]])
    tables = [test]
    for name, file in behavioural_files(data.name).items():
        texts = read_behavioural(file, columns, set(test["expected"]))
        if texts is not None:
            texts = texts.rename(columns={"label": "expected"}).assign(part=name)
            texts["behavioural"] = name + ": " + texts["slice"]
            tables.append(texts)
    rows = pd.concat(tables, ignore_index=True)[test.columns].astype(object)
    rows = rows.where(rows.notna(), None)  # pyrefly: ignore[bad-argument-type] - the stubs of pandas lack None
    rows["question"] = rows[list(columns)].agg(" | ".join, axis=1)
    return rows


def texts_of(table: pd.DataFrame, columns: Sequence[str] = MAIL) -> list[str]:
    """Rows as a model reads them that reads these columns."""
    return row_texts(table[column] for column in columns)


def numbers_of(names: Iterable[str], labels: Sequence[str]) -> np.ndarray:
    """Labels as their numbers."""
    return np.array([labels.index(name) for name in names])


def lengths(texts: pd.Series) -> pd.Series:
    """In which of LENGTHS, of words, each text is."""
    words = texts.str.split().map(len)
    return pd.cut(words, [-1, *LENGTHS.values()], labels=list(LENGTHS)).astype(str)


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
    mails = [clean_mail(subject, body) for subject, body in zip(table["subject"], table["body"], strict=True)]
    return table.assign(subject=[subject for subject, _ in mails], body=[body for _, body in mails])


def without_learned(rows: pd.DataFrame, learned: pd.DataFrame, columns: Sequence[str] = MAIL) -> pd.DataFrame:
    """The rows without behavioural texts that share their subject or RUN words in a row with what was learned from."""
    learned_runs: set[tuple[str, ...]] = set().union(*_runs(learned, columns))
    is_alike = ~_runs(rows, columns).map(learned_runs.isdisjoint)
    if "subject" in columns:
        is_alike |= _subjects(rows).isin(set(_subjects(learned)) - {""})
    is_alike &= rows["part"] != TEST
    if is_alike.any():
        texts = f"{is_alike.sum()} of {(rows['part'] != TEST).sum()} behavioural texts left out"
        names = ", ".join(rows.loc[is_alike, "id"])
        reason = f"their subject or {RUN} words in a row stand in train or validation"
        logger.warning("%s: %s", f"{texts}: {reason}", names)
    return rows[~is_alike].reset_index(drop=True)


def _runs(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """The runs of RUN words of each text."""
    texts = pd.Series(texts_of(table, columns), table.index, dtype=object)
    return texts.str.lower().str.findall(r"[^\W_]+").map(_runs_of)


def _runs_of(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[first : first + RUN]) for first in range(len(words) - RUN + 1)}


def _subjects(table: pd.DataFrame) -> pd.Series:
    """The letters of each subject, without what marks an answer."""
    return table["subject"].str.lower().str.replace(r"^(?:\s*(?:re|fwd?)\s*:)+|[\W_]+", "", regex=True)
