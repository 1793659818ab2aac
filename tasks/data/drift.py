"""Drift between two sets of rows: the population stability index of labels, sources, lengths and words."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llm.errors import UserError

SMALLEST = 1e-4  # counts for an empty share, so that a value that comes or goes adds much but not infinity
BINS = 10  # intervals of lengths, each with equally many rows of before
WORDS = 200  # most frequent words of before; all others count as one more
SOME, MUCH = 0.1, 0.25  # the conventional reading of the index
WORD = re.compile(r"\w+|[^\w\s]")
LABELS = ("label", "kind")  # columns of a row's kind
NO_PROPERTY = ("id", "source")
FETCH = "`dvc fetch --all-commits` brings what a remote has"


@dataclass(frozen=True)
class Drift:
    """The drift of one property."""

    name: str
    """Such as `label`, `length of body` or `words of body`."""
    index: float
    """The population stability index: 0 if all shares are equal."""

    @property
    def said(self) -> str:
        """The meaning of the number, in a word."""
        return "little" if self.index < SOME else "some" if self.index < MUCH else "much"


def stability_index(before: Mapping[object, float], now: Mapping[object, float]) -> float:
    """The population stability index of two counts by the same keys: the sum of (q - p) ln(q / p) over their shares.

    It is the sum of the Kullback-Leibler divergences (1951) in both directions. Raises UserError if one of the counts
    is empty.
    """
    keys = list(before.keys() | now.keys())
    shares = []
    for counts in (before, now):
        if not (total := sum(counts.values())):
            raise UserError("drift: there is nothing to compare: one side has no rows")
        shares.append(np.maximum([counts.get(key, 0) / total for key in keys], SMALLEST))
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def drift(
    before: pd.DataFrame,
    now: pd.DataFrame,
    text_columns: Sequence[str],
    label_column: str | None = None,
    source_column: str | None = None,
) -> list[Drift]:
    """The drift from the rows `before` to the rows `now`: of labels, sources, and lengths and words of each text
    column.

    Lengths are in characters, in BINS intervals with equally many rows of before. Words are the WORDS most frequent
    ones of before, and all others as one. An index below SOME is small, above MUCH large; chance alone gives about the
    number of bins divided by the number of rows. Raises UserError if one side has no rows, or lacks a column.
    """
    counted = [column for column in (label_column, source_column) if column]
    for column in (*text_columns, *counted):
        if missing := [side for side, table in (("before", before), ("now", now)) if column not in table]:
            raise UserError(f"drift: the rows {missing[0]} have no column {column!r}")
    found = []
    for column in counted:
        sides = (before[column].astype(str), now[column].astype(str))
        found.append(Drift(column, stability_index(*(side.value_counts().to_dict() for side in sides))))
    for column in text_columns:
        texts = [table[column].fillna("").astype(str) for table in (before, now)]
        lengths = [side.str.len().to_numpy() for side in texts]
        edges = np.unique(np.quantile(lengths[0], np.arange(1, BINS) / BINS)) if len(lengths[0]) else np.array([])
        bins = (Counter(np.searchsorted(edges, side, side="left").tolist()) for side in lengths)
        found.append(Drift(f"length of {column}", stability_index(*bins)))
        if not all(any(side.str.strip()) for side in texts):
            continue  # an empty column has no words; its lengths show it
        words = [Counter(word for text in side for word in WORD.findall(text.lower())) for side in texts]
        known = {word for word, _ in words[0].most_common(WORDS)}
        kept = (Counter({word: count for word, count in side.items() if word in known}) for side in words)
        rest = (sum(count for word, count in side.items() if word not in known) for side in words)
        sides = ({**side, None: more} for side, more in zip(kept, rest, strict=True))
        found.append(Drift(f"words of {column}", stability_index(*sides)))
    return found


def moved(before: pd.DataFrame, now: pd.DataFrame, *, sources: bool = False) -> list[Drift]:
    """The drift of each property of a dataset's rows: the label, then the lengths and words of each text.

    With `sources` also that of the sources, which tells nothing about the rows themselves.
    """
    label = next((name for name in LABELS if name in now and name in before), None)
    texts = [
        name
        for name in now
        if name in before and name not in (*NO_PROPERTY, label) and now[name].map(type).eq(str).all()
    ]
    source = "source" if sources and label != "source" and all("source" in table for table in (before, now)) else None
    return drift(before, now, texts, label, source)
