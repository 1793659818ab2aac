"""Drift between two sets of rows: the population stability index of labels and lengths."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pandas as pd

LABELS = ("label", "kind")
"""Columns that say of which kind a row is."""
NO_PROPERTY = ("id", "source", "unit")
SMALLEST = 1e-4  # counts for an empty share, so that a value that comes or goes adds much but not infinity

Profile = Mapping[str, Mapping[str, int]]
"""The counts of the values of each property."""


def profile(rows: pd.DataFrame) -> Profile:
    """How many rows have each label, and each length of each text in steps of half an octave."""
    counts: dict[str, Mapping[str, int]] = {}
    for column in rows:
        values = rows[column].dropna()
        if column in NO_PROPERTY or not all(isinstance(value, str) for value in values):
            continue
        if column in LABELS:
            counts[column] = values.value_counts().to_dict()
        else:
            octaves = np.round(2 * np.log2(1 + values.str.len().to_numpy(float))).astype(int)
            counts[f"length of {column}"] = dict(Counter(map(str, octaves)))
    return counts


def rows_of(counts: Profile) -> int:
    """The number of rows in a profile."""
    return max((sum(values.values()) for values in counts.values()), default=0)


def stability_index(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """The population stability index of two counts: the sum of (q - p) ln(q / p) over their shares.

    It is the sum of the Kullback-Leibler divergences (1951) in both directions. By convention an index below 0.1 is
    small, above 0.25 large; chance alone gives about the number of values divided by the number of rows.
    """
    counts = pd.DataFrame({"before": pd.Series(before, dtype=float), "now": pd.Series(now, dtype=float)}).fillna(0)
    shares = (counts / counts.sum()).clip(lower=SMALLEST)
    return float(((shares["now"] - shares["before"]) * np.log(shares["now"] / shares["before"])).sum())


def drift(before: Profile, now: Profile) -> dict[str, float]:
    """The index of each property that both profiles have, largest first."""
    indices = {name: stability_index(before[name], now[name]) for name in now if before.get(name) and now[name]}
    return dict(sorted(indices.items(), key=lambda item: -item[1]))
