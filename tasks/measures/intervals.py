"""Confidence intervals by bootstrap: over test rows, or over wordings and the rows within them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

RESAMPLES, SEED = 2000, 1
FEWEST = 6  # rows that an interval takes: of so many that all agree a sign test, too, is sure at 95 %

Ends = tuple[float, float] | tuple[None, None]
Statistic = Callable[..., np.ndarray | float]
"""Takes arrays of one shape, and gives a number for each of their last axes."""


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
    if len(columns[0]) < FEWEST:
        return None, None
    if wordings is not None:
        resamples = wordings.resamples(np.random.default_rng(SEED))
        values = []
        for drawn in resamples:
            resampled = [column[drawn] for column in columns]
            values.append(float(statistic(*resampled)))
        low, high = np.percentile(values, [2.5, 97.5])
        return float(low), float(high)

    def over_last_axis(*resampled: np.ndarray, axis: int) -> np.ndarray | float:
        return statistic(*resampled)

    result = bootstrap(
        columns,
        over_last_axis,
        n_resamples=RESAMPLES,
        batch=100,
        vectorized=True,
        paired=True,
        method="percentile",
        axis=-1,
        rng=SEED,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def mean(values: np.ndarray) -> np.ndarray:
    """The mean over rows."""
    return values.mean(axis=-1)


def share(hits: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The total of one column over that of another; 0 where that is 0."""
    totals = among.sum(axis=-1)
    return np.divide(hits.sum(axis=-1), totals, out=np.zeros(totals.shape), where=totals > 0)
