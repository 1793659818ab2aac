"""What feedback may change: nearly equal rows, votes of networks, shares of train."""

import random
import time

import numpy as np
import pandas as pd
import pytest

from tasks.data.inbox import by_votes, join_inbox, leaders, plain

TEXT = " ".join(f"word{n}" for n in range(30))


def table(*rows: tuple) -> pd.DataFrame:
    """Rows of feedback: text, answer, client, and the second in which it was said."""
    made = pd.DataFrame(rows, columns=["text", "answer", "client", "time"])
    return made.assign(id=[f"inbox/feedback.jsonl#{n}" for n in range(len(made))], verdict="good")


def kept(rows: pd.DataFrame) -> list[list]:
    return by_votes(rows, rows["text"], rows["answer"])[["text", "answer", "votes"]].to_numpy().tolist()


@pytest.mark.parametrize(
    "same", [TEXT + "!", TEXT.upper(), TEXT.replace(" ", "  \n"), TEXT.replace(" ", ", "), "w ord0" + TEXT[5:]]
)
def test_a_text_with_other_case_spaces_or_punctuation_is_the_same(same):
    assert leaders([TEXT, "another text", same]).tolist() == [0, 1, 0]


def test_texts_are_nearly_equal_to_a_first_one_and_not_by_a_chain():
    words = TEXT.split()
    chain = [" ".join([*(f"new{n}" for n in range(changed)), *words[changed:]]) for changed in range(0, 30, 2)]
    found = leaders(chain)
    assert found.tolist()[:3] == [0, 0, 2]
    assert len(set(found.tolist())) > 5
    assert all(found[each] == each for each in set(found.tolist()))


def test_texts_of_punctuation_alone_are_not_all_the_same():
    assert plain("?!") == "?!"
    assert leaders(["?!", "...", "\N{SLIGHTLY SMILING FACE}", "?!"]).tolist() == [0, 1, 2, 0]


def test_thousands_of_nearly_equal_texts_take_seconds():
    began = time.process_time()
    found = leaders([f"{TEXT} {n}" for n in range(1_500)])
    assert not found.any()
    assert time.process_time() - began < 10


def test_one_dissenter_deletes_nothing_and_a_tie_leaves_the_text_out():
    five = [(TEXT, "spam", f"network {n}", n) for n in range(5)]
    assert kept(table(*five, (TEXT + "!", "ham", "other", 9))) == [[TEXT, "spam", 5]]
    assert kept(table(five[0], (TEXT + "!", "ham", "other", 9))) == []


def test_many_rows_of_one_network_are_one_vote_of_which_the_last_counts():
    many = [(TEXT + "!" * n, "spam", "one", n) for n in range(6)]
    assert kept(table(*many, (TEXT, "ham", "x", 7), (TEXT, "ham", "y", 8))) == [[TEXT, "ham", 2]]
    assert kept(table(*many, (TEXT, "ham", "one", 9))) == [[TEXT, "ham", 1]]


def test_words_that_a_network_adds_later_are_not_learned_for_those_that_came_first():
    long = " ".join(f"word{n}" for n in range(200))
    more = f"{long} {' '.join(f'trigger{n}' for n in range(20))}"
    assert kept(table((long, "spam", "one", 1), (more, "spam", "one", 2))) == [[long, "spam", 1]]
    changed = [(long, "spam", "one", 1), (long, "ham", "one", 2), (more, "ham", "one", 3)]
    assert kept(table(*changed)) == [[long, "ham", 1]]
    assert kept(table(*changed, (more, "spam", "two", 4))) == []


def test_the_words_of_who_said_it_first_stay_whatever_comes_later_and_in_whatever_order_rows_lie():
    rows = table(*[(TEXT + "!" * n, "spam", f"network {n}", n) for n in range(4)], ("b", "ham", "x", 1))
    wanted = [["b", "ham", 1], [TEXT, "spam", 4]]
    assert sorted(kept(rows)) == wanted
    assert sorted(kept(rows.sample(frac=1, random_state=3))) == wanted


def joined(others: int, said: pd.DataFrame, weight: int) -> pd.DataFrame:
    """So many rows of train with feedback; the rows of feedback that it has."""
    draw = random.Random(1)
    texts = [" ".join(draw.choices("abcdefghij", k=12)) + f" {n}" for n in range(others)]
    train = pd.DataFrame({"id": [str(n) for n in range(others)], "text": texts, "answer": "ham", "split": "train"})
    left = by_votes(said, said["text"], said["answer"])
    found = join_inbox(train, left, 0.8, text=lambda t: t["text"], forms=lambda t: t["text"], weight=weight)
    assert list(found) == list(train)
    return found[found["id"].str.startswith("inbox/")]


@pytest.mark.parametrize(("others", "rows", "networks", "weight"), [(500, 2, 2, 5), (3_000, 900, 30, 5), (40, 9, 9, 1)])
def test_feedback_never_has_more_than_its_share_of_train(others, rows, networks, weight):
    said = table(*[(f"new text {n} and words{n}", "spam", f"network {n % networks}", n) for n in range(rows)])
    found = joined(others, said, weight)
    most = others // 49
    assert len(found) == min(most, rows * weight, networks * -(-most // 4))
    assert len(found) <= 0.02 * (others + len(found))
    client = said.set_index("id")["client"][found["id"].str.split(" x").str[0]]
    assert client.value_counts().max() <= -(-most // 4) if len(client) else most == 0
    times = found["id"].str.split(" x").str[0].value_counts()
    assert len(times) == min(rows, len(found)), "each once before any twice"
    assert times.max() <= weight if len(times) else True
    assert found["id"].is_unique
    again = joined(others, said.sample(frac=1, random_state=5), weight)
    assert np.array_equal(again["id"], found["id"]), "whatever the order of the rows"
