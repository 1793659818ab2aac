import random
import tracemalloc

import pandas as pd

from tasks.data.cleaning import lines
from tasks.data.cleaning.lines import line_groups, long_lines, shares_before, without_known_lines
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


def test_mails_of_a_thread_are_one_group_and_others_are_none():
    groups = line_groups(pd.Series([ASKED, OTHER, REPLY, THIRD], index=[7, 3, 2, 9]))
    assert groups.index.tolist() == [7, 3, 2, 9]
    assert groups[7] == groups[2] == groups[9]  # of which the first and the last share no line
    assert groups.nunique() == 2
    assert line_groups(pd.Series(["short", "short", ""])).nunique() == 3


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


def test_a_line_that_many_mails_end_with_makes_no_thread_of_them():
    assert line_groups(mails(1_000, 490)).nunique() == 1_000
    assert line_groups(mails(4_000, 53)).nunique() == 4_000
    assert line_groups(mails(4_000, 52)).nunique() == 4_000 - 51  # so few may quote it
    assert line_groups(mails(100, 31)).nunique() == 100
    assert line_groups(mails(100, 30)).nunique() == 100 - 29


def test_a_line_that_many_mails_end_with_is_not_held_against_a_mail():
    text = mails(100, 60)
    short = pd.Series([f"See you at {n}.\n{NOTE}" for n in range(5)])
    table = pd.DataFrame({"split": ["train"] * 100 + ["test"] * 5})
    assert shares_before(table, pd.concat([text, short], ignore_index=True)).tolist() == [0] * 105


def test_a_line_that_many_mails_have_takes_no_memory_of_each_pair_of_them():
    text = mails(4_000, 4_000)
    tracemalloc.start()
    line_groups(text)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6


def test_rows_are_compared_some_at_a_time_and_their_groups_are_those_of_all_at_once(monkeypatch):
    draw = random.Random(0)
    known = [f"The minutes of day {n} are attached, please read all of them by {n}." for n in range(150)]
    text = pd.Series(["\n".join(draw.sample(known, draw.randint(0, 4))) for _ in range(150)])
    monkeypatch.setattr(lines, "PAIRS", 10**9)
    expected = line_groups(text)
    assert 20 < expected.nunique() < 140
    for pairs in (1, 7, 100):
        monkeypatch.setattr(lines, "PAIRS", pairs)
        pd.testing.assert_series_equal(line_groups(text), expected)


def test_many_rows_of_one_group_take_no_memory_of_each_pair_of_them(monkeypatch):
    monkeypatch.setattr(lines, "SHARE", 1)
    text = mails(2_500, 2_500)
    tracemalloc.start()
    assert line_groups(text).nunique() == 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100e6
