import time
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.sparse.csgraph import connected_components

from tasks.data.duplicates import are_near, first_of_groups


def random_text(generator, words=100):
    return " ".join(f"word{n}" for n in generator.integers(5_000, size=words))


@cache
def shingles(text):
    words = text.lower().split()
    return {tuple(words[start : start + 3]) for start in range(len(words) - 2)}


def jaccard(left, right):
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


def test_groups_are_the_chains_of_texts_by_the_exact_similarity_of_all_pairs():
    generator = np.random.default_rng(3)
    texts = []
    for _ in range(40):
        words = random_text(generator).split()
        for _ in range(4):
            for position in generator.integers(100, size=generator.integers(6)):
                words[position] = "changed"
            texts.append(" ".join(words))
    pairs = list(product(texts, repeat=2))
    is_near = np.array([jaccard(*pair) >= 0.8 for pair in pairs])
    assert [are_near(*pair, 0.8) for pair in pairs[::7]] == is_near[::7].tolist()
    count, expected = connected_components(is_near.reshape(160, 160))
    assert pd.factorize(first_of_groups(texts, 0.8))[0].tolist() == expected.tolist()
    assert 40 < count < 160


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_duplicates_begin_exactly_at_the_threshold(threshold):
    words = [f"w{n}" for n in range(102)]  # 100 shingles
    common = round(200 * threshold / (1 + threshold))
    texts = [" ".join(words)]
    for count in (common, common - 2):
        texts.append(" ".join(words[: count + 3] + [f"x{n}" for n in range(99 - count)]))
    assert jaccard(texts[0], texts[1]) >= threshold > jaccard(texts[0], texts[2])
    assert first_of_groups(texts[:2], threshold).tolist() == [0, 0]
    assert first_of_groups(texts[::2], threshold).tolist() == [0, 1]


def test_case_and_punctuation_do_not_count_and_short_texts_count_as_a_whole():
    texts = ["Hello, world", "hello world!", "hello there", "!!!", "???", "", "One two. THREE four"]
    assert first_of_groups([*texts, "one two three four"], 0.8).tolist() == [0, 0, 2, 3, 4, 5, 6, 6]
    assert first_of_groups([], 0.8).tolist() == []


def test_thousands_of_texts_that_begin_alike_take_seconds():
    generator = np.random.default_rng(0)
    begin = "please answer the question below in one short sentence "
    texts = [begin + random_text(generator, 20) for _ in range(3_000)]
    texts[1] = texts[0] + " now"
    start = time.process_time()
    assert np.flatnonzero(first_of_groups(texts, 0.8) != np.arange(3_000)).tolist() == [1]
    assert time.process_time() - start < 20
