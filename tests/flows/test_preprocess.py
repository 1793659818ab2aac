import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from projects import ROOT

from flows.preprocess import add_inbox, check, drop_duplicates, leave_out, read, read_inbox, split_rows, write
from llm.errors import UserError
from tasks.data.cleaning.record import Record, recorded
from tasks.data.inbox import open_inbox
from tasks.data.splits import Split
from tasks.datasets import Dataset
from tasks.params.slices import find_dataset

PARAMS = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}


@pytest.fixture
def mails(tmp_path, monkeypatch):
    """Two sources of emails below data/raw/emails: 40 real ones of two labels, and two made-up ones."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/emails")
    folder.mkdir(parents=True)
    rows = [f"{('urgent', 'can wait')[n % 2]},Number {n},word{n} of{n} a{n} message{n}" for n in range(40)]
    (folder / "real.csv").write_text("\n".join(["label,subject,body", *rows]) + "\n")
    (folder / "made.csv").write_text("label,subject,body\nurgent,Fire,the house burns\ncan wait,Lunch,at noon\n")
    return folder


def test_a_glob_of_train_only_that_fits_no_source_stops_the_stage(mails):
    emails = find_dataset("emails")
    labels = ["urgent", "can wait"]
    with pytest.raises(UserError, match=r"'mad/\*' fits no source; sources are made\.csv, real\.csv"):
        read.fn("emails", emails, emails.params(**PARAMS, labels=labels, train_only=["made.csv", "mad/*"]))
    assert len(read.fn("emails", emails, emails.params(**PARAMS, labels=labels, train_only=["made.csv"]))) == 42


def test_a_dataset_without_a_row_is_said_before_anything_is_made_of_it(mails):
    for file in mails.iterdir():
        file.write_text("label,subject,body\n")
    emails = find_dataset("emails")
    with pytest.raises(UserError, match=r"^data/raw/emails: there is not one row in its files"):
        read.fn("emails", emails, emails.params(**PARAMS))


EQUAL = {
    "emails": {"label": "ham", "subject": "The same", "body": "again and again"},
    "corpus": {"text": "the same again and again"},
    "instructions": {"instruction": "Say it again.", "output": "The same."},
}


@pytest.mark.parametrize("name", EQUAL)
def test_rows_that_are_all_equal_are_one_and_too_few_to_split(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset, folder = find_dataset(name), Path("data/raw") / name
    params = dataset.params(**PARAMS, **({"rows_a_kind": 0} if name == "instructions" else {}))
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text("\n".join([json.dumps(EQUAL[name])] * 50))
    with recorded() as record:
        table = leave_out.fn(read.fn(name, dataset, params), dataset, params)
        table = drop_duplicates.fn(table, dataset, params)
    assert len(table) == 1
    assert record.counts() == {"near_duplicates": 49}
    with pytest.raises(UserError, match=r"^1 rows .* are too few for train, validation and test"):
        split_rows.fn(table, dataset, params)


def test_labels_of_the_parameters_are_what_every_split_must_have(mails, tmp_path):
    emails = find_dataset("emails")
    params = emails.params(**PARAMS, labels=["urgent", "can wait"])
    table = split_rows.fn(read.fn("emails", emails, params), emails, params)
    summary = check.fn("emails", Record(), table, emails, params, tmp_path / "report").iloc[0]
    assert summary[["splits_of_urgent", "splits_of_can wait"]].tolist() == [3, 3]
    third = emails.params(**PARAMS, labels=["urgent", "can wait", "no answer"])
    with pytest.raises(UserError, match=r"rows_of_no answer: .* observed 0"):
        check.fn("emails", Record(), table, emails, third, tmp_path / "other")


LABELS = ("urgent", "can wait")
WORDS = " ".join(f"shared{n}" for n in range(40))


def processed(**more) -> dict[str, pd.DataFrame]:
    """What the steps of `preprocess emails` write below the working folder."""
    emails = find_dataset("emails")
    params = emails.params(**PARAMS, labels=LABELS, **more)
    raw = read.fn("emails", emails, params)
    table = split_rows.fn(raw, emails, params)
    table = add_inbox.fn(table, read_inbox.fn(emails, params, open_inbox("emails")), emails, params)
    folder = Path("data/processed/emails")
    folder.mkdir(parents=True, exist_ok=True)
    write.fn(table, emails, params, folder)
    return {split: pd.read_parquet(folder / f"{split}.parquet") for split in ("train", "validation", "test")}


def said(*rows, file="feedback.jsonl", clients="x"):
    """Leave rows in the inbox, each once for each client: label, subject, body."""
    names = ("label", "subject", "body")
    path = Path("data/inbox/emails") / file
    given = [dict(zip(names, row, strict=True)) | {"client": client} for row in rows for client in clients]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))


@pytest.fixture
def drawn(mails) -> dict[str, pd.DataFrame]:
    """The splits of 300 mails that are just no near duplicates of each other, and an open inbox."""
    (mails / "made.csv").unlink()
    rows = [f"{LABELS[n % 2]},Number {n},{WORDS} {' '.join(f'own{n}of{i}' for i in range(6))}" for n in range(300)]
    (mails / "real.csv").write_text("\n".join(["label,subject,body", *rows]) + "\n")
    assert [path.name for path in open_inbox("emails").iterdir()] == [".gitignore"]
    return processed()


def test_feedback_and_files_of_an_inbox_are_learned_from_and_change_no_other_split(drawn):
    said(("urgent", "New", "something else entirely"))
    said(("can wait", "A file", "of somebody's own"), file="mine.jsonl")
    found = processed()
    for split in ("validation", "test"):
        pd.testing.assert_frame_equal(found[split], drawn[split])
    more = found["train"][len(drawn["train"]) :]
    pd.testing.assert_frame_equal(found["train"][: len(drawn["train"])], drawn["train"])
    assert more["id"].tolist() == ["inbox/mine.jsonl#1", "inbox/feedback.jsonl#1"]
    assert more["source"].tolist() == ["inbox/mine.jsonl", "inbox/feedback.jsonl"]


def test_the_hash_by_which_a_row_is_split_is_written_and_says_what_is_the_same_in_other_words(drawn):
    units = pd.concat(drawn.values())["unit"]
    assert units.is_unique
    mail = drawn["train"].iloc[0]
    said(("urgent", f"Re: {mail['subject'].upper()}!", "something else entirely"))
    new = processed(feedback_weight=1)["train"].iloc[-1]
    assert (new["id"], new["unit"]) == ("inbox/feedback.jsonl#1", mail["unit"])


def test_a_mail_that_is_learned_from_gives_way_to_three_networks_or_a_file_and_to_nobody_less(drawn):
    mail = drawn["train"].iloc[0]
    other = next(label for label in LABELS if label != mail["label"])
    correction = (other, mail["subject"], mail["body"] + " now!")  # a near duplicate is the same mail
    said(correction, clients="xy")
    pd.testing.assert_frame_equal(processed()["train"], drawn["train"])
    said(correction, clients="xyz")
    found = processed(feedback_weight=1)["train"]
    assert mail["id"] not in set(found["id"])
    assert found.iloc[-1][["id", "label"]].tolist() == ["inbox/feedback.jsonl#1", other]
    assert len(found) == len(drawn["train"])
    said(clients="x")
    said(correction, file="mine.jsonl")
    found = processed()["train"]
    assert mail["id"] not in set(found["id"])
    assert found.iloc[-1][["id", "label"]].tolist() == ["inbox/mine.jsonl#1", other]


def test_a_persons_own_file_counts_against_feedback(drawn):
    said(("urgent", "New", "something else entirely"), file="mine.jsonl")
    said(("can wait", "New", "something else entirely."))
    found = processed(feedback_weight=1)["train"]
    assert found[len(drawn["train"]) :][["id", "label"]].to_numpy().tolist() == [["inbox/mine.jsonl#1", "urgent"]]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_mail_that_is_measured_on_keeps_its_place_and_its_label(drawn, split):
    mail = drawn[split].iloc[0]
    other = next(label for label in LABELS if label != mail["label"])
    said((other, mail["subject"], mail["body"]), (other, mail["subject"], mail["body"] + " now"))
    for name, table in processed().items():
        pd.testing.assert_frame_equal(table, drawn[name])


def test_feedback_that_is_near_to_mails_of_all_splits_is_left_out_and_joins_none_of_them(drawn):
    said(("urgent", "", WORDS), ("can wait", "New", "something else"))
    found = processed(feedback_weight=1)
    assert found["train"].iloc[-1]["id"] == "inbox/feedback.jsonl#2"
    for name, table in (found | {"train": found["train"][:-1]}).items():
        pd.testing.assert_frame_equal(table, drawn[name])


def test_a_row_of_an_inbox_that_is_too_long_or_repeats_itself_is_left_out(drawn):
    said(("urgent", "s" * 2_001, "a"), ("urgent", "b", "again\n" * 20), ("urgent", "New", "something else"))
    found = processed(feedback_weight=1)["train"]
    assert found["id"][len(drawn["train"]) :].tolist() == ["inbox/feedback.jsonl#3"]


def test_a_row_of_an_inbox_that_cannot_be_read_is_named(drawn):
    said(("urgent", "a", "b"), ("smap", "a", "c"))
    with pytest.raises(
        UserError, match=r"^data/inbox/emails/feedback\.jsonl, row 2: label 'smap' is not one of urgent"
    ):
        processed()


def test_the_same_question_in_any_wording_of_validation_or_test_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data/instructions", "data/instructions")
    instructions = find_dataset("instructions")
    params = instructions.params(**PARAMS, rows_a_kind=12)
    Path("data/raw/instructions").mkdir(parents=True)
    Path("data/raw/instructions/talk.jsonl").write_text('{"instruction": "Hello there!", "output": "Hi"}\n')
    drawn = split_rows.fn(read.fn("instructions", instructions, params), instructions, params)
    tested = drawn[(drawn["split"] == "test") & (drawn["kind"] != "own")].iloc[0]
    learned = drawn[(drawn["split"] == "train") & (drawn["kind"] != "own")].iloc[0]
    asked = [(tested["test_instruction"], tested["test_input"]), (tested["instruction"], tested["input"])]
    asked += [(learned["instruction"], learned["input"]), ("What is new under the sun?", "")]
    rows = [{"instruction": text, "input": given, "output": "Mine.", "client": "x"} for text, given in asked]
    (open_inbox("instructions") / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    left = read_inbox.fn(instructions, params, open_inbox("instructions"))
    found = add_inbox.fn(drawn, left, instructions, params)
    new = found[found["id"].str.startswith("inbox/")]
    assert new["id"].tolist() == ["inbox/mine.jsonl#3", "inbox/mine.jsonl#4"]
    assert set(new["split"]) == {"train"}
    assert learned["id"] not in set(found["id"])
    assert tested["id"] in set(found["id"])
    assert len(found) == len(drawn) + 1


def test_files_of_people_join_the_corpus_once_and_a_dataset_without_sources_can_have_an_inbox_too(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    corpus, folder = find_dataset("corpus"), open_inbox("corpus")
    (folder / "notes.txt").write_text("A note of one's own.")
    left = read_inbox.fn(corpus, corpus.params(**PARAMS), folder)
    assert left.to_numpy().tolist() == [["inbox/notes.txt", "inbox/notes.txt", "A note of one's own."]]
    bare = Dataset(
        params=Split,
        read=lambda folder, params: pd.DataFrame({"id": ["a.csv#2"], "body": ["b"]}),
        text=lambda table: table["body"],
        expectations=list,
    )
    table = pd.DataFrame({"id": ["real"], "body": ["c"], "split": ["train"]})
    found = add_inbox.fn(table, read_inbox.fn(bare, Split(**PARAMS), folder), bare, Split(**PARAMS))
    assert found.to_numpy().tolist() == [["real", "c", "train"], ["inbox/a.csv#2", "b", "train"]]


def test_personal_data_of_an_inbox_is_masked_after_rows_are_known_again(drawn):
    tested = drawn["test"].iloc[0]
    said(("urgent", "Call", "me at +49 30 12345678"), ("urgent", tested["subject"], tested["body"] + " a@b.org"))
    found = processed(feedback_weight=1)
    assert found["train"].iloc[-1][["id", "body"]].tolist() == ["inbox/feedback.jsonl#1", "me at +1 202 555 0100"]
    assert len(found["train"]) == len(drawn["train"]) + 1
    assert processed(feedback_weight=1, mask_personal_data="none")["train"]["body"].iloc[-1] == "me at +49 30 12345678"
    everywhere = processed(mask_personal_data="all")
    pd.testing.assert_frame_equal(everywhere["test"], drawn["test"])


def test_what_feedback_has_in_common_with_a_mail_that_is_tested_on_is_left_out(drawn):
    tested = drawn["validation"].iloc[0]
    said(("urgent", "Fwd", f"see below\n> {tested['body']}\nmore of it in a line that is as long as the other one is"))
    with recorded() as record:
        assert len(processed()["train"]) == len(drawn["train"])
    assert record.quarantine()[["id", "rule"]].to_numpy().tolist() == [["inbox/feedback.jsonl#1", "inbox"]]
