import time
from functools import cache

import numpy as np
import pandas as pd
import pytest

from tasks.data.duplicates import are_near, first_of_groups


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


def test_groups_are_those_of_the_exact_similarity_of_all_pairs(varied: list[str]) -> None:
    expected = np.arange(len(varied))
    for right in range(len(varied)):
        for left in range(right):
            is_near = jaccard(varied[left], varied[right]) >= 0.8
            assert are_near(varied[left], varied[right], 0.8) == is_near
            if is_near:
                expected[expected == expected[right]] = expected[left]
    assert pd.factorize(first_of_groups(varied, 0.8))[0].tolist() == pd.factorize(expected)[0].tolist()
    assert 50 < len(set(expected)) < 150


def test_groups_are_joined_by_chains() -> None:
    words = [f"w{n}" for n in range(100)]
    chain = [" ".join(words[start : start + 60]) for start in range(0, 40, 5)]
    assert jaccard(chain[0], chain[-1]) < 0.5 < jaccard(chain[0], chain[1])
    assert set(first_of_groups(chain, 0.8)) == {0}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_duplicates_begin_exactly_at_the_threshold(threshold: float) -> None:
    words = [f"w{n}" for n in range(102)]  # 100 shingles
    common = round(200 * threshold / (1 + threshold))
    reference = " ".join(words)
    near = " ".join(words[: common + 3] + [f"x{n}" for n in range(99 - common)])
    far = " ".join(words[: common + 1] + [f"x{n}" for n in range(101 - common)])
    assert jaccard(reference, near) >= threshold > jaccard(reference, far)
    assert first_of_groups([reference, near], threshold).tolist() == [0, 0]
    assert first_of_groups([reference, far], threshold).tolist() == [0, 1]


def test_case_and_punctuation_do_not_count_and_short_texts_count_as_a_whole() -> None:
    texts = ["Hello, world", "hello world!", "hello there", "!!!", "???", "", "One two. THREE four"]
    assert first_of_groups([*texts, "one two three four"], 0.8).tolist() == [0, 0, 2, 3, 4, 5, 6, 6]
    assert first_of_groups([], 0.8).tolist() == []


def test_thousands_of_texts_that_begin_alike_take_seconds() -> None:
    generator = np.random.default_rng(0)
    begin = "please answer the question below in one short sentence "
    texts = [begin + random_text(generator, 20) for _ in range(3_000)]
    texts[1] = texts[0] + " now"
    start = time.process_time()
    assert np.flatnonzero(first_of_groups(texts, 0.8) != np.arange(3_000)).tolist() == [1]
    assert time.process_time() - start < 20
