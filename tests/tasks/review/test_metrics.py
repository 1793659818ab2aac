import numpy as np
import pytest

from tasks.applications import Sample
from tasks.evaluation.statistics import interval
from tasks.registry.figures import lower_is_better
from tasks.review.metrics import Difference, Metric, judged, metrics_of

LOGGED = {
    **{"f1": 0.9, "f1_low": 0.88, "f1_high": 0.93, "f1_gain": 0.1, "f1_gain_low": 0.02, "f1_gain_high": 0.2},
    **{"baseline_f1": 0.8, "test_loss": 2.0, "test_loss_low": 1.5, "test_loss_high": 2.2, "baseline_test_loss": 2.1},
    **{
        "accuracy": 0.95,
        "baseline_accuracy": 0.9,
        "recall": 0.7,
        "nearest_f1": 0.3,
        "instructed_f1": 0.3,
        "macro_f1": 0.6,
    },
}


def mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis)


@pytest.mark.parametrize(
    ("found", "less", "verdict"),
    [
        (Difference(0.1, 0.01, 0.2), False, "better"),
        (Difference(0.1, 0.01, 0.2), True, "worse"),
        (Difference(-0.1, -0.2, -0.01), False, "worse"),
        (Difference(-0.1, -0.2, -0.01), True, "better"),
        (Difference(0.1, -0.01, 0.2), False, "no clear difference"),
        (Difference(0.1, 0.0, 0.2), False, "no clear difference"),
        (Difference(0.0, 0.0, 0.0), True, "no clear difference"),
        (Difference(0.1), False, "not known"),
        (None, False, "not known"),
    ],
)
def test_a_difference_is_judged_by_its_interval(found, less, verdict):
    assert judged(found, less=less) == verdict


def test_of_losses_errors_and_bits_less_is_better():
    assert all(map(lower_is_better, ("response_loss", "calibration_error", "bits_per_byte", "false_positive_rate")))
    assert not any(map(lower_is_better, ("f1", "exact_match", "everyday_ham")))


def test_a_difference_is_paired_by_row():
    one, other = np.arange(200.0), np.arange(200.0) + 0.1 * (np.arange(200) % 2)
    found = metrics_of({"f1": 0.9}, {"f1": 0.8}, {"f1": Sample(mean, (one,))}, {"f1": Sample(mean, (other,))})["f1"]
    assert (found.value, found.paired, found.champion) == (0.9, pytest.approx(one.mean()), pytest.approx(other.mean()))
    assert (found.low, found.high) == interval(lambda x, axis=-1: x.mean(axis), one)  # as none was logged
    assert found.to_champion.value == pytest.approx(-0.05)
    assert -0.06 < found.to_champion.low < -0.05 < found.to_champion.high < -0.04  # the parts alone vary by hundreds
    assert found.verdict("champion") == "worse"


def test_a_lead_over_the_baseline_has_the_surest_interval_that_was_logged():
    found = metrics_of(LOGGED)
    assert list(found) == ["f1", "test_loss", "accuracy", "recall", "macro_f1"]  # no ends, leads or baselines
    assert found["f1"] == Metric("f1", 0.9, 0.88, 0.93, 0.8, Difference(pytest.approx(0.1), 0.02, 0.2))
    own = Difference(pytest.approx(-0.1), pytest.approx(-0.6), pytest.approx(0.1))
    assert found["test_loss"].to_baseline == own  # the baseline counts as certain
    assert found["accuracy"].to_baseline == Difference(pytest.approx(0.05))
    assert found["recall"].to_baseline is None


def test_a_lead_without_any_logged_interval_has_that_of_the_answers():
    right = np.array([1.0] * 95 + [0.0] * 5)
    found = metrics_of(LOGGED, None, {"accuracy": Sample(mean, (right,))})["accuracy"]
    assert found.to_baseline.value == pytest.approx(0.05)
    assert found.to_baseline.low == pytest.approx(found.low - 0.9)
    assert found.verdict("baseline") == ("better" if found.low > 0.9 else "no clear difference")


def test_rows_that_are_not_compared_count_in_the_challengers_own_metric():
    every, some = (Sample(mean, (np.arange(count) % 2.0,)) for count in (200, 21))
    found = metrics_of({}, None, {"f1": some}, {"f1": some}, {"f1": every})["f1"]
    assert (found.value, found.paired) == (0.5, some.value)
    assert (found.low, found.high) == interval(mean, *every.columns)


def test_what_is_measured_in_another_way_is_not_compared():
    def another(values: np.ndarray, axis: int) -> np.ndarray:
        return values.sum(axis)

    mine, its = {"f1": Sample(mean, (np.ones(3),))}, {"f1": Sample(another, (np.ones(3),))}
    found = metrics_of({"f1": 1.0}, {"f1": 1.0}, mine, its)["f1"]
    assert (found.value, found.champion, found.to_champion) == (1.0, None, None)


def test_what_only_evaluations_know_has_a_difference_and_no_interval():
    found = metrics_of(LOGGED, {"test_loss": 2.5})["test_loss"]
    assert (found.champion, found.to_champion, found.paired) == (2.5, Difference(-0.5), None)
    assert found.verdict("champion") == "not known"


@pytest.mark.filterwarnings("ignore:.*distribution is degenerate")
def test_an_interval_that_is_no_number_is_not_known():
    def nothing(values: np.ndarray, axis: int) -> np.ndarray:
        return values.sum(axis) * np.nan

    mine, its = Sample(nothing, (np.arange(9.0),)), Sample(nothing, (np.ones(9),))
    found = metrics_of({}, None, {"f1": mine}, {"f1": its})["f1"]
    assert (found.low, found.high, found.to_champion.low) == (None, None, None)
    assert found.verdict("champion") == "not known"


def test_a_gain_of_what_should_be_low_is_a_lead_below_zero():
    logged = {"bits_per_byte": 1.5, "baseline_bits_per_byte": 1.6, "bits_per_byte_gain": 0.1}
    logged |= {"bits_per_byte_gain_low": 0.08, "bits_per_byte_gain_high": 0.13}
    found = metrics_of(logged)["bits_per_byte"]
    assert found.to_baseline == Difference(pytest.approx(-0.1), pytest.approx(-0.13), pytest.approx(-0.08))
    assert found.verdict("baseline") == "better"


def test_a_few_rows_are_sure_of_nothing():
    rows = {"f1": Sample(mean, (np.zeros(5),))}, {"f1": Sample(mean, (np.ones(5),))}
    found = metrics_of({}, None, *rows)["f1"]
    assert (found.low, found.to_champion) == (None, Difference(-1.0))
    assert found.verdict("champion") == "not known"


def test_the_same_answers_are_no_loss_however_few_they_are():
    right = Sample(mean, (np.array([1.0, 1.0, 0.0]),))
    assert metrics_of({}, None, {"f1": right}, {"f1": right})["f1"].to_champion.is_none


def test_rows_that_are_all_right_are_no_proof_against_a_baseline():
    logged = {"accuracy": 1.0, "baseline_accuracy": 23 / 24}
    found = metrics_of(logged, None, {"accuracy": Sample(mean, (np.ones(24),))})["accuracy"]
    assert (found.low, found.to_baseline.low) == (None, None)
