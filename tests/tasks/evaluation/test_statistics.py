import numpy as np
import pytest
from scipy.stats import norm

from tasks.evaluation.statistics import interval, picture, with_interval


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    rows = np.random.default_rng(1).normal(size=2000)
    half = norm.ppf(0.975) * rows.std() / len(rows) ** 0.5
    assert interval(lambda x, axis=-1: x.mean(axis=axis), rows) == pytest.approx(
        (rows.mean() - half, rows.mean() + half), abs=0.1 * half
    )


def test_a_paired_difference_is_surer_than_its_parts():
    one = np.random.default_rng(1).normal(size=300)
    other = one + 0.1 + 0.01 * np.random.default_rng(2).normal(size=300)
    low, high = interval(lambda a, b, axis=-1: (b - a).mean(axis=axis), one, other)
    assert 0.09 < low < high < 0.11


def test_the_same_rows_give_the_same_interval_and_one_row_its_value():
    rows = np.arange(10.0)
    assert interval(np.mean, rows) == interval(np.mean, rows)
    assert interval(np.mean, np.array([0.5])) == (0.5, 0.5)
    assert with_interval("f1", 0.5, (0.4, 0.6)) == {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6}


def test_a_picture_has_the_same_bytes_each_time(tmp_path):
    for name in ("one", "two"):
        with picture(tmp_path / f"{name}.svg", "x", "y") as axes:
            axes.plot([0, 1], [1, 0], label="a line")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
