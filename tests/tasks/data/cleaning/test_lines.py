import pandas as pd

from tasks.data.cleaning.lines import long_lines, shares_before, without_known_lines
from tasks.data.cleaning.record import recorded

ASKED = "Does anybody know how to mount a disk that another system wrote?\nIt says that the superblock is broken."
REPLY = (
    "Yes.\n" + "\n".join(f"> {line}" for line in ASKED.split("\n")) + "\nRun the check of the file system before it."
)
THIRD = "Thanks, that did it!\n> Run the check of the file system before it."
OTHER = "The minutes of Tuesday's meeting are attached, please read them.\nSee you on Friday at the usual place."


def test_a_line_is_the_same_however_often_it_is_quoted():
    assert long_lines(REPLY) == {
        "does anybody know how to mount a disk that another system wrote",
        "run the check of the file system before it",
    }
    assert long_lines("_" * 60 + "\nshort") == set()


def test_what_stands_in_splits_before_is_measured_and_left_out():
    table = pd.DataFrame({"id": list("abcd"), "text": [ASKED, REPLY, OTHER, OTHER + "\n" + ASKED]})
    table["split"] = ["train", "test", "test", "validation"]
    assert shares_before(table, table["text"]).tolist() == [0, 0.5, 1, 0.5]
    with recorded() as record:
        kept = without_known_lines(table, table["text"])
    assert kept["id"].tolist() == ["a"]
    assert record.quarantine()["reason"][0] == "50% of its long lines stand in splits before"


NOTE = "This message may be confidential, and is for nobody but whom it is addressed to."


def mails(rows: int, signed: int) -> pd.Series:
    texts = [f"The minutes of day {n} are attached, please read all of them by {n}.\n" for n in range(rows)]
    return pd.Series([text + NOTE * (n < signed) for n, text in enumerate(texts)])


def test_a_line_that_many_mails_end_with_is_not_held_against_a_mail():
    text = mails(100, 60)
    short = pd.Series([f"See you at {n}.\n{NOTE}" for n in range(5)])
    table = pd.DataFrame({"split": ["train"] * 100 + ["test"] * 5})
    assert shares_before(table, pd.concat([text, short], ignore_index=True)).tolist() == [0] * 105
