import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from llm.objectives.classifier.ngrams import NgramModel

TEXTS = [
    "The cat sat on the mat.",
    "the cat, the dog",
    "A dog\n\nate it",
    "ça va? cat's",
    "the cat sat",
    "é",
    "中奖了 中奖",
    "Sat  CAT\n",
    "cat -- sat",
    " -- ",
]


def fit_ngrams(texts: list[str], buckets: int = 2**18) -> NgramModel:
    model = NgramModel(buckets, 2)
    model.fit_idf(texts)
    return model


def dense(model: NgramModel, texts: list[str], windows: list[str] | None = None) -> np.ndarray:
    return model.features(texts, windows or texts).toarray()


def test_features_are_the_tf_idf_of_words_and_characters_of_scikit_learn():
    def characters(text: str) -> list[str]:
        text = f" {' '.join(text.lower().split())} "
        return [text[first : first + size] for size in range(2, 6) for first in range(len(text) - size + 1)]

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"[^\W_]+")
    theirs = make_union(words, TfidfVectorizer(analyzer=characters, min_df=2, sublinear_tf=True))
    expected = theirs.fit_transform(TEXTS)
    rows = dense(fit_ngrams(TEXTS), TEXTS)
    assert (rows > 0).sum() == (expected > 0).sum()
    assert rows @ rows.T == pytest.approx((expected @ expected.T).toarray(), abs=1e-5)


def test_features_count_a_text_and_its_window_half_each():
    model = fit_ngrams(TEXTS, 2**12)
    texts = TEXTS[:2]
    windows = TEXTS[1:3]
    assert dense(model, texts, windows) == pytest.approx((dense(model, texts) + dense(model, windows)) / 2, abs=1e-6)


def test_window_is_what_looks_most_like_the_second_label_and_windows_hold_all_words():
    words = [f"w{n}" for n in range(330)]
    model = NgramModel(2**20, 2)
    model.idf.fill_(1.0)
    for word, starts in (("w0", ["w0"]), ("w140", ["w50", "w100"]), ("w329", ["w230"])):
        model.search.zero_()
        model.search[model.features([word], [word]).indices] = 1.0
        window = model.window_of(" ".join(words)).split()
        assert word in window
        assert len(window) == 100
        assert window[0] in starts
    short = " ".join(words[:100]) + "\n"
    assert model.window_of(short) == short


def test_logits_of_a_text_are_the_same_alone_as_among_others_and_zero_without_known_features():
    model = fit_ngrams(TEXTS, 2**12)
    model.weight.normal_(generator=torch.Generator().manual_seed(1))
    alone = [model([text], [text]) for text in TEXTS]
    assert torch.allclose(model(TEXTS, TEXTS), torch.cat(alone), atol=1e-6)
    assert torch.equal(model(["\ud800", ""], ["", "\ud800"]), torch.zeros(2, 2))
