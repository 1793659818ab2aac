import numpy as np
import pytest

from tasks.measures.metrics import Figure
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
def test_difference_is_clear_where_its_interval_leaves_out_zero(difference, verdict):
    assert difference.verdict == verdict


def test_lead_over_the_baseline_has_the_surest_interval_that_was_logged():
    metrics = metrics_of(LOGGED)
    assert list(metrics) == ["f1", "test_loss", "accuracy", "recall"]  # no ends, leads or baselines
    lead = Difference(pytest.approx(0.1), 0.02, 0.2)
    assert metrics["f1"] == Metric("f1", 0.9, low=0.88, high=0.93, baseline=0.8, to_baseline=lead)
    assert metrics["test_loss"].to_baseline == Difference(  # the baseline counts as certain
        pytest.approx(-0.1), pytest.approx(-0.6), pytest.approx(0.1), lower_is_better=True
    )
    assert metrics["accuracy"].to_baseline == Difference(pytest.approx(0.05))
    assert metrics["recall"].to_baseline is None


def test_gain_of_a_metric_that_should_be_low_is_a_lead_below_zero():
    logged = {"bits_per_byte": 1.5, "baseline_bits_per_byte": 1.6, "bits_per_byte_gain": 0.1}
    metrics = metrics_of(logged | {"bits_per_byte_gain_low": 0.08, "bits_per_byte_gain_high": 0.13})["bits_per_byte"]
    assert metrics.to_baseline == Difference(
        pytest.approx(-0.1), pytest.approx(-0.13), pytest.approx(-0.08), lower_is_better=True
    )
    assert metrics.to_baseline.verdict == "better"


def test_metric_without_a_logged_interval_has_that_of_the_score_table():
    figure = Figure(0.95, (0.9, 0.99), baseline=0.9, difference=0.05, difference_ends=(0.01, 0.09))
    metric = metrics_of(LOGGED, None, {"accuracy": figure})["accuracy"]
    assert (metric.value, metric.low, metric.high) == (0.95, 0.9, 0.99)
    assert metric.to_baseline == Difference(pytest.approx(0.05), 0.01, 0.09)


def test_metric_of_rows_that_are_all_alike_has_no_interval():
    metric = metrics_of(LOGGED, None, {"accuracy": Figure(1.0, (1.0, 1.0))})["accuracy"]
    assert (metric.low, metric.to_baseline.low) == (None, None)  # all right: no proof against a baseline


def test_versions_are_compared_on_the_rows_of_both():
    paired = Figure(0.5, (0.4, 0.6), baseline=0.25, difference=0.25, difference_ends=(0.2, 0.3))
    metric = metrics_of(LOGGED, LOGGED, paired={"accuracy": paired})["accuracy"]
    assert (metric.value, metric.paired, metric.champion) == (0.95, 0.5, 0.25)
    assert metric.to_champion == Difference(0.25, 0.2, 0.3)


def test_metric_that_the_rows_of_both_do_not_give_is_not_compared():
    own = {"recall": Figure(0.7)}
    paired = {"accuracy": Figure(0.5, baseline=0.5, difference=0.0)}
    metric = metrics_of(LOGGED, LOGGED, own=own, paired=paired)["recall"]
    assert (metric.champion, metric.to_champion) == (None, None)


def test_metric_that_only_evaluations_measured_has_a_difference_and_no_interval():
    metrics = metrics_of(LOGGED, {"test_loss": 2.5})["test_loss"]
    assert (metrics.champion, metrics.to_champion, metrics.paired) == (
        2.5,
        Difference(-0.5, lower_is_better=True),
        None,
    )


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((None, None), Difference(-1.0)),  # a few rows are sure of nothing
        ((np.nan, np.nan), Difference(-1.0)),
        ((0.0, 0.0), Difference(-1.0, 0.0, 0.0)),
    ],
)
def test_difference_has_an_interval_where_the_rows_tell(ends, expected):
    paired = Figure(0.0, baseline=1.0, difference=-1.0, difference_ends=ends)
    assert metrics_of({"f1": 0.9}, paired={"f1": paired})["f1"].to_champion == expected
