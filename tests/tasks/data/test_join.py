"""How much feedback may change: its shares of train."""

import random

import numpy as np
import pandas as pd
import pytest
from dataset_rows import TEXTS

from tasks.data.feedback import by_votes
from tasks.data.join import join_inbox
from tasks.data.splits import Split


def feedback(rows: int, networks: int) -> pd.DataFrame:
    """Rows on different texts, from several networks in turn."""
    numbers = pd.Series(range(rows))
    table = pd.DataFrame({"text": [f"new text {n} and words{n}" for n in numbers], "answer": "spam", "verdict": "good"})
    table["id"] = "inbox/feedback.jsonl#" + numbers.astype(str)
    table["client"] = "network " + (numbers % networks).astype(str)
    return table.assign(time=numbers)


def joined(train_rows: int, rows: pd.DataFrame, weight: int) -> pd.DataFrame:
    """The rows of feedback in train, among so many others."""
    generator = random.Random(1)
    texts = [" ".join(generator.choices("abcdefghij", k=12)) + f" {n}" for n in range(train_rows)]
    ids = [str(n) for n in range(train_rows)]
    train = pd.DataFrame({"id": ids, "text": texts, "answer": "ham", "split": "train"})
    votes = by_votes(rows, rows["text"], rows["answer"])
    params = Split(seed=1, validation=0.1, test=0.1, near_duplicate=0.8, feedback_weight=weight)
    table = join_inbox(train, votes, dataset=TEXTS, params=params)
    assert list(table) == list(train)
    return table[table["id"].str.startswith("inbox/")]


@pytest.mark.parametrize(
    ("train_rows", "rows", "networks", "weight"), [(500, 2, 2, 5), (3_000, 900, 30, 5), (40, 9, 9, 1)]
)
def test_feedback_never_has_more_than_its_share_of_train(train_rows, rows, networks, weight):
    sent = feedback(rows, networks)
    copies = joined(train_rows, sent, weight)
    most = train_rows // 49
    most_of_network = -(-most // 4)
    assert len(copies) == min(most, rows * weight, networks * most_of_network)
    assert len(copies) <= 0.02 * (train_rows + len(copies))
    assert copies["id"].is_unique
    ids = copies["id"].str.split(" x").str[0]
    assert sent.set_index("id")["client"][ids].value_counts().max() <= most_of_network or copies.empty
    times = ids.value_counts()
    assert len(times) == min(rows, len(copies)), "each once before any twice"
    assert times.max() <= weight or copies.empty
    reordered = joined(train_rows, sent.sample(frac=1, random_state=5), weight)
    assert np.array_equal(reordered["id"], copies["id"]), "whatever the order of the rows"
