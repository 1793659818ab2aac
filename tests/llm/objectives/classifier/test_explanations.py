import numpy as np

from llm.objectives.classifier.explanations import Moved, in_words, moved_by, phrases

LABELS = ("billing", "press", "sales")


def by_words(texts: list[str]) -> np.ndarray:
    """Probabilities of LABELS: each grows with how often the text has its name."""
    counts = [
        [text.lower().count("billing"), text.lower().count("press"), text.lower().count("sales")] for text in texts
    ]
    odds = 1.0 + np.array(counts)
    return odds / odds.sum(axis=1, keepdims=True)


def test_moved_by_gives_each_phrase_its_label_the_strongest_first():
    moved = moved_by(by_words, LABELS, "Press, press now! Or to the\nsales: nothing else, billing billing billing")
    assert [(phrase.text, phrase.label) for phrase in moved] == [
        ("billing billing billing", "billing"), ("sales:", "sales"), ("Press,", "press"), ("press now!", "press"),
    ]  # fmt: skip
    effects = [phrase.effect for phrase in moved]
    assert effects == sorted(effects, reverse=True)


def test_moved_by_leaves_out_stop_words_and_punctuation():
    def by_length(texts: list[str]) -> np.ndarray:
        return by_words([text + "press" * len(text) for text in texts])

    assert moved_by(by_length, LABELS, "It is,\n--- the") == []
    assert moved_by(by_words, LABELS, " ") == []


def test_phrases_are_short_hold_all_words_and_are_not_too_many():
    text = "see https://a.example/b?c=1.5, it costs 3.50 a day.\n" + " ".join(f"w{n}" for n in range(30))
    texts = [text[start:end] for start, end in phrases(text)]
    assert texts[:2] == ["see https://a.example/b?c=1.5,", "it costs 3.50 a day."]
    assert [len(phrase.split()) for phrase in texts[2:]] == [10, 10, 10]
    many = phrases(". ".join(f"w{n}" for n in range(1000)))
    assert len(many) == 40
    assert len(phrases("moon")) == 1
    assert phrases("") == []


def test_explanation_in_words_groups_phrases_by_label_and_cuts_long_ones():
    moved = [Moved("click\nhere " * 20, "spam", 2.0), Moved("see you", "ham", 1.0), Moved("a prize", "spam", 0.5)]
    shortened = ("click here " * 8)[:79]
    assert in_words(moved) == f"like spam: “{shortened}…”, “a prize”; like ham: “see you”"
