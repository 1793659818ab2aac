import json
import logging

import pandas as pd
import pytest

from tasks.data.cleaning.record import COLUMNS, EXAMPLES, KEPT, RULES, changed, drop, left_out, recorded
from tasks.data.textfiles import tidy
from tasks.datasets.emails import Params, read_emails

PARAMS = Params(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)
MAILS = """\
{"label": "ham", "subject": "Lunch", "body": "At noon &amp; not later"}
{"label": "ham", "subject": "", "body": "<html></html>"}
{"label": "spam", "subject": "Win", "body": "<html><b>a house</b>"}
{"label": "ham", "subject": "Win", "body": "a house"}
{"label": "ham", "subject": "List", "body": "One.\\n--DeathToSpam--"}
"""


@pytest.fixture
def mails(tmp_path):
    folder = tmp_path / "raw"
    (folder / "ham").mkdir(parents=True)
    (folder / "mine.jsonl").write_text(MAILS)
    (folder / "ham/1.eml").write_bytes(b"From: a\nContent-Type: message/rfc822\n\n" * 60)
    return folder


def test_record_counts_changes_and_dropped_rows_with_examples(mails, tmp_path):
    with recorded() as record:
        assert read_emails(mails, PARAMS)["id"].tolist() == ["mine.jsonl#1", "mine.jsonl#5"]
    assert record.counts() == {
        "unreadable": 1,
        "markup": 2,
        "characters": 1,
        "footers": 1,
        "blank": 1,
        "contradictions": 2,
    }
    rows = record.quarantine()
    assert list(rows) == COLUMNS
    assert rows[["id", "rule", "text"]].to_numpy().tolist()[1:] == [
        ["mine.jsonl#2", "blank", "\n"],
        ["mine.jsonl#3", "contradictions", "Win\na house"],
        ["mine.jsonl#4", "contradictions", "Win\na house"],
    ]
    assert rows["id"][0].endswith("ham/1.eml")
    assert "nested over 50 levels" in rows["reason"][0]
    record.write(tmp_path, "emails")
    content = json.loads((tmp_path / "cleaning.json").read_text())
    assert content["characters"]["examples"] == [{"before": "At noon &amp; not later", "after": "At noon & not later"}]
    assert content["footers"]["examples"][0]["before"] == "--DeathToSpam--"
    page = (tmp_path / "cleaning.md").read_text()
    assert f"| contradictions | {RULES['contradictions'].does} | 0 | 2 |" in page
    assert "```diff\n- At noon &amp; not later\n+ At noon & not later\n```" in page
    assert "`mine.jsonl#3`: equal ones have other labels than spam: `Win a house`" in page
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "quarantine.parquet"), rows)


def test_record_of_equal_runs_has_equal_bytes_and_may_be_empty(mails, tmp_path):
    for name in ("one", "two"):
        with recorded() as record:
            read_emails(mails, PARAMS)
        (tmp_path / name).mkdir()
        record.write(tmp_path / name, "emails")
    for file in ("cleaning.md", "cleaning.json", "quarantine.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with recorded() as record:
        pass
    record.write(tmp_path, "emails")
    assert (tmp_path / "cleaning.md").read_text() == "# What cleaning did to emails\n\nNothing.\n"
    assert list(pd.read_parquet(tmp_path / "quarantine.parquet")) == COLUMNS


def test_examples_are_few_and_different_and_texts_are_cut():
    with recorded() as record:
        for n in range(20):
            changed("characters", f"b{n // 2}", f"a{n // 2}")
            changed("characters", "two  spaces", "two spaces")
            left_out("blank", [{"id": n, "reason": "r", "text": "x" * 5_000}])
    assert record.counts() == {"characters": 20, "blank": 20}
    assert record.examples["characters"] == [{"before": f"b{n}", "after": f"a{n}"} for n in range(EXAMPLES)]
    assert set(record.quarantine()["text"].str.len()) == {KEPT}


def test_unicode_half_of_a_pair_is_shown_as_a_question_mark(tmp_path):
    with recorded() as record:
        changed("characters", "cut \ud83d", "cut")
    record.write(tmp_path, "mails")
    assert record.examples["characters"] == [{"before": "cut ?", "after": "cut"}]
    assert "cut ?" in (tmp_path / "cleaning.json").read_text()


def test_rules_outside_of_a_record_report_nothing():
    assert tidy(" schÃ¶n ") == "schön"
    table = pd.DataFrame({"text": ["a", "b"]})
    kept = drop("blank", table, reasons=pd.Series([None, "why"], dtype=object), text=table["text"])
    assert kept["text"].tolist() == ["a"]
    with recorded() as record:
        logging.getLogger(__name__).info("nothing")
    assert record.counts() == {}


def test_example_has_the_first_lines_that_differ_and_is_cut():
    with recorded() as record:
        changed(
            "characters", "same\n\na &amp; b" + "x" * 500 + "\nand so on", "same\na & b" + "x" * 500 + "\nand so on"
        )
    (example,) = record.examples["characters"]
    assert example["before"] == "a &amp; b" + "x" * 151 + "\nand so on"
    assert example["after"] == "a & b" + "x" * 155 + "\nand so on"
