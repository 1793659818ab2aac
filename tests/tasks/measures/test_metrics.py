import numpy as np
import pandas as pd
import pytest

from tasks.measures.intervals import interval, mean, share
from tasks.measures.metrics import Metric, figure, figures, logged
from tasks.measures.scores import join, score_table


def table_of(ours, baseline=None, **columns):
    """The score table of some rows, whose questions are their numbers."""
    numbers = [str(number) for number in range(len(ours))]
    rows = pd.DataFrame({"part": "test", "id": numbers, "question": numbers, "expected": "", **columns})
    contenders = {"ours": ours.assign(answer="a")}
    if baseline is not None:
        contenders["baseline"] = baseline.assign(answer="b")
    return score_table(rows, **contenders)


def test_figure_has_value_interval_baseline_and_the_paired_difference():
    ours = pd.DataFrame({"right": [1.0] * 24 + [0.0] * 76})
    baseline = pd.DataFrame({"right": [0.0] * 6 + [1.0] * 18 + [0.0] * 76})
    right = figure(Metric("accuracy", ("right",)), table_of(ours, baseline))
    assert (right.value, right.baseline, right.rows) == (0.24, 0.18, 100)
    assert right.difference == pytest.approx(0.06)
    assert right.ends == interval(mean, ours["right"].to_numpy())
    low, high = right.difference_ends
    assert 0 < low < 0.06 < high < 0.12  # alone, 24 % are 16 to 33


def test_figure_is_over_rows_that_have_all_of_its_measures():
    table = table_of(pd.DataFrame({"bits": [8.0, 4.0, np.nan], "bytes": [2.0, 2.0, 9.0]}))
    bits = figure(Metric("bits_per_byte", ("bits", "bytes"), share), table)
    assert (bits.value, bits.rows, bits.baseline, bits.difference) == (3.0, 2, None, None)


def test_figure_counts_the_rows_that_a_metric_names():
    table = table_of(pd.DataFrame({"right": [1.0, 0.0]}), kind=["sums", "words"])
    assert figure(Metric("sums_right", ("right",), where={"kind": "sums"}), table).value == 1
    assert figures([Metric("fame", ("fame",)), Metric("right", ("right",), where={"kind": "none"})], table) == {}


def test_figure_without_a_baseline_for_each_row_has_no_baseline():
    table = table_of(pd.DataFrame({"right": [1.0, 1.0]}), pd.DataFrame({"right": [1.0, np.nan]}))
    assert figure(Metric("accuracy", ("right",)), table).baseline is None


def test_equal_scores_differ_in_nothing_however_few_there_are():
    ours = pd.DataFrame({"right": [1.0, 0.0]})
    right = figure(Metric("accuracy", ("right",)), table_of(ours, ours))
    assert (right.ends, right.difference, right.difference_ends) == ((None, None), 0.0, (0.0, 0.0))


def test_interval_over_wordings_is_wide_where_rows_of_a_wording_are_right_together():
    ours = pd.DataFrame({"exact": [1.0] * 12 + [0.0] * 12})
    metric = Metric("exact_match", ("exact",), over_wordings=True)
    together = figure(metric, table_of(ours, kind="k", wording=["a"] * 12 + ["b"] * 12))
    assert together.ends == (0.0, 1.0)  # it may be that only one of two wordings is drawn
    apart = figure(metric, table_of(ours, kind="k", wording=[str(number) for number in range(24)]))
    low, high = apart.ends
    assert 0.2 < low < 0.4 < 0.6 < high < 0.8


def test_logged_gain_of_a_metric_that_should_be_low_is_above_zero_if_the_model_is_better():
    ours = pd.DataFrame({"bits": np.arange(8.0), "bytes": 2.0})
    baseline = ours.assign(bits=ours["bits"] + np.linspace(0.1, 0.3, 8))
    values = logged([Metric("bits_per_byte", ("bits", "bytes"), share)], table_of(ours, baseline))
    assert values["bits_per_byte_gain"] == pytest.approx(0.1)
    assert 0 < values["bits_per_byte_gain_low"] < 0.1 < values["bits_per_byte_gain_high"]


def test_logged_metric_of_rows_that_are_all_alike_has_no_interval():
    assert logged([Metric("right", ("right",))], table_of(pd.DataFrame({"right": [1.0] * 50}))) == {"right": 1.0}


def test_join_has_the_champion_as_the_baseline_of_the_rows_and_measures_of_both():
    mine = table_of(pd.DataFrame({"exact": [1.0, 0.0], "loop": [0.0, 0.0]}), pd.DataFrame({"exact": [0.5, 0.5]}))
    champion = table_of(pd.DataFrame({"exact": [0.0]}))
    joined = join(mine, champion)
    assert joined[["id", "measure", "ours", "baseline"]].to_numpy().tolist() == [["0", "exact", 1.0, 0.0]]
