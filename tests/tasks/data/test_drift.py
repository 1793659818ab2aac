from math import log

import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.drift import SMALLEST, WORDS, Drift, drift, stability_index


def mails(texts, labels):
    return pd.DataFrame({"body": texts, "label": labels})


def test_the_index_is_the_one_computed_by_hand():
    # shares 0.8, 0.2 against 0.5, 0.5: -0.3 ln(0.625) + 0.3 ln(2.5)
    expected = -0.3 * log(0.5 / 0.8) + 0.3 * log(0.5 / 0.2)
    assert expected == pytest.approx(0.41588830833596713)
    assert stability_index({"ham": 80, "spam": 20}, {"ham": 7, "spam": 7}) == pytest.approx(expected)


def test_what_comes_or_goes_is_much_and_not_infinite():
    expected = (SMALLEST - 0.5) * log(SMALLEST / 0.5) + 0.5 * log(2)
    assert stability_index({"ham": 1, "spam": 1}, {"ham": 9}) == pytest.approx(expected)
    assert expected > 4


def test_labels_lengths_and_words_are_measured_each():
    before = mails(["a b"] * 8 + ["a b c d"] * 2, ["ham"] * 8 + ["spam"] * 2)
    now = mails(["a b"] * 5 + ["a b c d"] * 5, ["ham"] * 5 + ["spam"] * 5)
    moved = -0.3 * log(0.5 / 0.8) + 0.3 * log(0.5 / 0.2)
    # words: 10 a, 10 b, 2 c, 2 d of 24; then 10, 10, 5, 5 of 30
    words = 2 * (1 / 3 - 10 / 24) * log((1 / 3) / (10 / 24)) + 2 * (1 / 6 - 1 / 12) * log(2)
    found = drift(before, now, ["body"], "label")
    assert [each.name for each in found] == ["label", "length of body", "words of body"]
    assert [each.index for each in found] == pytest.approx([moved, moved, words])
    assert [each.said for each in found] == ["much", "much", "some" if words >= 0.1 else "little"]


def test_the_same_rows_have_not_moved_in_whatever_order():
    rows = mails([f"mail number {n} of {n * n}" for n in range(50)], ["ham", "spam"] * 25)
    assert [each.index for each in drift(rows, rows.sample(frac=1, random_state=1), ["body"], "label")] == [0, 0, 0]


def test_lengths_beyond_all_of_before_count_with_the_longest():
    before = pd.DataFrame({"text": ["x" * n for n in range(1, 11)]})
    now = pd.DataFrame({"text": ["x" * 1000] * 10})
    length = drift(before, now, ["text"])[0]
    expected = 9 * (SMALLEST - 0.1) * log(SMALLEST / 0.1) + 0.9 * log(10)
    assert length.index == pytest.approx(expected)


def test_words_that_are_rare_before_are_one_bin():
    before = pd.DataFrame({"text": [" ".join(f"w{n}" for n in range(WORDS))] * 3})
    both = [
        drift(before, pd.DataFrame({"text": [f"{before['text'][0]} {more}"]}), ["text"])[1] for more in ("x y", "z z")
    ]
    assert both[0].index == pytest.approx(both[1].index)


def test_a_column_that_is_empty_has_a_length_and_no_words():
    before, now = pd.DataFrame({"input": ["", None]}), pd.DataFrame({"input": ["", ""]})
    assert drift(before, now, ["input"]) == [Drift("length of input", 0.0)]


@pytest.mark.parametrize(
    ("before", "now", "columns", "said"),
    [
        ([], ["a"], ["body"], "one side has no rows"),
        (["a"], [], ["body"], "one side has no rows"),
        (["a"], ["a"], ["subject"], "the rows before have no column 'subject'"),
    ],
)
def test_what_cannot_be_compared_is_said(before, now, columns, said):
    with pytest.raises(UserError, match=said):
        drift(mails(before, ["ham"] * len(before)), mails(now, ["ham"] * len(now)), columns)


@pytest.mark.parametrize(("index", "said"), [(0.0999, "little"), (0.1, "some"), (0.2499, "some"), (0.25, "much")])
def test_the_number_is_read_as_is_the_custom(index, said):
    assert Drift("label", index).said == said


def test_sources_are_measured_where_they_are_asked_for():
    before = mails(["a"] * 10, ["ham"] * 10).assign(source=["x"] * 8 + ["y"] * 2)
    now = before.assign(source=["x"] * 5 + ["y"] * 5)
    found = drift(before, now, ["body"], "label", "source")
    assert [each.name for each in found] == ["label", "source", "length of body", "words of body"]
    assert found[1].index == pytest.approx(-0.3 * log(0.5 / 0.8) + 0.3 * log(0.5 / 0.2))
