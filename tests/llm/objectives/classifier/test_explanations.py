import numpy as np

from llm.objectives.classifier.explanations import Moved, in_words, moved_by, phrases

LABELS = ("billing", "press", "sales")


def by_words(texts: list[str]) -> np.ndarray:
    """Probabilities of LABELS: each grows with how often the text has its name."""
    odds = np.array([[1.0 + text.lower().count(label) for label in LABELS] for text in texts])
    return odds / odds.sum(axis=1, keepdims=True)


def test_a_phrase_counts_for_the_label_that_it_makes_likelier_and_the_strongest_comes_first():
    found = moved_by(by_words, LABELS, "Press, press now! Or to the\nsales: nothing else, billing billing billing")
    assert [(each.text, each.label) for each in found] == [
        ("billing billing billing", "billing"), ("sales:", "sales"), ("Press,", "press"), ("press now!", "press"),
    ]  # fmt: skip
    assert [each.effect for each in found] == sorted((each.effect for each in found), reverse=True)


def test_stop_words_alone_and_signs_are_no_phrase_that_is_shown():
    assert (
        moved_by(lambda texts: by_words([text + "press" * len(text) for text in texts]), LABELS, "It is,\n--- the")
        == []
    )
    assert moved_by(by_words, LABELS, " ") == []


def test_phrases_are_short_hold_all_words_and_are_not_too_many():
    text = "see https://a.example/b?c=1.5, it costs 3.50 a day.\n" + " ".join(f"w{n}" for n in range(30))
    found = [text[start:end] for start, end in phrases(text)]
    assert found[:2] == ["see https://a.example/b?c=1.5,", "it costs 3.50 a day."]
    assert [len(each.split()) for each in found[2:]] == [10, 10, 10]
    many = phrases(". ".join(f"w{n}" for n in range(1000)))
    assert len(many) == 40
    assert len(phrases("moon")) == 1
    assert phrases("") == []


def test_a_line_says_what_it_looks_like_by_which_phrases():
    moved = [Moved("click\nhere " * 20, "spam", 2.0), Moved("see you", "ham", 1.0), Moved("a prize", "spam", 0.5)]
    shortened = ("click here " * 8)[:79]
    assert in_words(moved) == f"like spam: “{shortened}…”, “a prize”; like ham: “see you”"
