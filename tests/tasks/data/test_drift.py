from math import log

import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.drift import SMALLEST, Drift, moved, stability_index


def mails(texts, labels):
    return pd.DataFrame({"body": texts, "label": labels})


def test_stability_index_is_the_one_computed_by_hand():
    # shares 0.8, 0.2 against 0.5, 0.5: -0.3 ln(0.625) + 0.3 ln(2.5)
    expected = -0.3 * log(0.5 / 0.8) + 0.3 * log(0.5 / 0.2)
    assert expected == pytest.approx(0.41588830833596713)
    assert stability_index({"ham": 80, "spam": 20}, {"ham": 7, "spam": 7}) == pytest.approx(expected)


def test_stability_index_of_a_value_that_comes_or_goes_is_finite():
    expected = (SMALLEST - 0.5) * log(SMALLEST / 0.5) + 0.5 * log(2)
    assert stability_index({"ham": 1, "spam": 1}, {"ham": 9}) == pytest.approx(expected)
    assert expected > 4


def test_drift_measures_labels_and_lengths():
    before = mails(["a b"] * 8 + ["a b c d"] * 2, ["ham"] * 8 + ["spam"] * 2)
    now = mails(["a b"] * 5 + ["a b c d"] * 5, ["ham"] * 5 + ["spam"] * 5)
    expected = -0.3 * log(0.5 / 0.8) + 0.3 * log(0.5 / 0.2)
    drifts = moved(before, now)
    assert [part.name for part in drifts] == ["label", "length of body"]
    assert [part.index for part in drifts] == pytest.approx([expected, expected])


def test_drift_of_the_same_rows_is_zero_in_any_order():
    rows = mails([f"mail number {n} of {n * n}" for n in range(50)], ["ham", "spam"] * 25)
    drifts = moved(rows, rows.sample(frac=1, random_state=1))
    assert [part.index for part in drifts] == [0, 0]


def test_drift_counts_lengths_beyond_all_of_before_with_the_longest():
    before = pd.DataFrame({"text": ["x" * n for n in range(1, 11)]})
    now = pd.DataFrame({"text": ["x" * 1000] * 10})
    length = moved(before, now)[0]
    expected = 9 * (SMALLEST - 0.1) * log(SMALLEST / 0.1) + 0.9 * log(10)
    assert length.index == pytest.approx(expected)


def test_drift_of_an_empty_column_is_zero():
    before = pd.DataFrame({"input": ["", None]})
    now = pd.DataFrame({"input": ["", ""]})
    assert moved(before, now) == [Drift("length of input", 0.0)]


@pytest.mark.parametrize(("before", "now"), [([], ["a"]), (["a"], [])])
def test_drift_without_rows_on_one_side_is_an_error(before, now):
    with pytest.raises(UserError, match="one side has no rows"):
        moved(mails(before, ["ham"] * len(before)), mails(now, ["ham"] * len(now)))
