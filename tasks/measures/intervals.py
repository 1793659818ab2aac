"""Confidence intervals by bootstrap: over test rows, or over wordings and the rows within them."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

RESAMPLES, SEED = 2000, 1
FEWEST = 6  # rows that an interval takes: of so many that all agree a sign test, too, is sure at 95 %

Ends = tuple[float, float] | tuple[None, None]


class Wordings(NamedTuple):
    """Of each row its kind and, within that, its wording: rows of one wording are right or wrong together."""

    kinds: np.ndarray
    wordings: np.ndarray

    def resamples(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Numbers of rows, RESAMPLES times: of each kind as many wordings as it has, of each as many rows as it has."""
        both = np.stack([pd.factorize(each)[0] for each in self], axis=1)
        order = np.lexsort(both.T[::-1])
        pairs, first, sizes = np.unique(both[order], axis=0, return_index=True, return_counts=True)
        _, start, kind, count = np.unique(pairs[:, 0], return_index=True, return_inverse=True, return_counts=True)
        for _ in range(RESAMPLES):
            drawn = start[kind] + generator.integers(count[kind])
            rows = sizes[drawn]
            yield order[np.repeat(first[drawn], rows) + generator.integers(np.repeat(rows, rows))]


def interval(
    statistic: Callable[..., np.ndarray], *rows: Sequence | np.ndarray, wordings: Wordings | None = None
) -> Ends:
    """The 95 % interval of a statistic over test rows, by percentile bootstrap (Efron 1979).

    `statistic` takes arrays of one length and gives a number; with a parameter `axis` it is called for many resamples
    at once, which is faster. Of a difference between two models that answered the same rows it is the interval of the
    paired test: they differ where it leaves out zero. Fewer than FEWEST rows have no ends.

    With `wordings` they are resampled within their kinds, and rows within them (two stages; Davison and Hinkley 1997,
    section 3.8): the interval is then also of other wordings, as far as so few of a kind can say. `statistic` has to
    take `axis`.
    """
    arrays = [np.asarray(each) for each in rows]
    if len(arrays[0]) < FEWEST:
        return None, None
    if wordings is not None:
        resamples = wordings.resamples(np.random.default_rng(SEED))
        values = [statistic(*(each[drawn] for each in arrays), axis=-1) for drawn in resamples]
        low, high = np.percentile(values, [2.5, 97.5])
        return float(low), float(high)
    result = bootstrap(
        arrays, statistic, n_resamples=RESAMPLES, batch=100, paired=True, method="percentile", axis=-1, rng=SEED
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def with_interval(name: str, value: float, ends: Ends) -> dict[str, float]:
    """A metric and the ends of its interval, under names of their own, where there are any.

    Rows that are all alike leave no interval: no resample knows what others would be.
    """
    low, high = ends
    return {name: value} | ({} if low is None or low == high else {f"{name}_low": low, f"{name}_high": high})


def lead(
    name: str, ours: Sequence | np.ndarray, baseline: Sequence | np.ndarray, wordings: Wordings | None = None
) -> dict[str, float]:
    """By how much the mean over rows is above the baseline's on the same rows, with the ends of the paired interval."""
    gains = np.asarray(ours, dtype=float) - np.asarray(baseline, dtype=float)
    return with_interval(f"{name}_gain", float(gains.mean()), interval(np.mean, gains, wordings=wordings))
