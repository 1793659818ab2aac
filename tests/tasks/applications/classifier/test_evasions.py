import pandas as pd
import pytest

from tasks.applications.classifier.evasions import FORMS, Spam, draw, message
from tasks.data.mail import parse_message

COVER = "Dear Anna,\n\nthe minutes of Tuesday are attached. Shall we meet again at the station on Friday?\n\nTom"
SPAM = Spam(
    id="1",
    subject="Great offer",
    body="Purchase cheap pills today & save.\nVisit the pharmacy at our website now!",
    cover=COVER,
)
WORDS = {"purchase", "cheap", "pills", "today", "save", "visit", "pharmacy", "website"}
OBSCURED = {"letters as digits", "links alone", "all letters apart"}  # words that nobody has to spell right


@pytest.mark.parametrize("name", FORMS)
def test_spam_in_each_form_is_read_as_a_person_sees_it(name):
    subject, body = parse_message(FORMS[name](SPAM))
    words = set(body.lower().replace(".", " ").replace("!", " ").replace(",", " ").split())
    assert subject
    if name not in OBSCURED:
        assert words >= WORDS


def test_mails_are_drawn_by_label_and_length():
    rows = [("ham", "a " * 100), ("ham", "b"), *[("spam", f"{n} " * 30) for n in range(70)], ("spam", "short")]
    test = pd.DataFrame([{"id": "1", "label": label, "subject": "s", "body": body} for label, body in rows] * 2)
    spams = draw(test, "ham", "spam")
    assert len(spams) == 2  # as many as there are texts to hide one in
    assert {spam.cover for spam in spams} == {"a " * 100}
    assert all(len(spam.body.split()) == 30 for spam in spams)
    assert spams == draw(test, "ham", "spam")
    assert draw(test[:1], "ham", "spam") == []


def test_message_has_its_parts():
    subject, body = parse_message(message("A  b", "One", "<p>Two</p>"))
    assert (subject, body) == ("A b", "One\n\nTwo")
