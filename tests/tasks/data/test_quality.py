import great_expectations.expectations as gxe
import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.findings import Findings
from tasks.data.quality import cell_expectations, summarise, summary_expectations, validate
from tasks.data.splits import Gates

LABELS = ["ham", "spam"]


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "id": [f"mail.csv#{n}" for n in range(30)],
            "label": ["ham", "ham", "spam"] * 10,
            "split": ["train"] * 15 + ["validation"] * 9 + ["test"] * 6,
            "text": [f"a{n} b{n} c{n} d{n}" for n in range(30)],
            "unit": range(30),
        }
    )


def found(duplicates=0, left_out=0):
    findings = Findings()
    for number in range(duplicates):
        findings.drop("near_duplicates", str(number), "as a")
    for number in range(left_out):
        findings.drop("a rule of one's own", str(number), "too long")
    findings.drop("inbox", "mine", "says nothing about the quality of other rows")
    return findings


def checked(table, findings=None, gates=None):
    expectations = [
        *cell_expectations(["id", "text"]),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=LABELS),
        gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=1, max_value=100),
    ]
    summary = summarise(table, findings or Findings(), near=table.index, labels=LABELS)
    bounds = summary_expectations(LABELS, gates or Gates())
    return validate("emails", rows=(table, expectations), summary=(summary, bounds))


def test_summary_counts_rows_splits_and_labels(table):
    table.loc[[14, 15], "unit"] = 14
    near = table.index.where(table.index != 29, 0)
    summary = summarise(table, found(10, 5), near=near, labels=LABELS).iloc[0].to_dict()
    assert summary == {
        "id": "summary",
        "rows_read": 45,
        "rows": 30,
        "duplicate_share": 0.2222,
        "left_out_share": 0.1111,
        "split_overlap": 1,
        "straddling_groups": 1,
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


def test_validation_of_a_good_table_warns_and_repeats_its_report(table, tmp_path, caplog):
    for name in ("first", "second"):
        validation = checked(table)
        validation.write(tmp_path / name)
        validation.require_success()
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert '"observed": 10' in (tmp_path / "first").read_text()
    warned = {entry["column"] for entry in validation.failed("warn")}
    assert warned == {"rows_of_ham", "rows_of_spam", "test_rows", "validation_rows"}
    assert "rows_of_spam" in caplog.text


def test_gate_bound_may_be_changed_or_null(table):
    table.loc[[14, 15], "unit"] = 14
    gates = Gates(rows_of_a_label={"fail": 15}, straddling_groups={})
    assert [entry["column"] for entry in checked(table, gates=gates).failed("fail")] == ["rows_of_spam"]


def test_validation_error_names_each_expectation_with_row_and_value(table, tmp_path):
    table.loc[4, "label"] = "smap"
    table.loc[5, "text"] = None
    table.loc[[7, 8], "text"] = "x" * 101
    validation = checked(table)
    with pytest.raises(UserError, match=r"(?s)3 checks failed.*#5: 'None'.*#7: 'xxx.*mail\.csv#4: 'smap'"):
        validation.require_success()
    validation.write_pages(tmp_path)
    assert "smap" in next((tmp_path / "validations/rows").rglob("*.html")).read_text()


def test_gates_fail_for_a_bad_split_a_missing_label_and_too_many_dropped_rows(table):
    bad = table[(table["split"] != "test") & ((table["label"] == "ham") | (table.index < 6))]
    bad = bad.assign(unit=0)
    failed = {entry["column"] for entry in checked(bad, found(50, 90)).failed("fail")}
    assert failed == {
        *("left_out_share", "splits_of_ham", "splits_of_spam", "rows_of_spam", "straddling_groups", "test_rows"),
    }
