"""Ways in which spam is written to pass a filter: each makes a raw message of a spam and a harmless text.

A person who opens the message reads the spam; what a filter reads decides whether it is caught.
"""

import base64
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

    pairs = zip(some(looked_for, *WORDS["spam"]).itertuples(), some(plain, *WORDS["cover"]).itertuples(), strict=False)
    return [Spam(id=spam.id, subject=spam.subject, body=spam.body, cover=cover.body) for spam, cover in pairs]


Form = Callable[[Spam], bytes]
CYRILLIC = str.maketrans("aceopxyiABCEHKMOPTX", "асеорхуіАВСЕНКМОРТХ")  # noqa: RUF001
LEET = str.maketrans("aeiost", "4310$7")
HIDDEN = ("display:none", "font-size:0px", "visibility:hidden", "opacity:0")


def message(subject: str, *parts: str | EmailMessage, subtype: str = "mixed") -> bytes:
    """A raw message of several parts: text, HTML where it begins with a tag, or what is a message already."""
    return _message(subject, *parts, subtype=subtype).as_bytes(policy=SMTP)


def _message(subject: str, *parts: str | EmailMessage, subtype: str = "mixed") -> EmailMessage:
    whole = EmailMessage()
    whole["Subject"] = " ".join(subject.split())
    whole["From"] = "someone@example.org"
    if len(parts) == 1 and isinstance(parts[0], str):
        whole.set_content(parts[0], subtype="html" if parts[0].startswith("<") else "plain", charset="utf-8")
        return whole
    whole.make_mixed() if subtype == "mixed" else whole.make_alternative()
    for part in parts:
        if isinstance(part, EmailMessage):
            whole.attach(part)
            continue
        inner = EmailMessage()
        inner.set_content(part, subtype="html" if part.startswith("<") else "plain", charset="utf-8")
        whole.attach(inner)
    return whole


def _attached(text: str, name: str) -> EmailMessage:
    part = EmailMessage()
    part.set_content(text.encode(), "application", "octet-stream", disposition="attachment", filename=name)
    return part


def _html(text: str) -> str:
    return escape(text).replace("\n", "<br>\n")


def _words(body: str, change: Callable[[str], str]) -> str:
    """The text with each word of four letters or more changed."""
    return re.sub(r"[A-Za-z]{4,}", lambda found: change(found[0]), body)


def _changed(change: Callable[[str], str]) -> Form:
    return lambda spam: message(_words(spam.subject, change), _words(spam.body, change))


def _between(sign: str) -> Callable[[str], str]:
    return lambda word: word[0] + sign.join(word[1:3]) + sign + word[3:]


def _spelled(sign: str) -> Form:
    def form(spam: Spam) -> bytes:
        return message(spam.subject, re.sub(r"[A-Za-z]{4,}", lambda found: f" {sign.join(found[0])} ", spam.body))

    return form


def _below(line: str) -> Form:
    return lambda spam: message(spam.subject, f"{spam.cover}\n\n{line}\n{_short(spam.body)}")


def _short(body: str, lines: int = 6) -> str:
    """The same text in few long lines."""
    words = body.split()
    size = -(-len(words) // lines) or 1
    return "\n".join(" ".join(words[first : first + size]) for first in range(0, len(words), size))


def _hidden(style: str) -> Form:
    return lambda spam: message(
        spam.subject, f'<html><div style="{style}">{_html(spam.cover)}</div><p>{_html(spam.body)}</p></html>'
    )


def _charset(name: str, encoding: str) -> Form:
    def form(spam: Spam) -> bytes:
        content = spam.body.encode(name, "ignore")
        if encoding == "base64":
            content = base64.encodebytes(content)
        head = f"Subject: offer\nContent-Type: text/plain; charset={name}\nContent-Transfer-Encoding: {encoding}\n\n"
        return (
            head.replace("offer", " ".join(spam.subject.encode("ascii", "ignore").decode().split())).encode() + content
        )

    return form


def _in_comments(spam: Spam) -> bytes:
    lines = "\n".join(f"Comment: {line}" for line in _short(spam.body).split("\n"))
    block = f"-----BEGIN PGP SIGNATURE-----\n{lines}\n\niQEVAwUBPW5AmaHbXyzZsAb3AQH\n=KYCm\n-----END PGP SIGNATURE-----"
    return message(spam.subject, f"{spam.cover}\n\n{block}")


def _links(spam: Spam) -> bytes:
    words = re.findall(r"[a-z]{3,}", spam.body.lower())[:12]
    links = [
        f"http://{'-'.join(words[first : first + 3])}.example/{'-'.join(words[first + 3 : first + 6])}"
        for first in (0, 6)
    ]
    return message(spam.subject, "\n".join(links))


def _lost_header(spam: Spam) -> bytes:
    part = "--=_x1\nContent-Type: text/{}\n\n{}\n\n"
    return message(
        spam.subject, part.format("plain", spam.cover) + part.format("html", _short(spam.body)) + "--=_x1--\n"
    )


def _again(spam: Spam) -> str:
    return f"\n\n{spam.cover}\n\n"


OTHER_PARTS: dict[str, Form] = {
    "HTML beside harmless text": lambda s: message(
        s.subject, s.cover, f"<p>{_html(s.body)}</p>", subtype="alternative"
    ),
    "text beside harmless HTML": lambda s: message(
        s.subject, s.body, f"<p>{_html(s.cover)}</p>", subtype="alternative"
    ),
    "second text part": lambda s: message(s.subject, s.cover, s.body),
    "second HTML part": lambda s: message(s.subject, s.cover, f"<p>{_html(s.body)}</p>"),
    "parts whose header is lost": _lost_header,
    "nested parts": lambda s: message(
        s.subject, _message("", s.cover, _message("", s.cover, f"<p>{_html(s.body)}</p>", subtype="alternative"))
    ),
    "attached text": lambda s: message(s.subject, s.cover, _attached(s.body, "offer.txt")),
    "attached HTML": lambda s: message(s.subject, s.cover, _attached(f"<p>{_html(s.body)}</p>", "offer.html")),
    "forwarded mail": lambda s: message(s.subject, "See below.", _forwarded(s)),
    "forwarded below a harmless text": lambda s: message("Fwd: for you", s.cover, _forwarded(s)),
}
SURROUNDED: dict[str, Form] = {
    "below a signature line": _below("-- "),
    "below two dashes": _below("--"),
    "below a sponsor's line": _below("-- \nThis sf.net email is sponsored by:"),
    "as a list's footer": _below("_______________________________________________\nhttp://x.org/mailman/listinfo/x"),
    "in the comments of a PGP block": _in_comments,
    "quoted below a harmless text": lambda s: message(
        s.subject, s.cover + "\n\nOn Monday someone wrote:\n" + re.sub(r"^", "> ", s.body, flags=re.MULTILINE)
    ),
    "long harmless beginning": lambda s: message(s.subject, f"{s.cover}\n\n{s.body}"),
    "long harmless end": lambda s: message(s.subject, f"{s.body}\n\n{s.cover}"),
    "harmless beginning and end": lambda s: message(s.subject, f"{s.cover}\n\n{s.body}\n\n{s.cover}"),
    "amidst 30 times as many harmless words": lambda s: message(s.subject, f"{15 * _again(s)}{s.body}{15 * _again(s)}"),
    "harmless subject and beginning": lambda s: message("Re: " + s.cover[:40], f"{s.cover}\n\n{s.body}"),
}
HIDDEN_TEXT: dict[str, Form] = {f"harmless text hidden by {style.split(':')[0]}": _hidden(style) for style in HIDDEN}
DISGUISED_WORDS: dict[str, Form] = {
    "comments in words": lambda s: message(
        s.subject, "<p>" + _words(_html(s.body), lambda w: f"{w[:2]}<!-- {len(w)} -->{w[2:]}") + "</p>"
    ),
    "tags in words": lambda s: message(s.subject, "<p>" + _words(s.body, lambda w: f"{w[:2]}<b></b>{w[2:]}") + "</p>"),
    "homoglyphs": _changed(lambda word: word.translate(CYRILLIC)),
    "zero-width characters": _changed(_between("\u200b")),
    "soft hyphens": _changed(_between("\u00ad")),
    "combining marks": _changed(lambda word: "\u0337".join(word)),
    "full-width letters": _changed(lambda word: "".join(chr(ord(each) + 0xFEE0) for each in word)),
    "mathematical letters": _changed(
        lambda word: "".join(chr(ord(each) + (0x1D41A - 97 if each.islower() else 0x1D400 - 65)) for each in word)
    ),
    "letters as digits": _changed(lambda word: word[0] + word[1:].translate(LEET)),
    "words spelled with spaces": _spelled(" "),
    "words spelled with dots": _spelled("."),
    "all letters apart": lambda s: message(s.subject, " ".join(re.sub(r"\s", "", s.body))),
}
ENCODINGS: dict[str, Form] = {
    "all letters as entities": lambda s: message(s.subject, f"<p>{''.join(f'&#{ord(each)};' for each in s.body)}</p>"),
    "UTF-16 in base64": _charset("utf-16", "base64"),
    "UTF-7": _charset("utf-7", "7bit"),
}
GROUPS: dict[str, dict[str, Form]] = {
    "other_parts": OTHER_PARTS,
    "surrounded": SURROUNDED,
    "hidden_text": HIDDEN_TEXT,
    "disguised_words": DISGUISED_WORDS,
    "encodings": ENCODINGS,
    "links_alone": {"links alone": _links},
}
"""Ways that do the same by other means, by the name of their metric: a name for each way, and how it is done."""
FORMS: dict[str, Form] = {name: form for forms in GROUPS.values() for name, form in forms.items()}
AS_IT_WAS = "as it was"


def _forwarded(spam: Spam) -> EmailMessage:
    part = EmailMessage()
    part.set_content(_message(spam.subject, spam.body))
    return part
