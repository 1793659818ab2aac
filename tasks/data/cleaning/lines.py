"""Long lines that rows have in common: replies quote each other, and newsletters have whole paragraphs again.

Two mails of one thread are no near duplicates, and yet whoever learned the one has read most of the other.

Emails alone are held against this. Of the default corpus's 194 documents of validation and test none has half of its
long lines in splits before, and 0.1% of the lines are there. Of instructions 3 of 1,433 questions have, by slots that a
task is made from; 23 answers have, of kinds (who the assistant is, small talk) whose few answers are to be learned.
"""

import re
from collections import Counter
from itertools import chain

import numpy as np
import pandas as pd
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from tasks.data.cleaning.record import drop
from tasks.data.splits import SPLITS

LONG = 40  # characters of a line
HALF = 0.5  # of a row's long lines
# Rows, and a share of all: a line that more have, such as a disclaimer, is no sign of a thread. Of the default mails a
# newsletter's lines stand in 1.26%, and no line in more.
FEW, SHARE = 30, 0.013
PAIRS = 1_000_000  # of rows that have a line in common, compared at a time: memory for all would grow with their square


def long_lines(text: str) -> set[str]:
    """Its lines of at least LONG characters, as words in lower case: how often they are quoted does not count."""
    lines = (" ".join(re.findall(r"[^\W_]+", line.lower())) for line in text.split("\n") if len(line) >= LONG)
    return {line for line in lines if len(line) >= LONG}


def own_lines(text: pd.Series) -> pd.Series:
    """The long lines of each row but those that more than FEW rows have, and more than SHARE of all."""
    lines = text.map(long_lines)
    rows = Counter(chain.from_iterable(lines))
    common = {line for line, count in rows.items() if count > max(FEW, SHARE * len(text))}
    return lines.map(lambda each: each - common)


def line_groups(text: pd.Series) -> pd.Series:
    """Number the groups of rows of which one has half of its long lines in another, and of chains of such."""
    rows = [sorted(lines) for lines in own_lines(text)]
    sizes = np.array([len(lines) for lines in rows])
    columns = pd.factorize(np.array([line for lines in rows for line in lines], dtype=object))[0]
    ends = np.concatenate([[0], np.cumsum(sizes)])
    lines = csr_array((np.ones(len(columns), np.int32), columns, ends), shape=(len(rows), len(columns)))
    holders = lines.T.tocsr()
    compared = np.cumsum(lines @ np.diff(holders.indptr))  # rows of its lines, of each row and those before
    all_rows = np.arange(len(rows), dtype=np.int32)
    number, start = all_rows, 0
    while start < len(rows):
        end = max(
            start + 1, int(np.searchsorted(compared, (compared[start - 1] if start else 0) + PAIRS, side="right"))
        )
        common = (lines[start:end] @ holders).tocoo()
        first, other = common.row + start, common.col
        near = common.data >= HALF * np.minimum(sizes[first], sizes[other])
        begun = np.unique(number, return_index=True)[1][number]  # the first row of each row's group so far
        pairs = np.concatenate([first[near], all_rows]), np.concatenate([other[near], begun])
        graph = coo_array((np.ones(len(pairs[0]), np.int32), pairs), shape=(len(rows), len(rows)))
        number, start = connected_components(graph, directed=False)[1], end
    return pd.Series(number, index=text.index)


def shares_before(table: pd.DataFrame, text: pd.Series) -> pd.Series:
    """The share of each row's long lines that stand in splits before its own; 0 for one without any, and for train."""
    lines, known = own_lines(text), set()
    shares = pd.Series(0.0, index=table.index)
    for split in SPLITS:
        own = lines[table["split"] == split]
        shares[own.index] = [len(each & known) / max(len(each), 1) for each in own]
        known = known.union(*own)
    return shares


def without_known_lines(table: pd.DataFrame, text: pd.Series) -> pd.DataFrame:
    """The rows but those of validation and test that have half of their long lines in splits before theirs.

    `line_groups` keeps two such rows together; of these the lines come from several.
    """
    shares = shares_before(table, text)
    reasons = shares.map(lambda share: f"{share:.0%} of its long lines stand in splits before").where(shares >= HALF)
    return drop("long_lines", table, reasons, text)
