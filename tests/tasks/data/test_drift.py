from math import log

import pandas as pd
import pytest

from tasks.data.drift import SMALLEST, drift, profile, stability_index


def test_stability_index_is_the_one_computed_by_hand():
    expected = -0.3 * log(0.5 / 0.8) + 0.3 * log(0.5 / 0.2)  # shares 0.8, 0.2 against 0.5, 0.5
    assert stability_index({"ham": 80, "spam": 20}, {"ham": 7, "spam": 7}) == pytest.approx(expected)


def test_stability_index_of_a_value_that_comes_or_goes_is_finite():
    expected = (SMALLEST - 0.5) * log(SMALLEST / 0.5) + 0.5 * log(2)
    assert stability_index({"ham": 1, "spam": 1}, {"ham": 9}) == pytest.approx(expected)


def test_profile_counts_labels_and_lengths_in_half_octaves_and_no_names_or_lists():
    rows = pd.DataFrame({"id": ["a", "b", "c"], "label": ["ham", "ham", "spam"], "body": ["", "x" * 7, None]})
    rows["answers"] = [[], ["x"], []]
    assert profile(rows) == {"label": {"ham": 2, "spam": 1}, "length of body": {"0": 1, "6": 1}}


def test_drift_names_the_property_that_moved_most_first():
    before = {"length of body": {"0": 5}, "label": {"ham": 8, "spam": 2}, "kind": {"a": 1}}
    now = {"length of body": {"0": 9}, "label": {"ham": 5, "spam": 5}}
    assert list(drift(before, now).items()) == [("label", pytest.approx(0.41588830833596713)), ("length of body", 0)]
