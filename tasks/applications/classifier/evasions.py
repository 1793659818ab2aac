"""Ways in which spam is written to pass a filter: each makes a raw message of a spam and a harmless text.

A person who opens the message reads the spam; what a filter reads decides whether it is caught.
"""

import base64
import re
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from functools import partial
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

    pairs = zip(some(looked_for, *WORDS["spam"]).itertuples(), some(plain, *WORDS["cover"]).itertuples(), strict=False)
    return [Spam(id=spam.id, subject=spam.subject, body=spam.body, cover=cover.body) for spam, cover in pairs]


Form = Callable[[Spam], bytes]
Change = Callable[[str], str]
"""Writes a word in another way."""
CYRILLIC = str.maketrans("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ")  # noqa: RUF001
LEET = str.maketrans("aeiost", "4310$7")
FULL_WIDTH = {ord(letter): ord(letter) + 0xFEE0 for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
BOLD = {ord("a") + number: 0x1D41A + number for number in range(26)}
BOLD |= {ord("A") + number: 0x1D400 + number for number in range(26)}
HIDDEN = ("display:none", "font-size:0px", "visibility:hidden", "opacity:0")
LOST_HEADER = "--=_x1\nContent-Type: text/{}\n\n{}\n\n"
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


def attachment(text: str, name: str) -> EmailMessage:
    """A file that holds a text."""
    part = EmailMessage()
    part.set_content(text.encode(), "application", "octet-stream", disposition="attachment", filename=name)
    return part


def as_html(text: str) -> str:
    """A text as HTML."""
    return escape(text).replace("\n", "<br>\n")


def long_lines(body: str, lines: int = 6) -> str:
    """The same text in few long lines."""
    words = body.split()
    size = -(-len(words) // lines) or 1
    return "\n".join(" ".join(words[first : first + size]) for first in range(0, len(words), size))


def change_words(text: str, change: Change) -> str:
    """The text with each word of four letters or more changed."""
    return re.sub(r"[A-Za-z]{4,}", lambda match: change(match[0]), text)


def filled(*parts: str, subject: str = "{subject}", subtype: str = "mixed") -> Form:
    """A message of templates with the subject, `body` and `cover` of a spam; `html` and `cover_html` are these texts as
    HTML, `short` is the body in long lines, and `quoted` with a mark before each line."""

    def form(spam: Spam) -> bytes:
        texts = spam._asdict() | {
            "html": as_html(spam.body),
            "cover_html": as_html(spam.cover),
            "short": long_lines(spam.body),
            "quoted": re.sub(r"^", "> ", spam.body, flags=re.MULTILINE),
        }
        return message(subject.format(**texts), *[part.format(**texts) for part in parts], subtype=subtype)

    return form


def nested_parts(spam: Spam) -> bytes:
    """HTML in a part of a part."""
    inner = email("", spam.cover, f"<p>{as_html(spam.body)}</p>", subtype="alternative")
    return message(spam.subject, email("", spam.cover, inner))


def attached_text(spam: Spam) -> bytes:
    """A file below a harmless text."""
    return message(spam.subject, spam.cover, attachment(spam.body, "offer.txt"))


def attached_html(spam: Spam) -> bytes:
    """A file of HTML below a harmless text."""
    return message(spam.subject, spam.cover, attachment(f"<p>{as_html(spam.body)}</p>", "offer.html"))


def forwarded(spam: Spam) -> EmailMessage:
    """The spam as a mail in a mail."""
    part = EmailMessage()
    part.set_content(email(spam.subject, spam.body))
    return part


def forwarded_mail(spam: Spam) -> bytes:
    """The spam, forwarded in two words."""
    return message(spam.subject, "See below.", forwarded(spam))


def forwarded_below_cover(spam: Spam) -> bytes:
    """The spam, forwarded below a harmless text."""
    return message("Fwd: for you", spam.cover, forwarded(spam))


def in_comments(spam: Spam) -> bytes:
    """The spam in the comments of a signature."""
    lines = "\n".join(f"Comment: {line}" for line in long_lines(spam.body).split("\n"))
    block = f"-----BEGIN PGP SIGNATURE-----\n{lines}\n\niQEVAwUBPW5AmaHbXyzZsAb3AQH\n=KYCm\n-----END PGP SIGNATURE-----"
    return message(spam.subject, f"{spam.cover}\n\n{block}")


def comment_within(word: str) -> str:
    """A word with a comment of HTML in it."""
    return f"{word[:2]}<!-- {len(word)} -->{word[2:]}"


def tags_within(word: str) -> str:
    """A word with empty tags in it."""
    return f"{word[:2]}<b></b>{word[2:]}"


def sign_within(word: str, sign: str) -> str:
    """A word with a sign between some of its letters."""
    return word[0] + sign.join(word[1:3]) + sign + word[3:]


def digits_within(word: str) -> str:
    """A word whose letters but the first are digits that look like them."""
    return word[0] + word[1:].translate(LEET)


def comments_in_words(spam: Spam) -> bytes:
    """HTML whose words have comments in them."""
    return message(spam.subject, f"<p>{change_words(as_html(spam.body), comment_within)}</p>")


def tags_in_words(spam: Spam) -> bytes:
    """HTML whose words have tags in them."""
    return message(spam.subject, f"<p>{change_words(spam.body, tags_within)}</p>")


def changed(change: Change) -> Form:
    """A mail whose words are written in another way."""

    def form(spam: Spam) -> bytes:
        return message(change_words(spam.subject, change), change_words(spam.body, change))

    return form


def spelled(sign: str) -> Form:
    """A mail whose words are spelled, with a sign between letters."""

    def spell(word: str) -> str:
        return f" {sign.join(word)} "

    def form(spam: Spam) -> bytes:
        return message(spam.subject, change_words(spam.body, spell))

    return form


def letters_apart(spam: Spam) -> bytes:
    """All letters apart, so that no word can be told."""
    return message(spam.subject, " ".join(re.sub(r"\s", "", spam.body)))


def entities(spam: Spam) -> bytes:
    """HTML in which each letter is an entity."""
    return message(spam.subject, f"<p>{''.join(f'&#{ord(letter)};' for letter in spam.body)}</p>")


def encoded(spam: Spam, charset: str, encoding: str) -> bytes:
    """A mail in a rare encoding."""
    content = spam.body.encode(charset, "ignore")
    if encoding == "base64":
        content = base64.encodebytes(content)
    subject = " ".join(spam.subject.encode("ascii", "ignore").decode().split())
    lines = [
        f"Subject: {subject}",
        f"Content-Type: text/plain; charset={charset}",
        f"Content-Transfer-Encoding: {encoding}",
    ]
    return "\n".join([*lines, "\n"]).encode() + content


def links(spam: Spam) -> bytes:
    """Two links whose addresses hold the words."""
    words = re.findall(r"[a-z]{3,}", spam.body.lower())[:12]
    hosts = [f"{'-'.join(words[first : first + 3])}.example" for first in (0, 6)]
    paths = ["-".join(words[first : first + 3]) for first in (3, 9)]
    return message(spam.subject, f"http://{hosts[0]}/{paths[0]}\nhttp://{hosts[1]}/{paths[1]}")


OTHER_PARTS: dict[str, Form] = {
    "HTML beside harmless text": filled("{cover}", "<p>{html}</p>", subtype="alternative"),
    "text beside harmless HTML": filled("{body}", "<p>{cover_html}</p>", subtype="alternative"),
    "second text part": filled("{cover}", "{body}"),
    "second HTML part": filled("{cover}", "<p>{html}</p>"),
    "parts whose header is lost": filled(
        LOST_HEADER.format("plain", "{cover}") + LOST_HEADER.format("html", "{short}") + "--=_x1--\n"
    ),
    "nested parts": nested_parts,
    "attached text": attached_text,
    "attached HTML": attached_html,
    "forwarded mail": forwarded_mail,
    "forwarded below a harmless text": forwarded_below_cover,
}
SURROUNDED: dict[str, Form] = {
    "below a signature line": filled("{cover}\n\n-- \n{short}"),
    "below two dashes": filled("{cover}\n\n--\n{short}"),
    "below a sponsor's line": filled("{cover}\n\n-- \nThis sf.net email is sponsored by:\n{short}"),
    "as a list's footer": filled(
        "{cover}\n\n_______________________________________________\nhttp://x.org/mailman/listinfo/x\n{short}"
    ),
    "in the comments of a PGP block": in_comments,
    "quoted below a harmless text": filled("{cover}\n\nOn Monday someone wrote:\n{quoted}"),
    "long harmless beginning": filled("{cover}\n\n{body}"),
    "long harmless end": filled("{body}\n\n{cover}"),
    "harmless beginning and end": filled("{cover}\n\n{body}\n\n{cover}"),
    "amidst 30 times as many harmless words": filled(15 * HARMLESS + "{body}" + 15 * HARMLESS),
    "harmless subject and beginning": filled("{cover}\n\n{body}", subject="Re: {cover:.40}"),
}
HIDDEN_TEXT: dict[str, Form] = {
    f"harmless text hidden by {style.split(':')[0]}": filled(
        f'<html><div style="{style}">{{cover_html}}</div><p>{{html}}</p></html>'
    )
    for style in HIDDEN
}
DISGUISED_WORDS: dict[str, Form] = {
    "comments in words": comments_in_words,
    "tags in words": tags_in_words,
    "homoglyphs": changed(lambda word: word.translate(CYRILLIC)),
    "zero-width characters": changed(partial(sign_within, sign="\u200b")),
    "soft hyphens": changed(partial(sign_within, sign="\u00ad")),
    "combining marks": changed("\u0337".join),
    "full-width letters": changed(lambda word: word.translate(FULL_WIDTH)),
    "mathematical letters": changed(lambda word: word.translate(BOLD)),
    "letters as digits": changed(digits_within),
    "words spelled with spaces": spelled(" "),
    "words spelled with dots": spelled("."),
    "all letters apart": letters_apart,
}
ENCODINGS: dict[str, Form] = {
    "all letters as entities": entities,
    "UTF-16 in base64": partial(encoded, charset="utf-16", encoding="base64"),
    "UTF-7": partial(encoded, charset="utf-7", encoding="7bit"),
}
GROUPS: dict[str, dict[str, Form]] = {
    "other_parts": OTHER_PARTS,
    "surrounded": SURROUNDED,
    "hidden_text": HIDDEN_TEXT,
    "disguised_words": DISGUISED_WORDS,
    "encodings": ENCODINGS,
    "links_alone": {"links alone": links},
}
"""Ways that do the same by other means, by the name of their metric: a name for each way, and how it is done."""
FORMS: dict[str, Form] = {name: form for forms in GROUPS.values() for name, form in forms.items()}
