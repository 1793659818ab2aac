import sys

import pandas as pd
import pytest

from llm.applications import load_for_inference
from llm.applications.classifier import serve
from tasks.review import classifier
from tasks.review.answers import NoAnswerError, answers

pytestmark = pytest.mark.slow


def test_a_version_answers_each_row_in_its_order_and_says_why_it_answers_one_not(in_project):
    rows = classifier.rows(in_project / "data/processed/emails")
    found = answers("threestage-classifier", "1", rows[["subject", "body"]])
    model, encoding = load_for_inference(in_project / "made/c1/classifier")
    asked = rows[["subject", "body"]].to_dict("records")
    expected = pd.DataFrame(serve(model, encoding, asked), index=rows.index)
    assert found.table["label"].fillna("").tolist() == expected["label"].fillna("").tolist()
    assert found.table["spam_probability"].tolist()[:39] == pytest.approx(expected["spam_probability"].tolist()[:39])
    assert found.table["error"].notna().tolist() == [n == 39 for n in range(46)]
    assert found.sizes.tolist() == [32, 14]
    assert found.speed.value == pytest.approx(found.seconds.sum() / 46)


def test_a_version_that_ships_no_code_gives_no_answers_rather_than_ours(in_project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))  # where this process finds the project
    row = pd.DataFrame({"subject": ["the cat"], "body": ["sat"]})
    reason = r"^models:/threestage-classifier/3 gives no answers: .*(does not ship all of its code|No module named)"
    with pytest.raises(NoAnswerError, match=reason):
        answers("threestage-classifier", "3", row)


def test_a_version_that_takes_too_long_gives_no_answers(in_project):
    row = pd.DataFrame({"subject": ["the cat"], "body": ["sat"]})
    with pytest.raises(NoAnswerError, match=r"^models:/threestage-classifier/1 did not answer 1 rows within 0.05 sec"):
        answers("threestage-classifier", "1", row, within=0.05)
