import numpy as np
import pytest
from scipy.stats import norm

from tasks.measures.intervals import RESAMPLES, Wordings, interval, mean, share


def test_interval_of_a_mean_is_that_of_the_normal_distribution():
    rows = np.random.default_rng(1).normal(size=2000)
    half = norm.ppf(0.975) * rows.std() / len(rows) ** 0.5
    assert interval(mean, rows) == pytest.approx((rows.mean() - half, rows.mean() + half), abs=0.1 * half)


def test_interval_of_a_paired_difference_is_narrower_than_its_parts():
    one = np.random.default_rng(1).normal(size=300)
    two = one + 0.1 + 0.01 * np.random.default_rng(2).normal(size=300)

    def lead(first: np.ndarray, second: np.ndarray) -> float:
        return mean(second - first)

    low, high = interval(lead, one, two)
    assert 0.09 < low < high < 0.11


def test_interval_is_the_same_each_time():
    rows = np.arange(10.0)
    assert interval(mean, rows) == interval(mean, rows)


def test_interval_of_few_rows_is_not_known():
    assert interval(mean, np.array([0.0, 0.0, 1.0, 1.0, 1.0])) == (None, None)
    assert interval(mean, np.full(6, -1.0)) == (-1.0, -1.0)  # a difference: all of six rows lost, which is no chance


def test_share_of_nothing_is_zero():
    among = np.array([1.0, 0.0, 1.0])
    assert (share(among * [1, 1, 0], among), share(among, 0 * among)) == (0.5, 0.0)


def test_wordings_are_resampled_within_kinds_and_rows_within_wordings():
    kinds = np.array(list("xyxyxyxx"))
    wordings = np.array(list("abacbcba"))  # the wording b is of both kinds
    resamples = list(Wordings(kinds=kinds, wordings=wordings).resamples(np.random.default_rng(1)))
    assert len(resamples) == RESAMPLES
    for rows in resamples:
        for kind in "xy":
            names, sizes = np.unique(wordings[kinds == kind], return_counts=True)
            drawn = wordings[rows[kinds[rows] == kind]]
            times = [(drawn == name).sum() / size for name, size in zip(names, sizes, strict=True)]
            assert sum(times) == len(names)  # as many wordings as there are, each with all of its rows
            assert all(time == int(time) for time in times)
    assert np.bincount(np.concatenate(resamples), minlength=8) / RESAMPLES == pytest.approx(np.ones(8), abs=0.1)


def test_interval_over_wordings_is_that_of_the_wordings_where_their_rows_agree():
    rows = np.random.default_rng(1).normal(size=600)
    kinds = np.zeros(600)
    own = np.arange(600)
    apart = interval(mean, rows, wordings=Wordings(kinds=kinds, wordings=own))
    assert apart == pytest.approx(interval(mean, rows), abs=0.01)
    alike = np.repeat(rows[:60], 10)
    together = interval(mean, alike, wordings=Wordings(kinds=kinds, wordings=np.repeat(own[:60], 10)))
    assert together == pytest.approx(interval(mean, rows[:60]), abs=0.04)
    low, high = interval(mean, alike)
    assert together[1] - together[0] > 2.5 * (high - low)
