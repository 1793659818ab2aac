"""The rows that a model of labels is measured on: the test split, and texts that were written to test it.

A file `data/behavioural/<dataset>/<name>.jsonl` gives the metrics `<name>_<label>` and, if it has texts of every label,
`<name>_balanced_accuracy`. Nothing learns from these texts. A file whose name begins with `validation` is for choices
and is not measured.
"""

import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.data.mail import clean_mail
from tasks.measures.baseline import texts_of
from tasks.measures.scores import TEST
from tasks.training.setup import split_file

MAIL = ("subject", "body")
"""The columns of a mail."""
SLICES = ("label", "source", "words", "behavioural")
"""The columns that say which slice a row is in."""
FOLDER = Path("data/behavioural")
EVERYDAY = {"test": "everyday"}
"""What metrics call a file that has another name."""
LENGTHS = {"to 50": 50, "51 to 200": 200, "201 to 500": 500, "over 500": np.inf}
RUN = 6  # words in a row that no behavioural text may share with what was learned from

logger = logging.getLogger(__name__)


def label_rows(data: Path, columns: tuple[str, ...] = MAIL) -> pd.DataFrame:
    """The texts of the test split, and after them the behavioural ones, each with its slices and its `expected` label.

    The slices `label`, `source` and `words` are of the test split alone, `behavioural` of the others.
    """
    test = pd.read_parquet(split_file(data, TEST)).assign(part=TEST)
    lengths = test[columns[-1]].str.split().map(len)
    test["words"] = pd.cut(lengths, [-1, *LENGTHS.values()], labels=list(LENGTHS)).astype(str)
    test["source"] = test["source"].str.split("/").str[-2:].str.join("/")
    test["expected"] = test["label"]
    tables = [test]
    files = {EVERYDAY.get(file.stem, file.stem): file for file in (FOLDER / data.name).glob("*.jsonl")}
    for part, file in sorted(files.items()):
        texts = pd.read_json(file, lines=True, dtype=False)
        is_alike = {*columns, "label"} <= {*texts.columns} and {*texts["label"]} <= {*test["label"]}
        if is_alike and not part.startswith("validation"):
            texts = texts.rename(columns={"label": "expected"})
            if columns == MAIL:
                mails = texts[list(MAIL)].itertuples(index=False)
                texts[list(MAIL)] = [clean_mail(subject, body) for subject, body in mails]
            tables.append(texts.assign(part=part, behavioural=f"{part}: " + texts["slice"]))
    rows = pd.concat(tables, ignore_index=True).reindex(columns=["part", "id", *SLICES, "expected", *columns])
    rows = rows.astype(object).where(rows.notna(), None)  # pyrefly: ignore[bad-argument-type] - the stubs lack None
    return rows.assign(question=rows[list(columns)].agg(" | ".join, axis=1))


def without_learned(rows: pd.DataFrame, learned: pd.DataFrame, columns: tuple[str, ...] = MAIL) -> pd.DataFrame:
    """The rows without behavioural texts that share their subject or RUN words in a row with what was learned from."""
    learned_runs = set().union(*map(_runs, texts_of(learned, columns)))
    is_alike = pd.Series([not learned_runs.isdisjoint(_runs(text)) for text in texts_of(rows, columns)])
    if "subject" in columns:
        is_alike |= _subjects(rows).isin(set(_subjects(learned)) - {""})
    is_alike &= rows["part"] != TEST
    if is_alike.any():
        names = ", ".join(rows.loc[is_alike, "id"])
        reason = f"their subject or {RUN} words in a row are in train or validation"
        logger.warning("%d behavioural texts left out, %s", is_alike.sum(), f"{reason}: {names}")
    return rows[~is_alike].reset_index(drop=True)


def _runs(text: str) -> set[tuple[str, ...]]:
    """The runs of RUN words of a text."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[first : first + RUN]) for first in range(len(words) - RUN + 1)}


def _subjects(table: pd.DataFrame) -> pd.Series:
    """The letters of each subject, without what marks an answer."""
    return table["subject"].str.lower().str.replace(r"^(?:\s*(?:re|fwd?)\s*:)+|[\W_]+", "", regex=True)
