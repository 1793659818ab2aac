import time
from functools import cache

import numpy as np
import pandas as pd
import pytest
from dataset_rows import as_rows, as_table

from tasks.data.cleaning.record import recorded
from tasks.data.duplicates import overlap, without_duplicates
from tasks.data.similarity import near_pairs
from tasks.data.splits import SPLITS, Split
from tasks.data.steps import split_rows

PARAMS = Split(seed=1, validation=0.15, test=0.2, near_duplicate=0.8)


def random_text(generator: np.random.Generator, words: int = 100) -> str:
    return " ".join(f"word{n}" for n in generator.integers(5_000, size=words))


@cache
def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def jaccard(left: str, right: str) -> float:
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


@pytest.fixture(scope="module")
def varied() -> list[str]:
    """150 texts in 50 families, whose members differ from the first by zero to seven changed words."""
    generator = np.random.default_rng(3)
    texts: list[str] = []
    for _ in range(50):
        words = random_text(generator).split()
        for _ in range(3):
            changed = words.copy()
            for position in generator.integers(100, size=generator.integers(8)):
                changed[position] = "changed"
            texts.append(" ".join(changed))
    return texts


@pytest.fixture
def groups(tmp_path):
    """A function that gives for each text the number of the first text of its group."""

    def first_of_groups(texts: list[str], threshold: float) -> list[int]:
        table = pd.DataFrame({"text": pd.Series(texts, dtype=str)})
        with recorded() as record:
            without_duplicates(as_rows(table, tmp_path, threshold=threshold), threshold)
        first = list(range(len(texts)))
        for row in record.quarantine().itertuples():
            first[int(row.id)] = int(row.reason.removeprefix("as "))
        return first

    return first_of_groups


def test_duplicates_are_grouped_by_the_exact_jaccard_similarity_of_all_pairs(varied, groups):
    expected = np.arange(len(varied))
    for right in range(len(varied)):
        for left in range(right):
            if jaccard(varied[left], varied[right]) >= 0.8:
                expected[expected == expected[right]] = expected[left]
    assert pd.factorize(np.array(groups(varied, 0.8)))[0].tolist() == pd.factorize(expected)[0].tolist()
    assert 50 < len(set(expected)) < 150


def test_duplicates_are_grouped_by_chains(groups):
    words = [f"w{n}" for n in range(100)]
    chain = [" ".join(words[start : start + 60]) for start in range(0, 40, 5)]
    assert jaccard(chain[0], chain[-1]) < 0.5 < jaccard(chain[0], chain[1])
    assert set(groups(chain, 0.8)) == {0}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_duplicates_begin_exactly_at_the_threshold(groups, threshold):
    words = [f"w{n}" for n in range(102)]  # 100 shingles
    common = round(200 * threshold / (1 + threshold))
    reference = " ".join(words)
    near = " ".join(words[: common + 3] + [f"x{n}" for n in range(99 - common)])
    far = " ".join(words[: common + 1] + [f"x{n}" for n in range(101 - common)])
    assert jaccard(reference, near) >= threshold > jaccard(reference, far)
    assert groups([reference, near], threshold) == [0, 0]
    assert groups([reference, far], threshold) == [0, 1]


def test_duplicates_ignore_case_and_punctuation_and_short_texts_count_as_a_whole(groups):
    texts = ["Hello, world", "hello world!", "hello there", "!!!", "???", "", "One two. THREE four"]
    assert groups([*texts, "one two three four"], 0.8) == [0, 0, 2, 3, 4, 5, 6, 6]
    assert groups([], 0.8) == []


def test_duplicates_keep_the_first_row_and_the_log_counts_equal_and_near_ones(varied, tmp_path, caplog):
    near = varied[0] + " and one word more"
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "text": [varied[0], varied[0], near, "something else entirely"]})
    with caplog.at_level("INFO"):
        rows = without_duplicates(as_rows(table, tmp_path), 0.8)
    assert as_table(rows)["id"].tolist() == ["a", "d"]
    assert "4 rows: 1 equal and 1 near duplicates dropped, 2 left" in caplog.text


@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_overlap_counts_all_that_comparing_every_pair_finds(varied, tmp_path, threshold):
    table = pd.DataFrame({"text": [*varied, "", "!!", "one two", "One two."]})
    table["split"] = np.random.default_rng(0).choice(SPLITS, len(table))
    expected = 0
    for number in (1, 2):
        texts = table["text"][table["split"] == SPLITS[number]].tolist()
        earlier = table["text"][table["split"].isin(SPLITS[:number])].tolist()
        expected += len(np.unique(near_pairs(texts, earlier, threshold)[:, 0]))
    assert expected > 0
    assert overlap(as_rows(table, tmp_path, threshold=threshold), threshold, seed=1) == expected


def test_overlap_of_thousands_of_rows_that_begin_alike_takes_seconds(tmp_path):
    generator = np.random.default_rng(0)
    begin = "please answer the question below in one short sentence "
    table = pd.DataFrame({"text": [begin + random_text(generator, 20) for _ in range(3_000)]})
    table = table.assign(split=[*SPLITS] * 1_000)
    table.loc[1, "text"] = table["text"][0] + " now"
    rows = as_rows(table, tmp_path)
    start = time.process_time()
    assert overlap(rows, 0.8, seed=1) == 1
    assert time.process_time() - start < 5


def test_overlap_of_rows_without_duplicates_is_zero(varied, tmp_path):
    rows = as_rows(pd.DataFrame({"text": varied}), tmp_path)
    assert overlap(split_rows(rows, PARAMS), 0.8, seed=1) > 0
    rows = without_duplicates(rows, 0.8)
    assert overlap(split_rows(rows, PARAMS), 0.8, seed=1) == 0


def test_near_pairs_are_those_of_the_exact_similarity(varied, monkeypatch):
    monkeypatch.setattr("tasks.data.similarity.BLOCK", 7)
    left = varied[:40]
    right = varied[20:90]
    expected = [[n, m] for n in range(40) for m in range(70) if jaccard(left[n], right[m]) >= 0.8]
    assert len(expected) > 20
    assert sorted(near_pairs(left, right, 0.8).tolist()) == expected
    assert near_pairs([], right, 0.8).shape == (0, 2)
    assert near_pairs(left, [], 0.8).shape == (0, 2)
