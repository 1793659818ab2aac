from pathlib import Path

import pandas as pd
import pytest

from tasks.measures.label_rows import label_rows, without_learned


@pytest.fixture
def mails(tmp_path, monkeypatch):
    """The rows of two mails of the test split and two everyday ones."""
    monkeypatch.chdir(tmp_path)
    for folder in ("data/processed/emails", "data/behavioural/emails"):
        (tmp_path / folder).mkdir(parents=True)
    mail = {"id": ["one", "two"], "subject": ["a", "b"], "body": ["x " * 60, "y"], "label": ["ham", "spam"]}
    pd.DataFrame(mail | {"source": "s/p/easy"}).to_parquet("data/processed/emails/test.parquet")
    everyday = pd.DataFrame(mail | {"slice": ["thanks", "offers"], "body": ["<p>hello</p>", "y"]})
    for name in ("test", "validation"):
        everyday.to_json(f"data/behavioural/emails/{name}.jsonl", orient="records", lines=True)
    everyday.assign(label="other").to_json("data/behavioural/emails/other.jsonl", orient="records", lines=True)
    return label_rows(Path("data/processed/emails"))


def test_rows_are_the_test_split_and_behind_it_everyday_mails_cleaned_with_their_slices(mails):
    columns = ["part", "question", "label", "source", "words", "behavioural"]
    assert mails[columns].to_numpy()[1:3].tolist() == [
        ["test", "b | y", "spam", "p/easy", "to 50", None],
        ["everyday", "a | hello", None, None, None, "everyday: thanks"],
    ]
    assert mails["expected"].tolist() == ["ham", "spam"] * 2


def test_behavioural_mails_that_repeat_what_was_learned_are_left_out(caplog):
    learned = pd.DataFrame({"subject": ["A trip"], "body": ["We meet at the station at nine on Sunday."]})
    mails = pd.DataFrame(
        {"id": list("abcd"), "part": ["everyday"] * 3 + ["test"], "subject": ["RE: a trip!", "", "", ""]}
    )
    mails["body"] = ["One", "Two", "Anna, we meet at the STATION, at ten.", "We meet at the station at nine"]
    with caplog.at_level("WARNING"):
        assert without_learned(mails, learned)["id"].tolist() == ["b", "d"]
    assert "2 behavioural texts left out" in caplog.text
