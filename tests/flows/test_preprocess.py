import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from dataset_rows import as_rows, as_table
from projects import ROOT

from llm.errors import UserError
from tasks.data.cleaning.record import Record, recorded
from tasks.data.dataset import Dataset
from tasks.data.duplicates import without_duplicates
from tasks.data.inbox import open_inbox
from tasks.data.rows import Rows
from tasks.data.splits import SPLITS, Split
from tasks.data.steps import Preprocessing, add_inbox, check, read_inbox, read_rows, split_rows, summarise
from tasks.params import find_dataset

PARAMS = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}
LABELS = ("urgent", "can wait")
WORDS = " ".join(f"shared{n}" for n in range(40))


def job_of(name: str, **params) -> Preprocessing:
    """The preprocessing of a dataset below the working folder."""
    dataset = find_dataset(name)
    return Preprocessing(
        name=name,
        dataset=dataset,
        params=dataset.params(**PARAMS, **params),
        raw=Path("data/raw") / name,
        work=Path("work"),
        inbox=open_inbox(name),
    )


def read(job: Preprocessing) -> Rows:
    return read_rows(job, str)


@pytest.fixture
def mails(tmp_path, monkeypatch):
    """Two sources of emails below data/raw/emails: 40 real ones of two labels, and two made-up ones."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/emails")
    folder.mkdir(parents=True)
    rows = [f"{LABELS[n % 2]},Number {n},word{n} of{n} a{n} message{n}" for n in range(40)]
    (folder / "real.csv").write_text("\n".join(["label,subject,body", *rows]) + "\n")
    (folder / "made.csv").write_text("label,subject,body\nurgent,Fire,the house burns\ncan wait,Lunch,at noon\n")
    return folder


def test_train_only_glob_that_fits_no_source_stops_the_stage(mails):
    with pytest.raises(UserError, match=r"'mad/\*' fits no source; sources are made\.csv, real\.csv"):
        read(job_of("emails", labels=LABELS, train_only=["made.csv", "mad/*"]))
    assert len(read(job_of("emails", labels=LABELS, train_only=["made.csv"])).facts) == 42


def test_dataset_without_a_row_is_an_error(mails):
    for file in mails.iterdir():
        file.write_text("label,subject,body\n")
    with pytest.raises(UserError, match=r"^data/raw/emails: there is not one row in its files"):
        read(job_of("emails"))


EQUAL = {
    "emails": {"label": "ham", "subject": "The same", "body": "again and again"},
    "corpus": {"text": "the same again and again"},
    "instructions": {"instruction": "Say it again.", "output": "The same."},
}


@pytest.mark.parametrize("name", EQUAL)
def test_duplicates_alone_are_one_row_and_too_few_to_split(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = job_of(name, **({"rows_a_kind": 0} if name == "instructions" else {}))
    job.raw.mkdir(parents=True)
    (job.raw / "a.jsonl").write_text("\n".join([json.dumps(EQUAL[name])] * 50))
    with recorded() as record:
        rows = without_duplicates(read(job), 0.8)
    assert len(rows.facts) == 1
    assert record.counts() == {"near_duplicates": 49}
    with pytest.raises(UserError, match=r"^1 rows .* are too few for train, validation and test"):
        split_rows(rows, job.params)


def test_labels_of_the_parameters_must_be_in_every_split(mails):
    job = job_of("emails", labels=LABELS)
    rows = split_rows(read(job), job.params)
    summary = summarise(job, rows, Record())
    check(job, rows, summary).require_success()
    assert summary.iloc[0][["splits_of_urgent", "splits_of_can wait"]].tolist() == [3, 3]
    with_third = job_of("emails", labels=[*LABELS, "no answer"])
    with pytest.raises(UserError, match=r"rows_of_no answer: .* observed 0"):
        check(with_third, rows, summarise(with_third, rows, Record())).require_success()


def processed(**params) -> dict[str, pd.DataFrame]:
    """What the steps of `preprocess emails` write below the working folder."""
    job = job_of("emails", labels=LABELS, **params)
    rows = split_rows(read(job), job.params)
    rows = add_inbox(rows, read_inbox(job), job.params)
    folder = Path("data/processed/emails")
    folder.mkdir(parents=True, exist_ok=True)
    job.dataset.write(rows, folder, job.params)
    return {split: pd.read_parquet(folder / f"{split}.parquet") for split in SPLITS}


Mail = tuple[str, str, str]


def leave(*mails: Mail, file: str = "feedback.jsonl", clients: Sequence[str] = "x") -> None:
    """Leave mails in the inbox, each once for each client: label, subject, body."""
    table = pd.DataFrame(mails, columns=["label", "subject", "body"])
    table = table.merge(pd.Series(list(clients), name="client"), how="cross")
    (Path("data/inbox/emails") / file).write_text(table.to_json(orient="records", lines=True))


def other_label(mail: pd.Series) -> str:
    return LABELS[1 - LABELS.index(mail["label"])]


@pytest.fixture
def drawn(mails) -> dict[str, pd.DataFrame]:
    """The splits of 300 mails that are just no near duplicates of each other, and an open inbox."""
    (mails / "made.csv").unlink()
    lines = ["label,subject,body"]
    for number in range(300):
        own_words = " ".join(f"own{number}of{n}" for n in range(6))
        lines.append(f"{LABELS[number % 2]},Number {number},{WORDS} {own_words}")
    (mails / "real.csv").write_text("\n".join(lines) + "\n")
    assert [path.name for path in open_inbox("emails").iterdir()] == [".gitignore"]
    return processed()


def assert_equal(tables: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for split in SPLITS:
        pd.testing.assert_frame_equal(tables[split], expected[split])


def test_inbox_feedback_and_files_join_train_and_change_no_other_split(drawn):
    leave(("urgent", "New", "something else entirely"))
    leave(("can wait", "A file", "of somebody's own"), file="mine.jsonl")
    tables = processed()
    new = tables["train"][len(drawn["train"]) :]
    assert_equal(tables | {"train": tables["train"][: len(drawn["train"])]}, drawn)
    assert new["id"].tolist() == ["inbox/mine.jsonl#1", "inbox/feedback.jsonl#1"]
    assert new["source"].tolist() == ["inbox/mine.jsonl", "inbox/feedback.jsonl"]


def test_unit_is_equal_for_mails_of_one_thread(drawn):
    assert pd.concat(drawn.values())["unit"].is_unique
    mail = drawn["train"].iloc[0]
    leave(("urgent", f"Re: {mail['subject'].upper()}!", "something else entirely"))
    new = processed(feedback_weight=1)["train"].iloc[-1]
    assert (new["id"], new["unit"]) == ("inbox/feedback.jsonl#1", mail["unit"])


def test_train_row_gives_way_to_three_networks_or_a_file_and_to_nobody_less(drawn):
    mail = drawn["train"].iloc[0]
    correction = (other_label(mail), mail["subject"], mail["body"] + " now!")  # a near duplicate is the same mail
    leave(correction, clients="xy")
    pd.testing.assert_frame_equal(processed()["train"], drawn["train"])
    leave(correction, clients="xyz")
    train = processed(feedback_weight=1)["train"]
    assert mail["id"] not in set(train["id"])
    assert train.iloc[-1][["id", "label"]].tolist() == ["inbox/feedback.jsonl#1", other_label(mail)]
    assert len(train) == len(drawn["train"])
    leave(clients="x")
    leave(correction, file="mine.jsonl")
    train = processed()["train"]
    assert mail["id"] not in set(train["id"])
    assert train.iloc[-1][["id", "label"]].tolist() == ["inbox/mine.jsonl#1", other_label(mail)]


def test_inbox_file_counts_against_feedback(drawn):
    leave(("urgent", "New", "something else entirely"), file="mine.jsonl")
    leave(("can wait", "New", "something else entirely."))
    new = processed(feedback_weight=1)["train"][len(drawn["train"]) :]
    assert new[["id", "label"]].to_numpy().tolist() == [["inbox/mine.jsonl#1", "urgent"]]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_mail_keeps_its_split_and_its_label(drawn, split):
    mail = drawn[split].iloc[0]
    label = other_label(mail)
    leave((label, mail["subject"], mail["body"]), (label, mail["subject"], mail["body"] + " now"))
    assert_equal(processed(), drawn)


def test_feedback_near_to_mails_of_all_splits_is_dropped(drawn):
    leave(("urgent", "", WORDS), ("can wait", "New", "something else"))
    tables = processed(feedback_weight=1)
    assert tables["train"].iloc[-1]["id"] == "inbox/feedback.jsonl#2"
    assert_equal(tables | {"train": tables["train"][:-1]}, drawn)


def test_inbox_row_that_is_too_long_or_repeats_itself_is_dropped(drawn):
    leave(("urgent", "s" * 2_001, "a"), ("urgent", "b", "again\n" * 20), ("urgent", "New", "something else"))
    train = processed(feedback_weight=1)["train"]
    assert train["id"][len(drawn["train"]) :].tolist() == ["inbox/feedback.jsonl#3"]


def test_inbox_row_that_cannot_be_read_is_named(drawn):
    leave(("urgent", "a", "b"), ("smap", "a", "c"))
    reason = r"^data/inbox/emails/feedback\.jsonl, row 2: label 'smap' is not one of urgent"
    with pytest.raises(UserError, match=reason):
        processed()


def test_inbox_question_in_any_wording_of_validation_or_test_is_dropped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data/instructions", "data/instructions")
    job = job_of("instructions", rows_a_kind=12)
    job.raw.mkdir(parents=True)
    (job.raw / "talk.jsonl").write_text('{"instruction": "Hello there!", "output": "Hi"}\n')
    rows = split_rows(read(job), job.params)
    table = as_table(rows)
    made = table[table["kind"] != "own"]
    tested = made[made["split"] == "test"].iloc[0]
    learned = made[made["split"] == "train"].iloc[0]
    questions = [
        (tested["test_instruction"], tested["test_input"]),
        (tested["instruction"], tested["input"]),
        (learned["instruction"], learned["input"]),
        ("What is new under the sun?", ""),
    ]
    own = pd.DataFrame(questions, columns=["instruction", "input"]).assign(output="Mine.", client="x")
    own.to_json(job.inbox / "mine.jsonl", orient="records", lines=True)
    joined = as_table(add_inbox(rows, read_inbox(job), job.params))
    new = joined[joined["id"].str.startswith("inbox/")]
    assert new["id"].tolist() == ["inbox/mine.jsonl#3", "inbox/mine.jsonl#4"]
    assert set(new["split"]) == {"train"}
    assert learned["id"] not in set(joined["id"])
    assert tested["id"] in set(joined["id"])
    assert len(joined) == len(table) + 1


def test_inbox_of_the_corpus_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = job_of("corpus")
    (job.inbox / "notes.txt").write_text("A note of one's own.")
    assert read_inbox(job).to_numpy().tolist() == [["inbox/notes.txt", "inbox/notes.txt", "A note of one's own."]]


def test_inbox_of_a_dataset_without_sources_joins_train(tmp_path):
    bare = Dataset(
        params=Split,
        read=lambda folder, params: pd.DataFrame({"id": ["a.csv#2"], "body": ["b"]}),
        text=lambda table: table["body"],
        expectations=list,
    )
    (tmp_path / "a.csv").write_text("body\nb\n")
    params = Split(**PARAMS)
    job = Preprocessing(name="bare", dataset=bare, params=params, raw=tmp_path, work=tmp_path, inbox=tmp_path)
    rows = as_rows(pd.DataFrame({"id": ["real"], "body": ["c"], "split": ["train"]}), tmp_path, bare)
    joined = as_table(add_inbox(rows, read_inbox(job), params))
    assert joined.to_numpy().tolist() == [["real", "c", "train"], ["inbox/a.csv#2", "b", "train"]]


def test_personal_data_of_an_inbox_is_masked_after_rows_are_compared(drawn):
    tested = drawn["test"].iloc[0]
    leave(("urgent", "Call", "me at +49 30 12345678"), ("urgent", tested["subject"], tested["body"] + " a@b.org"))
    train = processed(feedback_weight=1)["train"]
    assert train.iloc[-1][["id", "body"]].tolist() == ["inbox/feedback.jsonl#1", "me at +1 202 555 0100"]
    assert len(train) == len(drawn["train"]) + 1
    unmasked = processed(feedback_weight=1, mask_personal_data="none")
    assert unmasked["train"]["body"].iloc[-1] == "me at +49 30 12345678"
    pd.testing.assert_frame_equal(processed(mask_personal_data="all")["test"], drawn["test"])


def test_feedback_that_quotes_a_tested_mail_is_dropped(drawn):
    tested = drawn["validation"].iloc[0]
    leave(("urgent", "Fwd", f"see below\n> {tested['body']}\nmore of it in a line that is as long as the other one is"))
    with recorded() as record:
        assert len(processed()["train"]) == len(drawn["train"])
    assert record.quarantine()[["id", "rule"]].to_numpy().tolist() == [["inbox/feedback.jsonl#1", "inbox"]]
