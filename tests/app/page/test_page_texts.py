"""Texts of the page: a conversation as messages, and a verdict in words."""

import pytest

from app.api.classify import Verdict
from app.page.chat import conversation
from app.page.email import in_words
from llm.chat import Message


def test_conversation_leaves_out_unanswered_questions():
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in zip(("user", "assistant", "user", "user", "assistant"), "abcde", strict=True)
    ]
    assert [message.content for message in conversation(" ", turns)] == ["a", "b", "d", "e"]
    assert conversation("Be brief.", [])[0] == Message("system", "Be brief.")


@pytest.mark.parametrize(
    ("label", "probabilities", "text"),
    [
        ("spam", {"ham": 0.03, "spam": 0.97}, ["Spam (97 %)"]),
        ("ham", {"ham": 0.99999, "spam": 0.00001}, ["Real mail (99 %)"]),
        ("unsure", {"ham": 0.42, "spam": 0.58}, ["Not sure (58 % spam): look at it yourself"]),
        (
            "spam",
            {"ham": 0.59, "spam": 0.41},
            ["Spam (41 %)", "This version calls a mail spam even below 50 %, so that it misses less."],
        ),
        (
            "ham",
            {"ham": 0.3, "spam": 0.7},
            ["Real mail (30 %)", "This version calls a mail spam only when it is surer, to spare other mail."],
        ),
        ("work", {"home": 0.28, "work": 0.44, "spam": 0.28}, ["Work (44 %)", "Nothing else is likelier."]),
    ],
)
def test_verdict_in_words_agrees_with_its_label(label, probabilities, text):
    probability = probabilities.get(label)
    assert in_words(Verdict(label=label, probability=probability, probabilities=probabilities)) == text
