from dataclasses import replace

import pandas as pd
from dataset_rows import TEXTS, as_rows, as_table

from tasks.data.cleaning.record import recorded
from tasks.data.cleaning.rules import (
    long_lines,
    repeated_lines,
    shares_before,
    within_lengths,
    without_repetition,
)
from tasks.data.steps import without_shared_lines


def test_row_with_a_field_too_long_or_empty_is_dropped_with_the_reason():
    table = pd.DataFrame({"id": ["a", "b", "c"], "question": ["why?", "", "w" * 30], "answer": ["so", "so", ""]})
    with recorded() as record:
        kept = within_lengths(table, table["question"], {"question": (1, 20), "answer": (1, 20)})
    assert kept["id"].tolist() == ["a"]
    assert record.quarantine()[["id", "rule", "reason", "text"]].to_numpy().tolist() == [
        ["b", "lengths", "question has 0 characters, not 1 to 20", ""],
        ["c", "lengths", "question has 30 characters, not 1 to 20", "w" * 30],
    ]


def test_text_of_repeated_lines_is_dropped_and_a_refrain_stays():
    song = "\n".join(f"Verse {n}\nof the song\nSo say we all" for n in range(8))
    spam = "\n\n".join(["BUY NOW", "Click here"] * 20)
    short = "\n".join(["ha"] * 8)
    assert [repeated_lines(song), repeated_lines(spam), repeated_lines(short)] == [1 - 10 / 24, 1 - 2 / 40, 0]
    table = pd.DataFrame({"id": ["song", "spam", "short"], "text": [song, spam, short]})
    with recorded() as record:
        assert without_repetition(table, table["text"])["id"].tolist() == ["song", "short"]
    assert record.quarantine()["reason"].tolist() == ["95% of its lines repeat others"]


ASKED = "Does anybody know how to mount a disk that another system wrote?\nIt says that the superblock is broken."
REPLY = (
    "Yes.\n" + "\n".join(f"> {line}" for line in ASKED.split("\n")) + "\nRun the check of the file system before it."
)
THIRD = "Thanks, that did it!\n> Run the check of the file system before it."
OTHER = "The minutes of Tuesday's meeting are attached, please read them.\nSee you on Friday at the usual place."


def test_quoted_lines_equal_unquoted_ones():
    assert long_lines(REPLY) == {
        "does anybody know how to mount a disk that another system wrote",
        "run the check of the file system before it",
    }
    assert long_lines("_" * 60 + "\nshort") == set()


def test_long_lines_of_earlier_splits_are_measured_and_their_rows_dropped(tmp_path):
    table = pd.DataFrame({"id": list("abcd"), "text": [ASKED, REPLY, OTHER, OTHER + "\n" + ASKED]})
    table["split"] = ["train", "test", "test", "validation"]
    assert shares_before(table, table["text"]).tolist() == [0, 0.5, 1, 0.5]
    dataset = replace(TEXTS, lines=TEXTS.text)
    with recorded() as record:
        rows = without_shared_lines(as_rows(table, tmp_path, dataset))
    assert as_table(rows)["id"].tolist() == ["a"]
    assert record.quarantine()["reason"][0] == "50% of its long lines stand in splits before"


NOTE = "This message may be confidential, and is for nobody but whom it is addressed to."


def mails(rows: int, signed: int) -> pd.Series:
    texts = [f"The minutes of day {n} are attached, please read all of them by {n}.\n" for n in range(rows)]
    return pd.Series([text + NOTE * (n < signed) for n, text in enumerate(texts)])


def test_line_that_ends_many_mails_does_not_count():
    text = mails(100, 60)
    short = pd.Series([f"See you at {n}.\n{NOTE}" for n in range(5)])
    table = pd.DataFrame({"split": ["train"] * 100 + ["test"] * 5})
    assert shares_before(table, pd.concat([text, short], ignore_index=True)).tolist() == [0] * 105
