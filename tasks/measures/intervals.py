"""Confidence intervals by bootstrap: over test rows, or over wordings and the rows within them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

RESAMPLES, SEED = 2000, 1
FEWEST = 6  # rows that an interval takes: of so many that all agree a sign test, too, is sure at 95 %

Ends = tuple[float, float] | tuple[None, None]
Statistic = Callable[..., float]
"""A number from one or more columns of the same rows."""


@dataclass(frozen=True)
class Wordings:
    """The kind of each row and, within that, its wording: rows of one wording are right or wrong together."""

    kinds: np.ndarray
    wordings: np.ndarray

    def resamples(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Numbers of rows, RESAMPLES times: of each kind as many wordings as it has, of each as many rows as it has."""
        numbers = np.stack([pd.factorize(self.kinds)[0], pd.factorize(self.wordings)[0]], axis=1)
        order = np.lexsort(numbers.T[::-1])
        pairs, first, sizes = np.unique(numbers[order], axis=0, return_index=True, return_counts=True)
        _, start, kind, count = np.unique(pairs[:, 0], return_index=True, return_inverse=True, return_counts=True)
        for _ in range(RESAMPLES):
            drawn = start[kind] + generator.integers(count[kind])
            rows = sizes[drawn]
            yield order[np.repeat(first[drawn], rows) + generator.integers(np.repeat(rows, rows))]


def interval(statistic: Statistic, *columns: np.ndarray, wordings: Wordings | None = None) -> Ends:
    """The 95 % interval of a statistic over test rows, by percentile bootstrap (Efron 1979).

    Of a difference between two models that answered the same rows it is the interval of the paired test: they differ
    where it leaves out zero. Fewer than FEWEST rows have no ends.

    With `wordings` they are resampled within their kinds, and rows within them (two stages; Davison and Hinkley 1997,
    section 3.8): the interval is then also of other wordings, as far as so few of a kind can say.
    """
    count = len(columns[0])
    if count < FEWEST:
        return None, None
    generator = np.random.default_rng(SEED)
    if wordings is None:
        resamples = (generator.integers(count, size=count) for _ in range(RESAMPLES))
    else:
        resamples = wordings.resamples(generator)
    values = []
    for rows in resamples:
        resampled = [column[rows] for column in columns]
        values.append(statistic(*resampled))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean(values: np.ndarray) -> float:
    """The mean over rows."""
    return float(values.mean())


def share(hits: np.ndarray, among: np.ndarray) -> float:
    """The total of one column over that of another; 0 where that is 0."""
    total = among.sum()
    return float(hits.sum() / total) if total > 0 else 0.0
