"""Nearly equal rows of feedback, and votes of networks."""

import time

import pandas as pd
import pytest

from tasks.data.feedback import by_votes, leaders, plain

TEXT = " ".join(f"word{n}" for n in range(30))


def table(*rows: tuple[str, str, str, int]) -> pd.DataFrame:
    """Rows of feedback: text, answer, client, and the second in which it was said."""
    feedback = pd.DataFrame(rows, columns=["text", "answer", "client", "time"])
    return feedback.assign(id=[f"inbox/feedback.jsonl#{n}" for n in range(len(feedback))], verdict="good")


def kept(rows: pd.DataFrame) -> list[list]:
    return by_votes(rows, rows["text"], rows["answer"])[["text", "answer", "votes"]].to_numpy().tolist()


@pytest.mark.parametrize(
    "same", [TEXT + "!", TEXT.upper(), TEXT.replace(" ", "  \n"), TEXT.replace(" ", ", "), "w ord0" + TEXT[5:]]
)
def test_feedback_text_with_other_case_spaces_or_punctuation_is_the_same(same):
    assert leaders([TEXT, "another text", same]).tolist() == [0, 1, 0]


def test_feedback_texts_are_nearly_equal_to_a_first_one_and_not_by_a_chain():
    words = TEXT.split()
    new_words = [f"new{n}" for n in range(30)]
    chain = [" ".join(new_words[:changed] + words[changed:]) for changed in range(0, 30, 2)]
    firsts = leaders(chain).tolist()
    assert firsts[:3] == [0, 0, 2]
    assert len(set(firsts)) > 5
    assert all(firsts[first] == first for first in firsts)


def test_feedback_texts_of_punctuation_alone_are_not_all_the_same():
    assert plain("?!") == "?!"
    assert leaders(["?!", "...", "\N{SLIGHTLY SMILING FACE}", "?!"]).tolist() == [0, 1, 2, 0]


def test_feedback_of_thousands_of_nearly_equal_texts_takes_seconds():
    start = time.process_time()
    assert not leaders([f"{TEXT} {n}" for n in range(1_500)]).any()
    assert time.process_time() - start < 10


def test_votes_of_one_dissenter_delete_nothing_and_a_tie_leaves_the_text_out():
    five = [(TEXT, "spam", f"network {n}", n) for n in range(5)]
    assert kept(table(*five, (TEXT + "!", "ham", "other", 9))) == [[TEXT, "spam", 5]]
    assert kept(table(five[0], (TEXT + "!", "ham", "other", 9))) == []


def test_votes_of_one_network_are_one_and_its_last_counts():
    many = [(TEXT + "!" * n, "spam", "one", n) for n in range(6)]
    assert kept(table(*many, (TEXT, "ham", "x", 7), (TEXT, "ham", "y", 8))) == [[TEXT, "ham", 2]]
    assert kept(table(*many, (TEXT, "ham", "one", 9))) == [[TEXT, "ham", 1]]


def test_votes_keep_the_first_wording_when_a_network_adds_words_later():
    long = " ".join(f"word{n}" for n in range(200))
    longer = f"{long} {' '.join(f'trigger{n}' for n in range(20))}"
    assert kept(table((long, "spam", "one", 1), (longer, "spam", "one", 2))) == [[long, "spam", 1]]
    changed = [(long, "spam", "one", 1), (long, "ham", "one", 2), (longer, "ham", "one", 3)]
    assert kept(table(*changed)) == [[long, "ham", 1]]
    assert kept(table(*changed, (longer, "spam", "two", 4))) == []


def test_votes_keep_the_first_wording_in_any_order_of_the_rows():
    rows = table(*[(TEXT + "!" * n, "spam", f"network {n}", n) for n in range(4)], ("b", "ham", "x", 1))
    wanted = [["b", "ham", 1], [TEXT, "spam", 4]]
    assert sorted(kept(rows)) == wanted
    assert sorted(kept(rows.sample(frac=1, random_state=3))) == wanted
