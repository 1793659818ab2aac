import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from llm.objectives.classifier.ngrams import NgramModel, character_ngrams, word_ngrams

TEXTS = [
    "The cat sat on the mat.",
    "the cat, the dog",
    "A dog\n\nate it",
    "ça va? cat's",
    "the cat sat",
    "é",
    "中奖了 中奖",
]


def of_texts(texts: list[str], buckets: int = 2**18) -> NgramModel:
    model = NgramModel(buckets, 2)
    model.fit_idf(texts)
    return model


def dense(model: NgramModel, texts: list[str], windows: list[str] | None = None) -> np.ndarray:
    buckets, values, starts = model.features(texts, windows or texts)
    rows = np.zeros((len(texts), model.buckets))
    sizes = np.diff([*starts.tolist(), len(buckets)])
    rows[np.repeat(np.arange(len(texts)), sizes), buckets.numpy()] = values.numpy()
    return rows


def test_they_are_the_tf_idf_of_words_and_characters_of_scikit_learn():
    def characters(text: str) -> list[str]:
        text = f" {' '.join(text.lower().split())} "
        return [text[first : first + size] for size in range(2, 6) for first in range(len(text) - size + 1)]

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"[^\W_]+")
    theirs = make_union(words, TfidfVectorizer(analyzer=characters, min_df=2, sublinear_tf=True))
    expected = theirs.fit_transform(TEXTS)
    rows = dense(of_texts(TEXTS), TEXTS)
    assert (rows > 0).sum() == (expected > 0).sum()
    assert rows @ rows.T == pytest.approx((expected @ expected.T).toarray(), abs=1e-5)


def test_case_and_white_space_do_not_count_and_the_order_of_words_does_in_pairs_alone():
    assert np.array_equal(word_ngrams("Cat  sat\n"), word_ngrams("cat sat"))
    assert np.array_equal(character_ngrams("Cat  sat\n"), character_ngrams("cat sat"))
    one, other = word_ngrams("cat sat"), word_ngrams("sat cat")
    assert set(one[:2]) == set(other[:2])
    assert one[2] != other[2]
    assert len(word_ngrams(" -- ")) == 0


def test_a_text_and_its_window_count_half_each():
    model = of_texts(TEXTS, 2**12)
    texts, windows = TEXTS[:2], TEXTS[1:3]
    assert dense(model, texts, windows) == pytest.approx((dense(model, texts) + dense(model, windows)) / 2, abs=1e-6)


def test_the_window_that_looks_most_like_the_second_label_is_found_and_windows_hold_all_words():
    words = [f"w{n}" for n in range(330)]
    text, model = " ".join(words), NgramModel(2**20, 2)
    model.idf.fill_(1.0)
    for word, first in (("w0", 0), ("w140", 50), ("w199", 100), ("w329", 230)):
        model.search.zero_()
        model.search[model.features([word], [word])[0]] = 1.0
        window = model.window_of(text).split()
        assert word in window
        assert len(window) == 100
        assert window[0] in (f"w{first}", f"w{first + 50}")
    assert model.window_of(" ".join(words[:100]) + "\n") == " ".join(words[:100]) + "\n"


def test_a_text_has_the_same_logits_alone_as_among_others_and_one_without_known_features_has_none():
    model = of_texts(TEXTS, 2**12)
    model.weight.copy_(torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(1)))
    windows = TEXTS[1:] + TEXTS[:1]
    alone = [model([text], [window]) for text, window in zip(TEXTS, windows, strict=True)]
    assert torch.allclose(model(TEXTS, windows), torch.cat(alone), atol=1e-6)
    assert torch.equal(model(["\ud800", ""], ["", "\ud800"]), torch.zeros(2, 2))


def test_its_weights_are_no_parameters_and_come_back_with_the_others():
    model = of_texts(TEXTS, 2**12)
    assert list(model.parameters()) == []
    again = NgramModel(2**12, 2)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(TEXTS, TEXTS), model(TEXTS, TEXTS))
