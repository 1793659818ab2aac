import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.shingles import shingles, whole


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower()) or [text]


def triples(text: str) -> set[tuple[str, ...]]:
    text_words = words(text)
    return {tuple(text_words[n : n + 3]) for n in range(len(text_words) - 2)} or {tuple(text_words)}


TEXTS = st.text(st.characters(codec="utf-32") | st.sampled_from("ab A-_'.\n²ßİéΣ\u2019"), max_size=60)


@given(TEXTS, TEXTS)
def test_shingles_of_unicode_are_those_of_a_regular_expression(left, right):
    left_set = shingles(left)
    right_set = shingles(right)
    assert len(left_set) == len(triples(left))
    assert len(np.intersect1d(left_set, right_set)) == len(triples(left) & triples(right))
    assert (whole([left_set]) == whole([right_set])).item() == (triples(left) == triples(right))
