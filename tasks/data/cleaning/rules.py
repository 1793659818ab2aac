"""Rules for whole rows: length, repetition, and long lines that appear in several splits.

Replies quote each other, and newsletters repeat whole paragraphs: two mails of one thread are no near duplicates, but a
model that trained on one has read most of the other. A subject keeps most threads in one split
(tasks/datasets/emails.py); `shares_before` is for the others. Only emails need it: none of the default corpus's
194 documents of validation and test has half of its long lines in splits before, and 3 of 1,433 questions of the
instructions have, by slots that a task is made from.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import chain

import pandas as pd

from tasks.data.cleaning.record import drop
from tasks.data.splits import SPLITS

FEWEST_LINES = 10  # characters; a shorter text may well repeat its lines
REPEATED = 0.7  # share of lines that repeat earlier ones
LONG = 40  # characters of a line
HALF = 0.5  # of a row's long lines
# Rows, and a share of all: a line that more have, such as a disclaimer, is no sign of a thread. Of the default mails a
# newsletter's lines stand in 1.26%, and no line in more.
FEW, SHARE = 30, 0.013


def within_lengths(table: pd.DataFrame, text: pd.Series, lengths: Mapping[str, tuple[int, int]]) -> pd.DataFrame:
    """The rows whose fields have a valid length: outliers are dropped, and don't stop the stage."""
    reasons = pd.Series(None, index=table.index, dtype=object)
    for column, (least, most) in lengths.items():
        size = table[column].str.len()
        is_wrong = reasons.isna() & ~size.between(least, most)
        reasons[is_wrong] = column + " has " + size[is_wrong].astype(str) + f" characters, not {least:,} to {most:,}"
    return drop("lengths", table, reasons=reasons, text=text)


def repeated_lines(text: str) -> float:
    """The share of lines, without blank ones, that repeat an earlier line of the text; 0 for a short text."""
    if text.count("\n") < FEWEST_LINES:
        return 0.0
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return 1 - len(set(lines)) / len(lines) if len(lines) >= FEWEST_LINES else 0.0


def without_repetition(table: pd.DataFrame, text: pd.Series) -> pd.DataFrame:
    """The rows without those whose lines mostly repeat each other (Rae et al. 2021 drop web pages from a share of 0.3
    on)."""
    shares = text.map(repeated_lines)
    reasons = shares.map(lambda share: f"{share:.0%} of its lines repeat others").where(shares > REPEATED)
    return drop("repetition", table, reasons=reasons, text=text)


def long_lines(text: str) -> set[str]:
    """A text's lines of at least LONG characters, as words in lower case, without marks of quotes."""
    lines = (" ".join(re.findall(r"[^\W_]+", line.lower())) for line in text.split("\n") if len(line) >= LONG)
    return {line for line in lines if len(line) >= LONG}


def own_lines(text: pd.Series) -> pd.Series:
    """The long lines of each row, without those that are in more than FEW rows and more than SHARE of all."""
    lines = text.map(long_lines)
    rows = Counter(chain.from_iterable(lines))
    common = {line for line, count in rows.items() if count > max(FEW, SHARE * len(text))}
    return lines.map(lambda row_lines: row_lines - common)


def _share_of(row_lines: set[str], lines: set[str]) -> float:
    """The share of a row's lines that are among these."""
    return len(row_lines & lines) / max(len(row_lines), 1)


def shares_before(table: pd.DataFrame, text: pd.Series) -> pd.Series:
    """The share of each row's long lines that also occur in earlier splits: 0 in train, and without long lines."""
    lines = own_lines(text)
    earlier: set[str] = set()
    shares = pd.Series(0.0, index=table.index)
    for split in SPLITS:
        of_split = lines[table["split"] == split]
        shares[of_split.index] = of_split.map(partial(_share_of, lines=earlier)).astype(float)
        earlier = earlier.union(*of_split)
    return shares
