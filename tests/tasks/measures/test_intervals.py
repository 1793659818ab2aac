import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from tasks.measures.intervals import RESAMPLES, Wordings, interval, lead, with_interval
from tasks.measures.pictures import picture
from tasks.measures.tables import for_spreadsheets, short_paths


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


def test_the_same_rows_give_the_same_interval():
    rows = np.arange(10.0)
    assert interval(np.mean, rows) == interval(np.mean, rows)
    assert with_interval("f1", 0.5, (0.4, 0.6)) == {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6}


def test_few_rows_and_rows_that_are_all_alike_are_sure_of_nothing():
    assert interval(np.mean, [0.0, 0.0, 1.0, 1.0, 1.0]) == (None, None)
    assert with_interval("f1", 1.0, interval(np.mean, [1.0] * 5)) == {"f1": 1.0}
    assert with_interval("f1", 1.0, interval(np.mean, [1.0] * 50)) == {"f1": 1.0}
    assert interval(np.mean, [-1.0] * 6) == (-1.0, -1.0)  # a difference: all of six rows lost, which is no chance


def test_a_lead_is_paired_by_row():
    found = lead("exact_match", [True] * 24 + [False] * 76, [False] * 6 + [True] * 18 + [False] * 76)
    assert found["exact_match_gain"] == pytest.approx(0.06)
    assert 0 < found["exact_match_gain_low"] < 0.06 < found["exact_match_gain_high"] < 0.12  # alone 24 % are 16 to 33


def test_wordings_are_resampled_within_kinds_and_rows_within_wordings():
    kinds, wordings = np.array(list("xyxyxyxx")), np.array(list("abacbcba"))  # the wording b is of both kinds
    drawn = list(Wordings(kinds, wordings).resamples(np.random.default_rng(1)))
    assert len(drawn) == RESAMPLES
    parts = {kind: np.unique(wordings[kinds == kind], return_counts=True) for kind in "xy"}
    for rows in drawn:
        for kind, (names, sizes) in parts.items():
            found = wordings[rows[kinds[rows] == kind]]
            times = [(found == name).sum() / size for name, size in zip(names, sizes, strict=True)]
            assert sum(times) == len(names)  # as many wordings as there are, each with all of its rows
            assert all(each == int(each) for each in times)
    assert np.bincount(np.concatenate(drawn), minlength=8) / RESAMPLES == pytest.approx(np.ones(8), abs=0.1)


def test_an_interval_over_wordings_is_that_of_the_rows_where_each_has_its_own_and_of_the_wordings_where_rows_agree():
    rows = np.random.default_rng(1).normal(size=600)
    kinds, own = np.zeros(600), np.arange(600)
    assert interval(np.mean, rows, wordings=Wordings(kinds, own)) == pytest.approx(interval(np.mean, rows), abs=0.01)
    alike, shared = np.repeat(rows[:60], 10), np.repeat(own[:60], 10)
    found = interval(np.mean, alike, wordings=Wordings(kinds, shared))
    assert found == pytest.approx(interval(np.mean, rows[:60]), abs=0.04)
    low, high = interval(np.mean, alike)
    assert found[1] - found[0] > 2.5 * (high - low)


def test_a_picture_has_the_same_bytes_each_time(tmp_path):
    for name in ("one", "two"):
        with picture(tmp_path / f"{name}.svg", "x", "y") as axes:
            axes.plot([0, 1], [1, 0], label="a line")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_no_text_of_a_table_is_a_formula_and_numbers_stay(tmp_path):
    texts = ["=HYPERLINK(1)", "+1", "-x", "@SUM(1)", "\t=1", "\r=1", "a\r=b", "", "'="]
    table = pd.DataFrame({"text": texts, "number": -1.5, "right": True})
    for_spreadsheets(table).to_csv(tmp_path / "table.csv", index=False)
    found = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert found["text"].tolist() == [f"'{text}" for text in texts[:5]] + ["'\n=1", "a\n=b", "", "'="]
    assert found[["number", "right"]].equals(table[["number", "right"]])


def test_paths_are_short_and_stay_apart():
    assert short_paths(pd.Series(["a/b/easy", "a/b/hard", "a/b/easy"])).tolist() == ["easy", "hard", "easy"]
    assert short_paths(pd.Series(["enron1/ham", "enron2/ham"])).tolist() == ["enron1/ham", "enron2/ham"]
    assert short_paths(pd.Series(["x/y", "y"])).tolist() == ["x/y", "y"]
    assert short_paths(pd.Series([], dtype=object)).tolist() == []
