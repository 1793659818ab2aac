"""The way of a table, such as of emails, from raw files to its splits; read it from top to bottom.

The tables of labelled texts and instructions fit in memory. The corpus does not: see tasks/data/corpus.py.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from llm.errors import UserError
from llm.files import atomic_file
from tasks.data.duplicates import first_of_groups
from tasks.data.findings import Findings
from tasks.data.inbox import FEEDBACK, IN_INBOX
from tasks.data.personal import mask_rows
from tasks.data.shingles import text_hashes
from tasks.data.splits import SPLITS, Split, check_train_only, draw_splits, given_splits, is_train_only

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation

ANSWER = "output"  # the column of a right answer that is not compared with the inbox's
FEWEST_LINES = 10  # a shorter text may well repeat its lines
REPEATED = 0.7  # share of lines that repeat earlier ones; Rae et al. 2021 drop web pages from 0.3 on
LONG = 40  # characters of a line
HALF = 0.5  # of a row's long lines
# Rows, and a share of all: a line that more have, such as a disclaimer, is no sign of a thread. Of the default mails a
# newsletter's lines stand in 1.26%, and no line in more.
FEW, SHARE = 30, 0.013


class Dataset(Protocol):
    """A module of tasks/data that says how to read a table, and what to expect of it."""

    TEXTS: Mapping[str, tuple[int, int]]
    """The columns of texts, by which rows are compared, with the least and most characters of a row."""
    Params: type[Split]
    """Its `preprocess` section in params.yaml."""

    def read(self, folder: Path, params: Any, findings: Findings) -> pd.DataFrame:
        """All rows of the files below `folder`: id, source, the texts, and perhaps label, kind and group.

        Rows of one group stay in one split.
        """
        ...

    def expectations(self, params: Any) -> "list[Expectation]":
        """The expectations of Great Expectations on the rows."""
        ...


def read(dataset: Dataset, folder: Path, params: Split, findings: Findings) -> pd.DataFrame:
    """The clean rows of the raw files. Raises UserError for files or rows that can't be read, and without any row."""
    table = dataset.read(folder, params=params, findings=findings)
    findings.raise_problems()
    if table.empty:
        raise UserError(f"{folder}: there is not one row in its files; `threestage data check` says what is in a file")
    check_train_only(table, params)
    return clean(table, dataset, params=params, findings=findings)


def read_inbox(dataset: Dataset, folder: Path, params: Split, findings: Findings) -> pd.DataFrame:
    """The clean rows of the inbox, with personal data masked; none if it is empty."""
    if not any(path.is_file() and not path.name.startswith(".") for path in folder.rglob("*")):
        return pd.DataFrame()
    table = dataset.read(folder, params=params, findings=findings)
    findings.raise_problems()
    table = table.assign(id=IN_INBOX + table["id"], source=IN_INBOX + table["source"])
    return clean(table, dataset, params=params, findings=findings)


def clean(table: pd.DataFrame, dataset: Dataset, params: Split, findings: Findings) -> pd.DataFrame:
    """Mask personal data if it is masked in all rows, and drop rows from which no model should learn."""
    if params.mask_personal_data == "all":
        table = mask_rows(table)
    table = drop_lengths(table, dataset.TEXTS, findings)
    table = drop_repetition(table, dataset.TEXTS, findings)
    if "label" in table:
        table = drop_contradictions(table, dataset.TEXTS, findings)
    return table.reset_index(drop=True)


def compared_text(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """The text by which rows are compared: that of these columns, which hold texts or lists of texts."""
    texts: list[str] = []
    for cells in table[list(columns)].to_numpy().tolist():
        parts: list[str] = []
        for cell in cells:
            parts += [cell] if isinstance(cell, str) else cell
        texts.append("\n".join(filter(None, parts)))
    return pd.Series(texts, index=table.index, dtype=object)


def drop_lengths(table: pd.DataFrame, lengths: Mapping[str, tuple[int, int]], findings: Findings) -> pd.DataFrame:
    """Drop rows with a text that is too short or too long: an outlier does not stop the stage."""
    reasons = pd.Series(None, index=table.index, dtype=object)
    for column, (least, most) in lengths.items():
        size = table[column].str.len()
        is_wrong = reasons.isna() & ~size.between(least, most)
        reasons[is_wrong] = column + " has " + size[is_wrong].astype(str) + f" characters, not {least:,} to {most:,}"
    return findings.drop_rows(table, "lengths", reasons=reasons, text=compared_text(table, list(lengths)))


def repeated_lines(text: str) -> float:
    """The share of lines, without blank ones, that repeat an earlier line of the text; 0 for a short text."""
    if text.count("\n") < FEWEST_LINES:
        return 0.0
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return 1 - len(set(lines)) / len(lines) if len(lines) >= FEWEST_LINES else 0.0


def drop_repetition(table: pd.DataFrame, columns: Mapping[str, Any], findings: Findings) -> pd.DataFrame:
    """Drop rows whose lines mostly repeat each other."""
    text = compared_text(table, list(columns))
    shares = text.map(repeated_lines)
    reasons = shares.map("{:.0%} of its lines repeat others".format).where(shares > REPEATED)
    return findings.drop_rows(table, "repetition", reasons=reasons, text=text)


def drop_contradictions(table: pd.DataFrame, columns: Mapping[str, Any], findings: Findings) -> pd.DataFrame:
    """Drop equal rows with different labels: it is not clear which is right."""
    text = compared_text(table, list(columns))
    is_contradicted = table.groupby(text)["label"].transform("nunique") > 1
    reasons = ("equal ones have other labels than " + table["label"]).where(is_contradicted)
    return findings.drop_rows(table, "contradictions", reasons=reasons, text=text)


def drop_duplicates(table: pd.DataFrame, dataset: Dataset, params: Split, findings: Findings) -> pd.DataFrame:
    """Drop all near duplicates but the first."""
    text = compared_text(table, list(dataset.TEXTS))
    first = first_of_groups(text.tolist(), params.near_duplicate)
    is_first = first == np.arange(len(table))
    reasons = ("as " + table["id"].iloc[first].set_axis(table.index)).where(~is_first)
    return findings.drop_rows(table, "near_duplicates", reasons=reasons, text=text).reset_index(drop=True)


def split(table: pd.DataFrame, dataset: Dataset, params: Split, findings: Findings) -> pd.DataFrame:
    """Give every row its `unit`, a hash that rows of one group share, and its `split`.

    A row of validation or test leaves if its unit has rows of a `train_only` source, and so does a row of train if its
    unit is in a file named validation or test.
    """
    text = compared_text(table, list(dataset.TEXTS))
    units = text_hashes(table.get("group", text))
    given = given_splits(table)
    train_only = is_train_only(table, params)
    is_drawn = given.isna().to_numpy()
    splits = given.astype(object)
    if (is_drawn & ~train_only).any():
        labels = table.loc[is_drawn, "label"] if "label" in table else None
        splits[is_drawn] = draw_splits(units[is_drawn], params, train_only[is_drawn], labels=labels)
    else:
        splits[is_drawn] = SPLITS[0]
    is_tested = np.isin(units, units[given.isin(SPLITS[1:])])
    reasons = pd.Series(None, index=table.index, dtype=object)
    reasons[splits.isna()] = "its group has rows of a source that is learned from only"
    reasons[is_drawn & is_tested] = "its group is tested on"
    table = table.assign(unit=units.view(np.int64), split=splits)  # MLflow has no uint64
    return findings.drop_rows(table, "train_only", reasons=reasons, text=text).reset_index(drop=True)


def drop_shared_lines(table: pd.DataFrame, column: str, findings: Findings) -> pd.DataFrame:
    """Drop rows of validation and test that have half of their long lines in earlier splits.

    Replies quote each other, and newsletters repeat whole paragraphs: two mails of one thread are no near duplicates,
    but a model that trained on one has read most of the other. A subject keeps most threads in one split; this is for
    the others.
    """
    shares = shares_before(table, column)
    reasons = shares.map("{:.0%} of its long lines stand in splits before".format).where(shares >= HALF)
    return findings.drop_rows(table, "long_lines", reasons=reasons, text=table[column]).reset_index(drop=True)


def long_lines(text: str) -> set[str]:
    """A text's lines of at least LONG characters, as words in lower case, without marks of quotes."""
    lines = (" ".join(re.findall(r"[^\W_]+", line.lower())) for line in text.split("\n") if len(line) >= LONG)
    return {line for line in lines if len(line) >= LONG}


def shares_before(table: pd.DataFrame, column: str) -> pd.Series:
    """The share of each row's long lines that also occur in earlier splits: 0 in train, and without long lines."""
    lines = table[column].map(long_lines)
    rows = Counter(chain.from_iterable(lines))
    common = {line for line, count in rows.items() if count > max(FEW, SHARE * len(table))}
    lines = lines.map(lambda row_lines: row_lines - common)
    earlier: set[str] = set()
    shares: list[pd.Series] = []
    for name in SPLITS:
        of_split = lines[table["split"] == name]
        shares.append(of_split.map(partial(_share_among, lines=earlier)).astype(float))
        earlier = earlier.union(*of_split)
    return pd.concat(shares).reindex(table.index)


def _share_among(row_lines: set[str], lines: set[str]) -> float:
    return len(row_lines & lines) / max(len(row_lines), 1)


def add_inbox(
    table: pd.DataFrame, inbox: pd.DataFrame, dataset: Dataset, params: Split, findings: Findings
) -> pd.DataFrame:
    """Add the inbox's rows to train alone: what is tested is never learned.

    Of near duplicates in the inbox the last counts. A row that is near to a tested one, or of its group, is dropped; a
    row of train gives way to one that is near to it. Answers are not compared. Feedback is in train `feedback_weight`
    times, as it is one row against thousands.
    """
    if inbox.empty:
        return table
    columns = [column for column in dataset.TEXTS if column != ANSWER]
    texts = [*compared_text(table, columns), *compared_text(inbox, columns)]
    group = first_of_groups(texts, params.near_duplicate)
    group_of_row = group[: len(table)]
    group_of_inbox = group[len(table) :]
    is_tested = (table["split"] != SPLITS[0]).to_numpy()
    is_near = np.isin(group_of_inbox, group_of_row[is_tested])
    if "group" in table:
        is_near |= inbox["group"].isin(table.loc[is_tested, "group"]).to_numpy()
    reasons = pd.Series(None, index=inbox.index, dtype=object)
    reasons[pd.Series(group_of_inbox).duplicated(keep="last").to_numpy()] = "a later row says something else of it"
    reasons[is_near] = "too near to what is tested on"
    is_replaced = np.isin(group_of_row, group_of_inbox[reasons.isna().to_numpy()])
    inbox_text = compared_text(inbox, list(dataset.TEXTS))
    inbox = findings.drop_rows(inbox, "inbox", reasons=reasons, text=inbox_text)
    reasons = pd.Series("the inbox says something else of it", table.index).where(is_replaced)
    table_text = compared_text(table, list(dataset.TEXTS))
    table = findings.drop_rows(table, "inbox", reasons=reasons, text=table_text)
    units = text_hashes(inbox["group"] if "group" in inbox else compared_text(inbox, list(dataset.TEXTS)))
    if params.mask_personal_data == "feedback":  # compared with other rows first: masks make equal rows differ
        inbox = mask_rows(inbox)
    inbox = inbox.assign(unit=units.view(np.int64), split=SPLITS[0])
    feedback = inbox[inbox["source"] == IN_INBOX + FEEDBACK]
    copies = [feedback.assign(id=feedback["id"] + f" x{number}") for number in range(2, params.feedback_weight + 1)]
    return pd.concat([table, inbox, *copies], ignore_index=True)


def write_splits(table: pd.DataFrame, folder: Path) -> None:
    """Write each split as a table, `folder/<split>.parquet`.

    By the column `unit` a review knows which of its test rows another version trained on.
    """
    columns = [column for column in table if column not in ("group", "unit", "split")]
    for name in SPLITS:
        rows = table.loc[table["split"] == name, [*columns, "unit"]]
        with atomic_file(folder / f"{name}.parquet") as file:
            rows.to_parquet(file, index=False)
