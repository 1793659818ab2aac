import json
from contextlib import nullcontext

import great_expectations.expectations as gxe
import mlflow
import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.gates import Gates
from tasks.data.quality import Check, Counts, label_expectations, summarise, summary_expectations, validate
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


def summary_of(table):
    return summarise(table, Counts(overlapping=0), labels=LABELS)


def test_summary_counts_rows_splits_and_labels(table):
    counts = Counts(overlapping=1, duplicates=10, left_out=5)
    summary = summarise(table, counts, groups="label", labels=LABELS).iloc[0].to_dict()
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
        checks = [
            Check("rows", [table], expectations()),
            Check("summary", [summary_of(table)], summary_expectations(LABELS, Gates())),
        ]
        validate("emails", checks, tmp_path / name)
    first = (tmp_path / "first/validation.json").read_bytes()
    assert first == (tmp_path / "second/validation.json").read_bytes()
    report = json.loads(first)
    assert report["success"] is True
    assert len(report["expectations"]) == 21
    observed = {(finding["column"], finding.get("observed")) for finding in report["expectations"]}
    assert {("rows_of_spam", 10), ("split_overlap", 0), ("train_rows", 15)} <= observed


def test_validation_warning_is_logged_and_reported_and_stops_nothing(table, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        validate("emails", [Check("summary", [summary_of(table)], summary_expectations(LABELS, Gates()))], tmp_path)
    report = json.loads((tmp_path / "validation.json").read_text())
    failed = [finding for finding in report["expectations"] if not finding["success"]]
    assert {finding["column"]: finding["expected"] for finding in failed} == {
        "rows_of_ham": {"min_value": 30},
        "rows_of_spam": {"min_value": 30},
        "test_rows": {"min_value": 10},
        "validation_rows": {"min_value": 10},
    }
    assert {finding["level"] for finding in failed} == {"warn"}
    assert "emails: summary, rows_of_spam: expect column max to be between (min_value 30.0); observed 10" in caplog.text


def test_gate_bound_may_be_changed_or_null(table, tmp_path):
    strict = Gates(rows_of_a_label={"fail": 15}, split_overlap={"fail": None})
    expectations = summary_expectations(LABELS, strict)
    assert "split_overlap" not in {expectation.column for expectation in expectations}
    with pytest.raises(
        UserError, match=r"^emails: 1 checks failed\n  summary, rows_of_spam: .*min_value 15.*observed 10$"
    ):
        validate("emails", [Check("summary", [summary_of(table)], expectations)], tmp_path)


def test_validation_error_has_a_line_for_each_failed_expectation(table, tmp_path):
    table.loc[4, "label"] = "smap"
    table.loc[5, "text"] = None
    table.loc[[7, 8], "text"] = "x" * 101
    assert label_expectations([]) == []
    columns = gxe.ExpectTableColumnsToMatchOrderedList(column_list=["id"])
    missing = gxe.ExpectColumnValuesToNotBeNull(column="subject")
    with pytest.raises(UserError) as raised:
        validate("emails", [Check("rows", [table], [*expectations(), columns, missing])], tmp_path)
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


def test_gates_fail_for_a_bad_split_a_missing_label_and_too_many_dropped_rows(table, tmp_path):
    text = table["text"].mask(table["split"] != "train", "one two three four")
    bad = table.assign(text=text, label=table["label"].where(table["split"] == "train", "ham"))
    bad = bad[(bad["split"] != "test") & ((bad["label"] == "ham") | (bad.index < 6))]
    counts = Counts(overlapping=1, duplicates=50, left_out=90)
    summary = summarise(bad, counts, groups="label", labels=LABELS)
    with pytest.raises(UserError) as raised:
        validate("emails", [Check("summary", [summary], summary_expectations(LABELS, Gates()))], tmp_path)
    assert {line.split(": ")[0].split(", ")[1] for line in str(raised.value).splitlines()[1:]} == {
        *("left_out_share", "split_overlap", "splits_of_ham", "splits_of_spam", "rows_of_spam", "straddling_groups"),
        "test_rows",
    }


def test_summary_of_a_label_that_is_called_like_a_count(table):
    labels = ["duplicate", "train"]
    renamed = table.assign(label=table["label"].map(dict(zip(LABELS, labels, strict=True))))
    summary = summarise(renamed, Counts(overlapping=0, duplicates=30), labels=labels).iloc[0]
    assert summary[["duplicate_share", "share_of_duplicate"]].tolist() == [0.5, 0.6667]
    assert summary[["train_rows", "rows_of_train"]].tolist() == [15, 10]


def test_mlflow_run_gets_report_and_pages_even_of_bad_data(table, tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("quality", artifact_location=str(tmp_path / "artifacts"))
    bad = table.assign(label="smap")
    with pytest.raises(UserError, match="emails: 1 checks failed"), mlflow.start_run(experiment_id=experiment) as run:
        validate("emails", [Check("rows", [bad], expectations())], tmp_path / "report")
    artifacts = tmp_path / "artifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "validation.json").read_bytes() == (tmp_path / "report" / "validation.json").read_bytes()
    assert "smap" in next((artifacts / "data_docs" / "validations").rglob("*.html")).read_text()
    assert (artifacts / "data_docs" / "index.html").is_file()


@pytest.mark.parametrize("good", [True, False])
def test_validation_of_batches_equals_that_of_the_whole_table(tmp_path, good):
    texts = ["one", "two", "three", "x", "y", "z"] if good else ["", "\ufffd", "", "x", "y", "z"]
    table = pd.DataFrame({"id": list("abcdef" if good else "aabcde"), "source": "s", "text": texts})
    reason = "3 checks failed\n  rows, id: expect column values to be unique; 2 of 6 rows fail, such as a: 'a', a: 'a'"
    reports: list[str] = []
    for batches in ([table], [table[:2], table[2:4], table[4:]], iter([table[:0], table])):
        folder = tmp_path / str(len(reports))
        with nullcontext() if good else pytest.raises(UserError, match=reason):
            validate("corpus", [Check("rows", batches, corpus_expectations())], folder)
        reports.append((folder / "validation.json").read_text())
    assert reports[0] == reports[1] == reports[2]
    assert json.loads(reports[0])["success"] is good
