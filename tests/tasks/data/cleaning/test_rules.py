import pandas as pd

from tasks.data.cleaning.record import recorded
from tasks.data.cleaning.rules import repeated_lines, within_lengths, without_repetition


def test_a_row_with_a_field_too_long_or_empty_is_left_out_with_the_reason():
    table = pd.DataFrame({"id": ["a", "b", "c"], "question": ["why?", "", "w" * 30], "answer": ["so", "so", ""]})
    with recorded() as record:
        kept = within_lengths(table, table["question"], {"question": (1, 20), "answer": (1, 20)})
    assert kept["id"].tolist() == ["a"]
    assert record.quarantine()[["id", "rule", "reason", "text"]].to_numpy().tolist() == [
        ["b", "lengths", "question has 0 characters, not 1 to 20", ""],
        ["c", "lengths", "question has 30 characters, not 1 to 20", "w" * 30],
    ]


def test_a_text_that_says_the_same_again_and_again_is_left_out_and_a_refrain_is_not():
    song = "\n".join(f"Verse {n}\nof the song\nSo say we all" for n in range(8))
    spam = "\n\n".join(["BUY NOW", "Click here"] * 20)
    short = "\n".join(["ha"] * 8)
    assert [repeated_lines(each) for each in (song, spam, short)] == [1 - 10 / 24, 1 - 2 / 40, 0]
    table = pd.DataFrame({"id": ["song", "spam", "short"], "text": [song, spam, short]})
    with recorded() as record:
        assert without_repetition(table, table["text"])["id"].tolist() == ["song", "short"]
    assert record.quarantine()["reason"].tolist() == ["95% of its lines repeat others"]
