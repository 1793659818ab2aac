"""Drift between two sets of rows: the population stability index of labels and lengths."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from llm.errors import UserError

SMALLEST = 1e-4  # counts for an empty share, so that a value that comes or goes adds much but not infinity
BINS = 10  # intervals of lengths, each with equally many rows of before
LABELS = ("label", "kind")  # columns of a row's kind
NO_PROPERTY = ("id", "source")
FETCH = "`dvc fetch --all-commits` brings what a remote has"


@dataclass(frozen=True)
class Drift:
    """The drift of one property."""

    name: str
    """Such as `label` or `length of body`."""
    index: float
    """The population stability index: 0 if all shares are equal."""


def stability_index(before: Mapping[Any, float], now: Mapping[Any, float]) -> float:
    """The population stability index of two counts by the same keys: the sum of (q - p) ln(q / p) over their shares.

    It is the sum of the Kullback-Leibler divergences (1951) in both directions. Raises UserError if one of the counts
    is empty.
    """
    counts = pd.DataFrame({"before": pd.Series(before, dtype=float), "now": pd.Series(now, dtype=float)}).fillna(0)
    totals = counts.sum()
    if not totals.all():
        raise UserError("drift: there is nothing to compare: one side has no rows")
    shares = (counts / totals).clip(lower=SMALLEST)
    return float(((shares["now"] - shares["before"]) * np.log(shares["now"] / shares["before"])).sum())


def moved(before: pd.DataFrame, now: pd.DataFrame) -> list[Drift]:
    """The drift of each property of a dataset's rows: the label, then the lengths of each column of texts.

    Lengths are in characters, in BINS intervals with equally many rows of before. By convention an index below 0.1 is
    small, above 0.25 large; chance alone gives about the number of bins divided by the number of rows. Raises UserError
    if one side has no rows.
    """
    common = [name for name in now if name in before]
    label = next((name for name in LABELS if name in common), None)
    drifts: list[Drift] = []
    if label:
        counts_before = before[label].astype(str).value_counts().to_dict()
        counts_now = now[label].astype(str).value_counts().to_dict()
        drifts.append(Drift(label, stability_index(counts_before, counts_now)))
    for column in common:
        if column in (*NO_PROPERTY, label) or not now[column].map(lambda value: isinstance(value, str)).all():
            continue
        texts_before = before[column].fillna("").astype(str)
        texts_now = now[column].fillna("").astype(str)
        drifts.append(Drift(f"length of {column}", _length_index(texts_before, texts_now)))
    return drifts


def _length_index(before: pd.Series, now: pd.Series) -> float:
    lengths = before.str.len().to_numpy()
    edges = np.unique(np.quantile(lengths, np.arange(1, BINS) / BINS)) if len(lengths) else np.array([])
    bins_before = Counter(np.searchsorted(edges, lengths).tolist())
    bins_now = Counter(np.searchsorted(edges, now.str.len().to_numpy()).tolist())
    return stability_index(bins_before, bins_now)
