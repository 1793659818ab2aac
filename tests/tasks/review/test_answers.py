import sys

import mlflow
import pandas as pd
import pytest

from llm.errors import UserError
from llm.objectives import load_for_inference
from llm.objectives.classifier import serve
from tasks.applications.classifier import review as classifier
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
    assert found.seconds > 0


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


def test_the_code_of_a_version_sees_no_secret_of_this_environment(in_project, monkeypatch):
    secrets = ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "THREESTAGE_API_KEYS")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = answers("threestage-classifier", "4", pd.DataFrame({"subject": ["the cat"], "body": ["sat"]}))
    seen = found.table["label"][0].split()
    assert {"PATH", "HOME", "OMP_NUM_THREADS"} <= {*seen}
    assert not {*secrets, "PYTHONPATH"} & {*seen}


def test_a_store_that_is_away_says_nothing_about_the_version_and_its_password_is_not_told(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://ada:secret@127.0.0.1:9")
    try:
        with pytest.raises(UserError, match=r"127\.0\.0\.1:9") as raised:
            answers("threestage-classifier", "1", pd.DataFrame({"subject": ["the cat"], "body": ["sat"]}))
    finally:
        mlflow.set_tracking_uri(None)
    assert not isinstance(raised.value, NoAnswerError)
    assert "secret" not in str(raised.value)


def test_a_version_whose_files_are_gone_gives_no_answers(in_project):
    with pytest.raises(NoAnswerError, match=r"^models:/threestage-classifier/9 gives no answers: "):
        answers("threestage-classifier", "9", pd.DataFrame({"subject": ["the cat"]}))


@pytest.mark.parametrize(("ended_by", "of_the_version"), [("SIGKILL", False), ("SIGSEGV", True)])
def test_what_ends_its_process_from_outside_says_nothing_about_the_version_either(
    in_project, tmp_path, monkeypatch, ended_by, of_the_version
):
    ask = tmp_path / "ask.py"
    ask.write_text(f"import os, signal; os.kill(os.getpid(), signal.{ended_by})")
    monkeypatch.setattr("tasks.review.answers.ASK", ask)
    with pytest.raises(UserError, match=r"signal \d+ ended its process") as raised:
        answers("threestage-classifier", "1", pd.DataFrame({"subject": ["the cat"]}))
    assert isinstance(raised.value, NoAnswerError) == of_the_version
