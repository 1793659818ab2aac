import pytest
from rouge_score.rouge_scorer import RougeScorer

from tasks.applications.assistant.rouge import rouge_l


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("The cat sat on the mats.", "the cat was sitting on a mat"),
        ("Dear Anna,\n\nthank you very much!", "Thanks, Anna"),
        ("3.5 km", "3 km, or 3.5"),
        ("yes", ""),
    ],
)
def test_english_is_scored_as_by_rouge_score(expected, answer):
    by_default = RougeScorer(["rougeL"], use_stemmer=True).score(expected, answer)["rougeL"].fmeasure
    assert rouge_l(expected, answer) == by_default


@pytest.mark.parametrize(
    ("expected", "answer", "score"),
    [
        ("Привет, мир", "привет мир", 1.0),
        ("für Müller", "Müller", 2 / 3),
        ("你好世界", "你好", 2 / 3),
        ("สวัสดี", "สวัสดี", 1.0),
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),
        ("cafe\u0301", "café", 1.0),
        ("+", " + ", 1.0),
        ("+", "-", 0.0),
    ],
)
def test_rouge_of_other_scripts_counts_their_words_or_signs(expected, answer, score):
    assert rouge_l(expected, answer) == pytest.approx(score)
