"""A mail as the text that a person reads: what the classifier learns from, and what it is given when it is served.

MLflow keeps this file with every version of a model that was trained on mail: nothing else of ours may be imported.
"""

import email
import re
import warnings
from collections.abc import Mapping
from email import policy
from typing import Any

import ftfy
from bs4 import BeautifulSoup

REQUIREMENTS = ("beautifulsoup4", "ftfy", "lxml")
"""What a served model needs besides: distributions on PyPI."""
INPUTS = {"subject": str | None, "body": str | None, "message": str | None}
"""The columns of a row that `clean_row` takes."""
BLOCKS = ["address", "blockquote", "br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "p", "table", "tr"]
LOST = "\N{REPLACEMENT CHARACTER}"


def _without_lost(text: str) -> str:
    """The text without marks of lost characters and halves of surrogate pairs."""
    # The archive was decoded with losses: which character it was is gone, and U+FFFD would only mark old charsets.
    return text.encode(errors="ignore").decode().replace(LOST, "")


def _html_text(html: str) -> str:
    """The text that a person sees, link texts included, with a new line where a block ends."""
    with warnings.catch_warnings(action="ignore"):
        soup = BeautifulSoup(html, "lxml")
    for tag in soup(["script", "style", "title"]):
        tag.decompose()
    for tag in soup(BLOCKS):
        tag.append("\n")
    for tag in soup(["td", "th"]):
        tag.append(" ")
    return soup.get_text()


def _mend(text: str) -> str:
    """Broken characters mended, lines with single spaces."""
    # ftfy looks at each line by itself, which is half of the time of it all and gains nothing on ASCII.
    text = (ftfy.fix_text_segment if text.isascii() else ftfy.fix_text)(text)
    return "\n".join(" ".join(line.split()) for line in text.replace(LOST, "").splitlines())


def _body_text(content: str, subtype: str = "plain") -> str:
    is_html = subtype == "html" or re.match(r"\s*<(!doctype|html)\b", content, re.IGNORECASE)
    return _mend(_html_text(content) if is_html else content).strip()


def _clean(subject: str, body: str) -> tuple[str, str]:
    """The subject as one line, the body without empty lines in a row."""
    return " ".join(_mend(subject).split()), re.sub(r"\n{3,}", "\n\n", body).strip()


def _settle(subject: str, body: str) -> tuple[str, str]:
    """Clean until nothing changes, so that a mail that was cleaned before is served as it was evaluated."""
    # What is mended may give more to mend: an entity in an entity, or "<html>" after a control character.
    while (cleaned := _clean(subject, _body_text(body))) != (subject, body):
        subject, body = cleaned
    return subject, body


def _decode(content: bytes, charset: str | None) -> str:
    """Decode a part; what is valid UTF-8 is taken for it, whatever charset the header claims."""
    for name in ([] if content.isascii() else ["utf-8"]) + [charset or "ascii"]:
        try:
            return content.decode(name)
        except (LookupError, UnicodeError):
            continue
    return content.decode("latin-1")


def parse_message(raw: str) -> tuple[str, str]:
    """Give the subject and the body of a raw message as tidy text: its plain part, else its HTML; no attachments."""
    message = email.message_from_bytes(_without_lost(raw).encode(), policy=policy.default)
    parts = [part for kind in ("plain", "html") if (part := message.get_body((kind,))) is not None]
    if not parts:  # broken boundaries or types leave the content as it came
        parts = [part for part in message.walk() if not part.is_multipart()][:1]
    bodies = (
        _body_text(_decode(part.get_payload(decode=True), part.get_content_charset()), part.get_content_subtype())
        for part in parts
    )
    return _settle(*_clean(str(message["subject"] or ""), next(filter(None, bodies), "")))


def clean_mail(subject: str, body: str) -> tuple[str, str]:
    """Subject and body of a mail, perhaps in HTML, as tidy text; what is tidy stays as it is."""
    return _settle(*_clean(_without_lost(subject), _body_text(_without_lost(body))))


class RowError(ValueError):
    """A row that is no mail; served, it is the row's answer."""


def clean_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Subject and body as tidy text of a row with these two, or with a whole raw mail under `message`.

    Raises RowError for a row with both, with something else than text, or with a mail that can't be read.
    """
    values = {name: row.get(name) for name in INPUTS if row.get(name) is not None}
    for name, value in values.items():
        if not isinstance(value, str):
            raise RowError(f"{name}: {value!r} is not text")
    if "message" in values:
        if len(values) > 1:
            raise RowError("a row has either message or subject and body")
        try:
            subject, body = parse_message(values["message"])
        except (LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:  # of Python's parser
            raise RowError(f"not readable as a mail ({type(error).__name__}: {error})") from error
    else:
        subject, body = clean_mail(values.get("subject", ""), values.get("body", ""))
    return {"subject": subject, "body": body}
