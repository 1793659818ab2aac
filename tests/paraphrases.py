"""Find texts that ask the same in other words, which no six words in a row need to show."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

BOUND = 0.5
"""The cosine from which two short texts count as paraphrases. When it was chosen, 27 pairs of our questions reached it,
of which 17 asked the same, and 36 came to 0.4 or more, of which 9 did: read those, too."""


class Pair(NamedTuple):
    """The numbers of a text that is tested on and of one that is learned from, and their similarity."""

    tested: int
    learned: int
    similarity: float


def paraphrases(tested: Sequence[str], learned: Sequence[str], bound: float = BOUND) -> list[Pair]:
    """All pairs of texts whose TF-IDF of words, pairs of words and parts of words has at least this cosine, the most
    similar first. How rare a word is, all texts together say."""
    if not (tested and learned):
        return []
    vectors = _vectors([*tested, *learned])
    similarities = (vectors[: len(tested)] @ vectors[len(tested) :].T).tocoo()
    rows = zip(similarities.row.tolist(), similarities.col.tolist(), similarities.data.tolist(), strict=True)
    pairs = [Pair(*row) for row in rows if row[2] >= bound]
    return sorted(pairs, key=lambda pair: -pair.similarity)


def _vectors(texts: Sequence[str]) -> csr_matrix:
    texts = [" ".join(re.findall(r"\w+", text.lower())) for text in texts]  # without punctuation
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+")
    parts = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(3, 5))
    return normalize(hstack([words.fit_transform(texts), parts.fit_transform(texts)]).tocsr())
