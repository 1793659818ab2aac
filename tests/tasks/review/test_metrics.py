import numpy as np
import pytest

from tasks.measures.description import Sample
from tasks.measures.intervals import interval
from tasks.review.metrics import Difference, Metric, metrics_of

LOGGED = {
    **{"f1": 0.9, "f1_low": 0.88, "f1_high": 0.93, "f1_gain": 0.1, "f1_gain_low": 0.02, "f1_gain_high": 0.2},
    **{"baseline_f1": 0.8, "test_loss": 2.0, "test_loss_low": 1.5, "test_loss_high": 2.2, "baseline_test_loss": 2.1},
    **{"accuracy": 0.95, "baseline_accuracy": 0.9, "recall": 0.7, "nearest_f1": 0.3, "ngram_f1": 0.3},
}


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (Difference(0.1, 0.01, 0.2), "better"),
        (Difference(0.1, 0.01, 0.2, lower_is_better=True), "worse"),
        (Difference(-0.1, -0.2, -0.01), "worse"),
        (Difference(-0.1, -0.2, -0.01, lower_is_better=True), "better"),
        (Difference(0.1, -0.01, 0.2), "no clear difference"),
        (Difference(0.1, 0.0, 0.2), "no clear difference"),
        (Difference(0.1), "not known"),
    ],
)
def test_a_difference_is_clear_where_its_interval_leaves_out_zero(difference, verdict):
    assert difference.verdict == verdict


def test_a_lead_over_the_baseline_has_the_surest_interval_that_was_logged():
    found = metrics_of(LOGGED)
    assert list(found) == ["f1", "test_loss", "accuracy", "recall"]  # no ends, leads or baselines
    assert found["f1"] == Metric("f1", 0.9, 0.88, 0.93, 0.8, Difference(pytest.approx(0.1), 0.02, 0.2))
    assert found["test_loss"].to_baseline == Difference(  # the baseline counts as certain
        pytest.approx(-0.1), pytest.approx(-0.6), pytest.approx(0.1), True
    )
    assert found["accuracy"].to_baseline == Difference(pytest.approx(0.05))
    assert found["recall"].to_baseline is None


def test_a_gain_of_a_metric_that_should_be_low_is_a_lead_below_zero():
    logged = {"bits_per_byte": 1.5, "baseline_bits_per_byte": 1.6, "bits_per_byte_gain": 0.1}
    found = metrics_of(logged | {"bits_per_byte_gain_low": 0.08, "bits_per_byte_gain_high": 0.13})["bits_per_byte"]
    assert found.to_baseline == Difference(pytest.approx(-0.1), pytest.approx(-0.13), pytest.approx(-0.08), True)
    assert found.to_baseline.verdict == "better"


def test_a_metric_without_a_logged_interval_has_that_of_all_its_answers():
    every = Sample(np.mean, (np.array([1.0] * 95 + [0.0] * 5),))
    some = Sample(np.mean, (every.columns[0][:21],))
    found = metrics_of(LOGGED, None, {"accuracy": every}, ({"accuracy": some}, {"accuracy": some}))["accuracy"]
    assert (found.value, found.low, found.high) == (0.95, *interval(np.mean, *every.columns))
    assert found.to_baseline.low == pytest.approx(found.low - 0.9)
    alike = metrics_of(LOGGED, None, {"accuracy": Sample(np.mean, (np.ones(24),))})["accuracy"]
    assert (alike.low, alike.to_baseline.low) == (None, None)  # all right: no proof against a baseline


def test_versions_are_compared_on_the_rows_of_both_in_the_same_way_only():
    columns = {name: (np.arange(200) % 2.0, np.arange(200) % 4 < 1.0) for name in LOGGED}
    mine, its = ({name: Sample(np.mean, (pair[n],)) for name, pair in columns.items()} for n in (0, 1))
    found = metrics_of(LOGGED, LOGGED, mine, (mine, its | {"recall": Sample(np.sum, (np.ones(200),))}))
    accuracy = found["accuracy"]
    assert (accuracy.value, accuracy.paired, accuracy.champion, accuracy.to_champion.value) == (0.95, 0.5, 0.25, 0.25)
    assert accuracy.to_champion.low < 0.25 < accuracy.to_champion.high
    assert (found["recall"].champion, found["recall"].to_champion) == (None, None)


def test_a_metric_that_only_evaluations_measured_has_a_difference_and_no_interval():
    found = metrics_of(LOGGED, {"test_loss": 2.5})["test_loss"]
    assert (found.champion, found.to_champion, found.paired) == (2.5, Difference(-0.5, lower_is_better=True), None)


@pytest.mark.filterwarnings("ignore:.*distribution is degenerate")
@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((np.zeros(5), np.ones(5)), Difference(-1.0)),  # a few rows are sure of nothing
        ((np.arange(9) * np.nan, np.ones(9)), Difference(pytest.approx(np.nan, nan_ok=True))),
        ((np.array([1.0, 1.0, 0.0]),) * 2, Difference(0.0, 0.0, 0.0)),  # the same answers, however few
    ],
)
def test_a_difference_has_an_interval_where_the_rows_tell(columns, expected):
    mine, its = ({"f1": Sample(np.mean, (column,))} for column in columns)
    assert metrics_of({"f1": 0.9}, None, mine, (mine, its))["f1"].to_champion == expected
