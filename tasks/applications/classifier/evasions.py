"""Ways in which spam is written to pass a filter: each makes a raw message of a spam and a harmless text.

A person who opens the message reads the spam; what a filter reads decides whether it is caught.
"""

import re
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from html import escape
from typing import NamedTuple

import pandas as pd


class Spam(NamedTuple):
    """A spam, and a harmless mail to hide it in."""

    id: str
    subject: str
    body: str
    cover: str


MAILS = 30  # that are drawn
WORDS = {"spam": (20, 400), "cover": (60, 400)}  # of which a mail has so many


def draw(test: pd.DataFrame, plain: str, looked_for: str) -> list[Spam]:
    """Mails with the label `looked_for`, at most MAILS, each with one of the label `plain` to hide it in."""
    words = test["body"].str.split().map(len)

    def some(label: str, fewest: int, most: int) -> pd.DataFrame:
        chosen = test[(test["label"] == label) & words.between(fewest, most)]
        return chosen.sample(min(MAILS, len(chosen)), random_state=1)

    spams = some(looked_for, *WORDS["spam"]).to_dict("records")
    covers = some(plain, *WORDS["cover"])["body"]
    return [
        Spam(id=spam["id"], subject=spam["subject"], body=spam["body"], cover=cover)
        for spam, cover in zip(spams, covers, strict=False)
    ]


Form = Callable[[Spam], bytes]
Change = Callable[[str], str]
"""Writes a word in another way."""
CYRILLIC = str.maketrans("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ")  # noqa: RUF001
LEET = str.maketrans("aeiost", "4310$7")
HARMLESS = "\n\n{cover}\n\n"


def message(subject: str, *parts: str | EmailMessage, subtype: str = "mixed") -> bytes:
    """A raw message of several parts: text, HTML where it begins with a tag, or what is a message already."""
    return email(subject, *parts, subtype=subtype).as_bytes(policy=SMTP)


def email(subject: str, *parts: str | EmailMessage, subtype: str = "mixed") -> EmailMessage:
    """The same as an email."""
    whole = EmailMessage()
    whole["Subject"] = " ".join(subject.split())
    whole["From"] = "someone@example.org"
    if len(parts) == 1 and isinstance(parts[0], str):
        set_text(whole, parts[0])
        return whole
    if subtype == "mixed":
        whole.make_mixed()
    else:
        whole.make_alternative()
    for part in parts:
        if isinstance(part, str):
            text = EmailMessage()
            set_text(text, part)
            whole.attach(text)
        else:
            whole.attach(part)
    return whole


def set_text(part: EmailMessage, text: str) -> None:
    """Make a text, or HTML, the content of a part."""
    part.set_content(text, subtype="html" if text.startswith("<") else "plain", charset="utf-8")


def as_html(text: str) -> str:
    """A text as HTML."""
    return escape(text).replace("\n", "<br>\n")


def change_words(text: str, change: Change) -> str:
    """The text with each word of four letters or more changed."""
    return re.sub(r"[A-Za-z]{4,}", lambda match: change(match[0]), text)


def filled(*parts: str, subtype: str = "mixed") -> Form:
    """A message of templates with the `body` and `cover` of a spam; `html` and `cover_html` are these as HTML."""

    def form(spam: Spam) -> bytes:
        texts = {
            "body": spam.body,
            "cover": spam.cover,
            "html": as_html(spam.body),
            "cover_html": as_html(spam.cover),
        }
        return message(spam.subject, *[part.format(**texts) for part in parts], subtype=subtype)

    return form


def nested_parts(spam: Spam) -> bytes:
    """HTML in a part of a part."""
    inner = email("", spam.cover, f"<p>{as_html(spam.body)}</p>", subtype="alternative")
    return message(spam.subject, email("", spam.cover, inner))


def forwarded_mail(spam: Spam) -> bytes:
    """The spam as a mail in a mail, forwarded in two words."""
    forwarded = EmailMessage()
    forwarded.set_content(email(spam.subject, spam.body))
    return message(spam.subject, "See below.", forwarded)


def with_homoglyphs(word: str) -> str:
    """A word in Cyrillic letters that look like its own."""
    return word.translate(CYRILLIC)


def digits_within(word: str) -> str:
    """A word whose letters but the first are digits that look like them."""
    return word[0] + word[1:].translate(LEET)


def changed(change: Change) -> Form:
    """A mail whose words are written in another way."""

    def form(spam: Spam) -> bytes:
        return message(change_words(spam.subject, change), change_words(spam.body, change))

    return form


def letters_apart(spam: Spam) -> bytes:
    """All letters apart, so that no word can be told."""
    return message(spam.subject, " ".join(re.sub(r"\s", "", spam.body)))


def links(spam: Spam) -> bytes:
    """Two links whose addresses hold the words."""
    words = re.findall(r"[a-z]{3,}", spam.body.lower())[:12]
    hosts = [f"{'-'.join(words[first : first + 3])}.example" for first in (0, 6)]
    paths = ["-".join(words[first : first + 3]) for first in (3, 9)]
    return message(spam.subject, f"http://{hosts[0]}/{paths[0]}\nhttp://{hosts[1]}/{paths[1]}")


FORMS: dict[str, Form] = {
    "HTML beside harmless text": filled("{cover}", "<p>{html}</p>", subtype="alternative"),
    "second text part": filled("{cover}", "{body}"),
    "nested parts": nested_parts,
    "forwarded mail": forwarded_mail,
    "long harmless end": filled("{body}\n\n{cover}"),
    "amidst 30 times as many harmless words": filled(15 * HARMLESS + "{body}" + 15 * HARMLESS),
    "harmless text hidden by display": filled('<html><div style="display:none">{cover_html}</div><p>{html}</p></html>'),
    "homoglyphs": changed(with_homoglyphs),
    "letters as digits": changed(digits_within),
    "all letters apart": letters_apart,
    "links alone": links,
}
"""A name for each way, and how it is done. Cleaning makes most others equal to one of these, or to the plain mail."""
