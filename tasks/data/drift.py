"""How far the rows of today are from those of before: the stability index of labels, sources, lengths and words."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from llm.errors import UserError

SMALLEST = 1e-4  # a share that is empty counts as this much: one that comes or goes is much, and no infinity
BINS = 10  # of lengths, each with as many rows of before
WORDS = 200  # the most frequent ones of before; all others are one more
SOME, MUCH = 0.1, 0.25  # how the index is read, by custom
WORD = re.compile(r"\w+|[^\w\s]")
LABELS = ("label", "kind")  # columns that say what a row is
NO_PROPERTY = ("id", "source")
FETCH = "`dvc fetch --all-commits` brings what a remote has"


@dataclass(frozen=True)
class Drift:
    """How far one property has moved."""

    name: str
    """Such as `label`, `length of body` or `words of body`."""
    index: float
    """The population stability index: 0 where all shares are as they were."""

    @property
    def said(self) -> str:
        """What the number means, in a word."""
        return "little" if self.index < SOME else "some" if self.index < MUCH else "much"


def stability_index(before: Mapping[object, float], now: Mapping[object, float]) -> float:
    """The population stability index of two counts by the same keys: the sum of (q - p) ln(q / p) over their shares.

    It is the Kullback-Leibler divergence (1951) in both directions together. Raises UserError where one counts nothing.
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
    """How far the rows `now` are from those `before`: labels, sources, lengths and words of each column of text.

    Lengths are in characters, in BINS intervals with equally many rows of before; words are the WORDS most frequent
    ones of before, and all others as one. Under SOME little has moved, above MUCH much; of few rows, chance alone moves
    about the number of bins by that of rows. Raises UserError where one side has no rows, or not these columns.
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
            continue  # a column that is empty has no words; its lengths have said so
        words = [Counter(word for text in side for word in WORD.findall(text.lower())) for side in texts]
        known = {word for word, _ in words[0].most_common(WORDS)}
        kept = (Counter({word: count for word, count in side.items() if word in known}) for side in words)
        rest = (sum(count for word, count in side.items() if word not in known) for side in words)
        sides = ({**side, None: more} for side, more in zip(kept, rest, strict=True))
        found.append(Drift(f"words of {column}", stability_index(*sides)))
    return found


def moved(before: pd.DataFrame, now: pd.DataFrame, *, sources: bool = False) -> list[Drift]:
    """How far each property of a dataset's rows has moved: its label, then the lengths and words of each text.

    With `sources` also where they come from, which says nothing of what they are.
    """
    label = next((name for name in LABELS if name in now and name in before), None)
    texts = [
        name
        for name in now
        if name in before and name not in (*NO_PROPERTY, label) and now[name].map(type).eq(str).all()
    ]
    source = "source" if sources and label != "source" and all("source" in table for table in (before, now)) else None
    return drift(before, now, texts, label, source)
