from math import log

import pandas as pd
import pytest

from tasks.data.drift import SMALLEST, drift, profile, stability_index


def test_stability_index_is_the_one_computed_by_hand():
    # shares 0.8, 0.2 against 0.5, 0.5: -0.3 ln(0.625) + 0.3 ln(2.5)
    expected = -0.3 * log(0.5 / 0.8) + 0.3 * log(0.5 / 0.2)
    assert expected == pytest.approx(0.41588830833596713)
    assert stability_index({"ham": 80, "spam": 20}, {"ham": 7, "spam": 7}) == pytest.approx(expected)


def test_stability_index_of_a_value_that_comes_or_goes_is_finite():
    expected = (SMALLEST - 0.5) * log(SMALLEST / 0.5) + 0.5 * log(2)
    assert stability_index({"ham": 1, "spam": 1}, {"ham": 9}) == pytest.approx(expected)
    assert expected > 4


def test_profile_counts_labels_and_lengths_in_half_octaves_and_no_names_or_lists():
    rows = pd.DataFrame({"id": ["a", "b", "c"], "label": ["ham", "ham", "spam"], "body": ["", "x" * 7, None]})
    rows["answers"] = [[], ["x"], []]
    assert profile(rows) == {"label": {"ham": 2, "spam": 1}, "length of body": {"0": 1, "6": 1}}


def test_drift_names_the_property_that_moved_most_first():
    before = profile(pd.DataFrame({"label": ["ham"] * 8 + ["spam"] * 2, "body": ["a b"] * 10}))
    now = profile(pd.DataFrame({"label": ["ham"] * 5 + ["spam"] * 5, "body": ["c d"] * 10}))
    moved = drift(before, now)
    assert list(moved) == ["label", "length of body"]
    assert moved["label"] == pytest.approx(0.41588830833596713)
    assert moved["length of body"] == 0
    assert drift(before, {}) == {}
