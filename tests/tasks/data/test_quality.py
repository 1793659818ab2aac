import json
from contextlib import nullcontext
from dataclasses import replace

import great_expectations.expectations as gxe
import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.gates import Gates
from tasks.data.quality import Check, Counts, label_expectations, summary_expectations, summary_of, validate
from tasks.datasets.corpus import corpus_expectations

LABELS = ["ham", "spam"]


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "id": [f"mail.csv#{n}" for n in range(30)],
            "label": ["ham", "ham", "spam"] * 10,
            "split": ["train"] * 15 + ["validation"] * 9 + ["test"] * 6,
            "text": [f"a{n} b{n} c{n} d{n}" for n in range(30)],
        }
    )


def expectations():
    return [
        *label_expectations(LABELS),
        gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=1, max_value=100),
        gxe.ExpectColumnValuesToNotBeNull(column="text"),
    ]


def summary_check(table):
    """The check of a table's summary against the default bounds."""
    summary = summary_of(table, Counts(overlapping=0), labels=LABELS)
    return Check("summary", [summary], summary_expectations(LABELS, Gates()))


def test_summary_counts_rows_splits_and_labels(table):
    counts = Counts(overlapping=1, duplicates=10, left_out=5)
    summary = summary_of(table, counts, groups="label", labels=LABELS).iloc[0].to_dict()
    assert summary == {
        "id": "summary",
        "rows_read": 45,
        "rows": 30,
        "duplicate_share": 0.2222,
        "left_out_share": 0.1111,
        "split_overlap": 1,
        "straddling_groups": 2,
        "train_rows": 15,
        "validation_rows": 9,
        "test_rows": 6,
        "rows_of_ham": 20,
        "rows_of_spam": 10,
        "share_of_ham": 0.6667,
        "share_of_spam": 0.3333,
        "splits_of_ham": 3,
        "splits_of_spam": 3,
    }


def test_validation_of_a_good_table_passes_and_repeats_its_report(table, tmp_path):
    for name in ("first", "second"):
        validation = validate("emails", [Check("rows", [table], expectations()), summary_check(table)])
        validation.write(tmp_path / name)
        validation.require_success()
    first = (tmp_path / "first/validation.json").read_bytes()
    assert first == (tmp_path / "second/validation.json").read_bytes()
    report = json.loads(first)
    assert report["success"] is True
    assert len(report["expectations"]) == 21
    observed = {(finding["column"], finding.get("observed")) for finding in report["expectations"]}
    assert {("rows_of_spam", 10), ("split_overlap", 0), ("train_rows", 15)} <= observed


def test_validation_warning_is_logged_and_stops_nothing(table, caplog):
    validation = validate("emails", [summary_check(table)])
    with caplog.at_level("WARNING"):
        validation.require_success()
    assert {finding["column"]: finding["expected"] for finding in validation.missed("warn")} == {
        "rows_of_ham": {"min_value": 30},
        "rows_of_spam": {"min_value": 30},
        "test_rows": {"min_value": 10},
        "validation_rows": {"min_value": 10},
    }
    assert "emails: summary, rows_of_spam: expect column max to be between (min_value 30.0); observed 10" in caplog.text


def test_gate_bound_may_be_changed_or_null(table):
    strict = Gates(rows_of_a_label={"fail": 15}, split_overlap={})
    expectations = summary_expectations(LABELS, strict)
    assert "split_overlap" not in {expectation.column for expectation in expectations}
    with pytest.raises(
        UserError, match=r"^emails: 1 checks failed\n  summary, rows_of_spam: .*min_value 15.*observed 10$"
    ):
        validate("emails", [replace(summary_check(table), expectations=expectations)]).require_success()


def test_validation_error_has_a_line_for_each_failed_expectation(table, tmp_path):
    table.loc[4, "label"] = "smap"
    table.loc[5, "text"] = None
    table.loc[[7, 8], "text"] = "x" * 101
    assert label_expectations([]) == []
    columns = gxe.ExpectTableColumnsToMatchOrderedList(column_list=["id"])
    missing = gxe.ExpectColumnValuesToNotBeNull(column="subject")
    validation = validate("emails", [Check("rows", [table], [*expectations(), columns, missing])])
    validation.write(tmp_path)
    with pytest.raises(UserError) as raised:
        validation.require_success()
    assert str(raised.value).splitlines() == [
        "emails: 5 checks failed",
        "  rows: expect table columns to match ordered list (column_list ['id']); "
        "observed ['id', 'label', 'split', 'text']",
        "  rows, label: expect column values to be in set (value_set ['ham', 'spam']); "
        "1 of 30 rows fail, such as mail.csv#4: 'smap'",
        '  rows, subject: expect column values to not be null; observed Error: The column "subject" in BatchData '
        "does not exist.",
        "  rows, text: expect column value lengths to be between (min_value 1, max_value 100); "
        f"2 of 30 rows fail, such as mail.csv#7: '{'x' * 100}', mail.csv#8: '{'x' * 100}'",
        "  rows, text: expect column values to not be null; 1 of 30 rows fail, such as mail.csv#5: 'None'",
    ]
    report = json.loads((tmp_path / "validation.json").read_text())
    assert report["success"] is False
    assert sum(not finding["success"] for finding in report["expectations"]) == 5


def test_gates_fail_for_a_bad_split_a_missing_label_and_too_many_dropped_rows(table):
    text = table["text"].mask(table["split"] != "train", "one two three four")
    bad = table.assign(text=text, label=table["label"].where(table["split"] == "train", "ham"))
    bad = bad[(bad["split"] != "test") & ((bad["label"] == "ham") | (bad.index < 6))]
    counts = Counts(overlapping=1, duplicates=50, left_out=90)
    summary = summary_of(bad, counts, groups="label", labels=LABELS)
    with pytest.raises(UserError) as raised:
        validate("emails", [Check("summary", [summary], summary_expectations(LABELS, Gates()))]).require_success()
    assert {line.split(": ")[0].split(", ")[1] for line in str(raised.value).splitlines()[1:]} == {
        *("left_out_share", "split_overlap", "splits_of_ham", "splits_of_spam", "rows_of_spam", "straddling_groups"),
        "test_rows",
    }


def test_summary_of_a_label_that_is_called_like_a_count(table):
    labels = ["duplicate", "train"]
    renamed = table.assign(label=table["label"].map(dict(zip(LABELS, labels, strict=True))))
    summary = summary_of(renamed, Counts(overlapping=0, duplicates=30), labels=labels).iloc[0]
    assert summary[["duplicate_share", "share_of_duplicate"]].tolist() == [0.5, 0.6667]
    assert summary[["train_rows", "rows_of_train"]].tolist() == [15, 10]


def test_pages_of_bad_data_show_it(table, tmp_path):
    validate("emails", [Check("rows", [table.assign(label="smap")], expectations())]).write_pages(tmp_path)
    assert "smap" in next((tmp_path / "validations").rglob("*.html")).read_text()
    assert (tmp_path / "index.html").is_file()


@pytest.mark.parametrize("good", [True, False])
def test_validation_of_batches_equals_that_of_the_whole_table(tmp_path, good):
    texts = ["one", "two", "three", "x", "y", "z"] if good else ["", "\ufffd", "", "x", "y", "z"]
    table = pd.DataFrame({"id": list("abcdef" if good else "aabcde"), "source": "s", "text": texts})
    reason = "3 checks failed\n  rows, id: expect column values to be unique; 2 of 6 rows fail, such as a: 'a', a: 'a'"
    reports: list[str] = []
    for batches in ([table], [table[:2], table[2:4], table[4:]], iter([table[:0], table])):
        validation = validate("corpus", [Check("rows", batches, corpus_expectations())])
        validation.write(tmp_path)
        with nullcontext() if good else pytest.raises(UserError, match=reason):
            validation.require_success()
        reports.append((tmp_path / "validation.json").read_text())
    assert reports[0] == reports[1] == reports[2]
    assert json.loads(reports[0])["success"] is good
