"""The mails in data/: what the classifier learns from, and the mails that it is tried on and never sees."""

import json
import re
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

DATA = Path(__file__).parents[2] / "data"
FILES = {
    "learned": DATA / "everyday-mail.jsonl",
    "test": DATA / "behavioural/emails/test.jsonl",
    "validation": DATA / "behavioural/emails/validation.jsonl",
    "short": DATA / "behavioural/emails/short.jsonl",
    "validation-short": DATA / "behavioural/emails/validation-short.jsonl",
}
MAILS = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in FILES.items()}
PAIRS = [(tried, other) for other, tried in combinations(FILES, 2)]

RUN = 6  # words
LIKENESS = 0.35  # cosine of TF-IDF; mails that tell one scenario twice had 0.35 to 0.8, the nearest two now have 0.349
HAM, SPAM = "ham", "spam"


def text(mail: dict[str, str]) -> str:
    return f"{mail['subject']}\n{mail['body']}"


def words(of: str) -> list[str]:
    return re.findall(r"\w+", of.lower())


def subject(mail: dict[str, str]) -> str:
    """The subject without case, punctuation and the marks of replies and forwards."""
    return " ".join(words(re.sub(r"^(\s*(re|fwd?|aw|wg)\s*:)+", "", mail["subject"].lower())))


def runs(mail: dict[str, str]) -> set[str]:
    each = words(text(mail))
    return {" ".join(each[at : at + RUN]) for at in range(len(each) - RUN + 1)}


@pytest.mark.parametrize(("tried", "other"), PAIRS)
def test_no_two_files_share_a_subject(tried: str, other: str) -> None:
    subjects = [{subject(mail) for mail in MAILS[name]} - {""} for name in (tried, other)]
    assert set.intersection(*subjects) == set()


@pytest.mark.parametrize(("tried", "other"), PAIRS)
def test_no_two_files_share_a_run_of_six_words(tried: str, other: str) -> None:
    found = [set().union(*map(runs, MAILS[name])) for name in (tried, other)]
    assert set.intersection(*found) == set()


@pytest.mark.parametrize(("tried", "other"), PAIRS)
def test_no_mail_retells_one_of_another_file(tried: str, other: str) -> None:
    to_vectors = TfidfVectorizer(stop_words="english", sublinear_tf=True)
    to_vectors.fit(text(mail) for mails in MAILS.values() for mail in mails)
    left, right = (to_vectors.transform(text(mail) for mail in MAILS[name]) for name in (tried, other))
    likeness = (left @ right.T).toarray()
    close = {
        MAILS[tried][row]["id"]: MAILS[other][column]["body"]
        for row, column in zip(*(likeness >= LIKENESS).nonzero(), strict=True)
    }
    assert close == {}


# The share of mails that contain this, in the label that has more of it, is at most so many times that of the other.
@pytest.mark.parametrize(
    ("pattern", "factor"),
    [
        (r"http://", 1.5),
        (r"https://", 1.5),
        (r"https?://|www\.|\.example\b", 1.5),
        (r"[\w.]+@[\w.]+", 2),
        (r"[$€£]", 2),
        (r"\d[.,]\d\d\b", 2),
        (r"(?i)unsubscribe|\bstop\b|off the list", 2),
        (r"\+00 555|\b555-\d", 2),
        (r"(?im)^(hi|hello|dear|hey|hallo|liebe|guten|sehr|bonjour|ch[eè]re?|hola|estimad|querid)", 1.5),
        (r"(?i)regards|sincerely|love,|thanks,|grüße|cordialement|saludo", 2),
        (r"!", 2),
        (r"(?i)\bfree\b|gratis|gratuit", 2),
        (r"^\n", 1.5),
    ],
)
def test_the_form_of_a_learned_mail_does_not_tell_its_label(pattern: str, factor: float) -> None:
    by_label = {
        label: [bool(re.search(pattern, text(mail))) for mail in MAILS["learned"] if mail["label"] == label]
        for label in (HAM, SPAM)
    }
    low, high = sorted(sum(found) / len(found) for found in by_label.values())
    assert 0 < high <= factor * low, f"{pattern}: {low:.3f} and {high:.3f}"


def test_labels_are_even_and_slices_small() -> None:
    counts = {name: Counter(mail["label"] for mail in mails) for name, mails in MAILS.items()}
    assert counts == {
        "learned": {HAM: 834, SPAM: 785},
        "test": {HAM: 120, SPAM: 120},
        "validation": {HAM: 60, SPAM: 60},
        "short": {HAM: 60, SPAM: 60},
        "validation-short": {HAM: 30, SPAM: 30},
    }
    for name, slices in (("test", 25), ("validation", 25), ("validation-short", 6), ("short", 14)):
        counted = Counter((mail["label"], mail["slice"]) for mail in MAILS[name])
        assert {3 <= count <= 20 for count in counted.values()} == {True}
        assert len(counted) == slices
        assert len({mail["slice"] for mail in MAILS[name]}) == slices  # no slice has mails of both labels


def test_every_mail_has_a_text_and_a_name_of_its_own() -> None:
    ids = [mail["id"] for name in FILES if name != "learned" for mail in MAILS[name]]
    assert len(ids) == len(set(ids))
    assert all(mail["body"].strip() for mails in MAILS.values() for mail in mails)
    learned = sorted(" ".join(words(text(mail))) for mail in MAILS["learned"])
    assert all(one != next_one for one, next_one in pairwise(learned))
