"""The way of a table: cleaned, de-duplicated, split, joined with the inbox, in the order of flows/preprocess.py."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data import emails, instructions
from tasks.data.duplicates import first_of_groups
from tasks.data.findings import Findings
from tasks.data.preprocess import (
    add_inbox,
    compared_text,
    drop_duplicates,
    drop_shared_lines,
    long_lines,
    read,
    read_inbox,
    repeated_lines,
    split,
    write_splits,
)
from tasks.data.splits import SPLITS

LABELS = ("urgent", "can wait")
WORDS = " ".join(f"shared{n}" for n in range(40))
RAW = Path("data/raw/emails")
INBOX = Path("data/inbox/emails")


def params(**changes):
    defaults = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8, "labels": LABELS}
    return emails.Params.model_validate({**defaults, "feedback_weight": 1, **changes})


def processed(findings=None, **changes):
    """The rows of the raw mails and the inbox below the working folder."""
    findings = findings or Findings()
    values = params(**changes)
    table = read(emails, RAW, params=values, findings=findings)
    inbox = read_inbox(emails, INBOX, params=values, findings=findings)
    table = drop_duplicates(table, emails, params=values, findings=findings)
    table = split(table, emails, params=values, findings=findings)
    table = drop_shared_lines(table, "body", findings)
    return add_inbox(table, inbox, emails, params=values, findings=findings)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def mail(label, subject, body):
    return {"label": label, "subject": subject, "body": body}


def leave(*mails, file="feedback.jsonl"):
    """Leave mails in the inbox."""
    write(INBOX / file, [mail(*cells) for cells in mails])


def other_label(row):
    return LABELS[1 - LABELS.index(row["label"])]


def first_of(table, name):
    return table[table["split"] == name].iloc[0]


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The table of 90 mails below the working folder that are just no near duplicates of each other."""
    monkeypatch.chdir(tmp_path)
    INBOX.mkdir(parents=True)
    rows = []
    for number in range(90):
        own_words = " ".join(f"own{number}of{n}" for n in range(6))
        rows.append(mail(LABELS[number % 2], f"Number {number}", f"{WORDS} {own_words}"))
    write(RAW / "real.jsonl", rows)
    return processed()


def new_rows(after):
    return after[after["id"].str.startswith("inbox/")]


def splits(rows, findings):
    values = params(train_only=["made"], validation=0.15, test=0.2)
    table = pd.DataFrame(rows)
    table = drop_duplicates(table.assign(group=table["subject"]), emails, params=values, findings=findings)
    table = split(table, emails, params=values, findings=findings)
    return drop_shared_lines(table, "body", findings).set_index("id")["split"]


def test_split_moves_no_row_when_one_is_added_or_removed():
    generator = np.random.default_rng(5)
    rows = []
    for number in range(200):
        lines = [" ".join(f"line{line}word{n}" for n in range(9)) for line in generator.integers(130, size=2)]
        subject = f"Subject {generator.integers(100)}"
        source = "real" if number % 9 else "made"
        rows.append({"id": str(number), "source": source, **mail(LABELS[number % 2], subject, "\n".join(lines))})
    rows += [row | {"id": f"again {row['id']}"} for row in rows[:10]]
    findings = Findings()
    before = splits(rows, findings)
    assert set(findings.counts()) == {"near_duplicates", "train_only", "long_lines"}
    for position in generator.integers(200, size=9):
        after = splits([*rows[:position], *rows[position + 1 :]], Findings())
        common = before.index.intersection(after.index)
        assert len(common) > 0.95 * len(before)
        assert after[common].equals(before[common])


def test_no_near_duplicate_or_group_is_in_two_splits(table):
    near = first_of_groups(compared_text(table, ["subject", "body"]).tolist(), 0.8)
    assert len(set(near)) == len(table)
    assert table["unit"].is_unique
    assert set(table["split"]) == set(SPLITS)


def test_train_only_rows_go_to_train_and_their_groups_leave_validation_and_test(table):
    tested = first_of(table, "test")
    write(RAW / "made.jsonl", [mail("urgent", f"Re: {tested['subject']}", "something else entirely")])
    findings = Findings()
    after = processed(findings, train_only=["made.jsonl"])
    assert after[after["id"] == "made.jsonl#1"]["split"].tolist() == ["train"]
    assert [row["id"] for row in findings.dropped] == [tested["id"]]


def test_files_named_after_splits_keep_their_rows_there_and_rows_of_their_groups_out_of_train(table):
    (RAW / "real.jsonl").unlink()
    for name in SPLITS:
        write(RAW / f"own/{name}.jsonl", [mail("urgent", f"Case {name}", name), mail("can wait", f"Mail {name}", name)])
    write(RAW / "more.jsonl", [mail("urgent", "Re: case test", "x"), mail("urgent", "Another thing", "new words")])
    findings = Findings()
    after = processed(findings, train_only=["more.jsonl"])
    of_source = after.groupby("source")["split"].agg(set).to_dict()
    assert of_source == {"more.jsonl": {"train"}, **{f"own/{name}.jsonl": {name} for name in SPLITS}}
    assert [row["id"] for row in findings.dropped] == ["more.jsonl#1"]


def test_dropped_rows_have_a_rule_and_a_reason(table, tmp_path):
    rows = [mail("urgent", "x" * 3_000, "one"), mail("urgent", "Again", "again\n" * 20)]
    rows += [mail("can wait", "Two times", "the same"), mail("can wait", "Two times!", "The same")]
    write(RAW / "a.jsonl", rows)
    findings = Findings()
    processed(findings)
    findings.write(tmp_path / "dropped.parquet")
    dropped = pd.read_parquet(tmp_path / "dropped.parquet")
    assert dropped[["id", "rule"]].to_numpy().tolist() == [
        ["a.jsonl#1", "lengths"],
        ["a.jsonl#2", "repetition"],
        ["a.jsonl#4", "near_duplicates"],
    ]
    assert dropped["reason"][2] == "as a.jsonl#3"


def test_files_without_a_row_are_an_error(table):
    (RAW / "real.jsonl").write_text("\n")
    with pytest.raises(UserError, match="data/raw/emails"):
        processed()


def test_inbox_joins_train_alone_and_its_rows_that_can_not_be_read_are_named(table):
    leave(("urgent", "New", "something else entirely"))
    leave(("can wait", "A file", "of somebody's own"), file="mine.jsonl")
    after = processed()
    is_old = ~after["id"].str.startswith("inbox/")
    pd.testing.assert_frame_equal(after[is_old], table)
    assert new_rows(after)[["id", "source", "split"]].to_numpy().tolist() == [
        ["inbox/feedback.jsonl#1", "inbox/feedback.jsonl", "train"],
        ["inbox/mine.jsonl#1", "inbox/mine.jsonl", "train"],
    ]
    leave(("urgent", "a", "b"), ("smap", "a", "c"))
    with pytest.raises(UserError, match=r"data/inbox/emails/feedback\.jsonl.*row 2.*smap"):
        processed()


def test_inbox_row_near_to_a_tested_mail_is_dropped(table):
    for name in ("validation", "test"):
        equal, near, answered = [row for _, row in table[table["split"] == name].head(3).iterrows()]
        leave(
            (other_label(equal), equal["subject"], equal["body"]),
            (other_label(near), near["subject"], near["body"] + " now!"),
            (other_label(answered), f"Re: {answered['subject'].upper()}", "of its thread"),
            file=f"near-{name}.jsonl",
        )
    findings = Findings()
    pd.testing.assert_frame_equal(processed(findings), table)
    assert findings.counts() == {"inbox": 6}


def test_inbox_row_replaces_a_near_one_of_train_and_the_last_of_near_ones_counts(table):
    learned = first_of(table, "train")
    body = learned["body"]
    leave((learned["label"], learned["subject"], body), (other_label(learned), learned["subject"], body + " now!"))
    after = processed()
    assert learned["id"] not in set(after["id"])
    assert new_rows(after)[["id", "label", "unit"]].to_numpy().tolist() == [
        ["inbox/feedback.jsonl#2", other_label(learned), learned["unit"]]
    ]


def test_feedback_is_in_train_as_often_as_its_weight_and_files_once(table):
    leave(("urgent", "New", "something else entirely"))
    leave(("can wait", "A file", "of somebody's own"), file="mine.jsonl")
    ids = new_rows(processed(feedback_weight=3))["id"].tolist()
    assert sorted(ids) == [*(f"inbox/feedback.jsonl#1{copy}" for copy in ("", " x2", " x3")), "inbox/mine.jsonl#1"]


def test_personal_data_of_the_inbox_is_masked_after_rows_are_compared(table):
    tested = first_of(table, "test")
    leave(("urgent", "Call", "me at +49 30 12345678"), ("urgent", tested["subject"], tested["body"] + " a@b.org"))
    assert new_rows(processed())["body"].tolist() == ["me at +1 202 555 0100"]
    assert new_rows(processed(mask_personal_data="none"))["body"].tolist() == ["me at +49 30 12345678"]


def test_inbox_question_that_is_tested_is_dropped_whatever_its_answer():
    questions = {"instruction": ["What is seven times six?", "Who wrote the two parts of Faust?"], "output": "one"}
    table = pd.DataFrame({**questions, "id": ["tested", "learned"], "split": ["test", "train"]})
    table = table.assign(source="a", system="", history="", input="")
    inbox = table.assign(id=["of tested", "of learned"], output="two, after all").drop(columns="split")
    values = instructions.Params(near_duplicate=0.9)
    after = add_inbox(table, inbox, instructions, params=values, findings=Findings())
    assert after["id"].tolist() == ["tested", "of learned"]


def test_written_splits_have_the_unit_and_no_group(table, tmp_path):
    write_splits(table, tmp_path)
    for name in SPLITS:
        written = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert list(written) == ["id", "source", "subject", "body", "label", "unit"]
        assert written["id"].tolist() == table[table["split"] == name]["id"].tolist()


def test_repeated_and_long_lines():
    assert repeated_lines("a\nb") == repeated_lines("a\n" * 5) == 0
    assert repeated_lines("a\n" * 19 + "b") == 0.9
    long = "> This line is long enough to be a sign of a thread."
    assert long_lines(f"{long}\nshort\n{long[2:].upper()}") == {"this line is long enough to be a sign of a thread"}
