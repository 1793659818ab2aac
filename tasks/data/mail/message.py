"""MIME: the texts of a message and of the mails in it, decoded, out of HTML, mended and without noise."""

import quopri
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from email.feedparser import BytesFeedParser
from email.message import EmailMessage, Message
from email.policy import EmailPolicy
from typing import TYPE_CHECKING, Any

from tasks.data.mail.characters import decode, join_spelled, mend, wider_charset, without_lost
from tasks.data.mail.html import html_text, is_html
from tasks.data.mail.noise import without_noise

# Lines such as those between the parts of a message whose header got lost, below at most two of a preamble:
PARTS = re.compile(r"\s*(?:[^\s-].*\n\s*){0,2}--(\S.{0,68}\S)[ \t]*\n(?:[\w-]+:.*\n)*Content-Type:", re.IGNORECASE)
# The header of a part of such a message.
HEADERS = re.compile(r"(?:[\w-]+:.*|[ \t]+.*)(?:\n(?:[\w-]+:.*|[ \t]+.*))*")
PART_HEADER = re.compile(
    r"content-(?:type|transfer-encoding|disposition|id):\s*\S+(?:\s+[\w-]+=\S+)*|\s+[\w-]+=\S+", re.IGNORECASE
)
ENCODED_CHARSET = re.compile(r"(?<==\?)[^?*\s]{1,40}(?=[?*])")  # of a word of a header
QUOTED_PRINTABLE = 0.9  # share of a text's equals signs
DEEPEST_MAIL = 50  # mails in mails; each line is compared with the boundary of every one around it
LONGEST_HEADER = 10_000  # characters; Python's parser of headers is quadratic
MOST_COMPARED = 200_000  # characters of the forms of a text; each line is looked for in all of the others
PAGES = (".htm", ".html", ".xhtml", ".shtml", ".svg")  # attachments that are read, whatever type they claim
PASSES = 20  # of cleaning; none of the 6,046 messages of the default data needs more than four
REQUIREMENTS = ("ftfy", "lxml")
"""The distributions on PyPI that a served model needs for its cleaning."""
INPUTS = {"subject": str | None, "body": str | None, "message": str | None}
"""The columns of a row that `clean_row` takes."""

if TYPE_CHECKING:
    PythonsPolicy = EmailPolicy[EmailMessage]
else:
    PythonsPolicy = EmailPolicy  # which takes no type at run time


class RowError(ValueError):
    """A row that is no mail. A served model answers the row with this error."""


def clean_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Tidy `subject` and `body` of a row that has these two, or a whole raw mail as `message`.

    A message may be bytes, which are decoded as its headers say. Raises RowError for a row that has both forms, holds
    anything but text, or can't be read.
    """
    values: dict[str, Any] = {name: row.get(name) for name in INPUTS if row.get(name) is not None}
    for name, value in values.items():
        if not isinstance(value, (str, bytes) if name == "message" else str):
            raise RowError(f"{name}: {value!r} is not text")
    if "message" not in values:
        subject, body = clean_mail(values.get("subject", ""), values.get("body", ""))
    elif len(values) == 1:
        subject, body = parse_message(values["message"])
    else:
        raise RowError("a row has either message or subject and body")
    return {"subject": subject, "body": body}


def parse_message(raw: str | bytes) -> tuple[str, str]:
    """The subject and the body of a raw message as tidy text.

    The body is its text, its HTML where that says something else, the mails in it, and attachments that are text.
    Raises RowError for a message that can't be read.
    """
    content = raw if isinstance(raw, bytes) else without_lost(raw).encode()
    try:
        message = _parse(content)
        texts = list(_texts(message))
        if not any(texts):  # broken boundaries or types leave the content as it came; bytes of a picture are no text
            leaves = [part for part in message.walk() if not part.is_multipart() and _may_be_text(part)]
            texts = [_body_text(_text(part), part.get_content_subtype()) for part in leaves]
        subject = _subject(message)
    except RowError:
        raise
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:  # of Python's parser
        raise RowError(f"not readable as a mail ({type(error).__name__}: {error})") from error
    return _settle(subject, _paragraphs(texts))


def clean_mail(subject: str, body: str) -> tuple[str, str]:
    """The subject and the body of a mail, perhaps in HTML, as tidy text. A tidy mail stays as it is.

    Raises RowError for a body that can't be read.
    """
    return _settle(without_lost(subject), _body_text(without_lost(body)))


def _settle(subject: str, body: str) -> tuple[str, str]:
    """Clean until nothing changes, so that a cleaned mail is served as it was evaluated.

    Raises RowError after PASSES passes.
    """
    mail = _clean(subject, body)
    # Mending may uncover more to mend: an entity in an entity, or "<html>" after a control character.
    for _ in range(PASSES):
        subject, body = mail
        cleaned = _clean(subject, _body_text(body))
        if cleaned == mail:
            return mail
        mail = cleaned
    raise RowError(f"not readable as a mail: cleaned {PASSES} times, there is more to clean")


def _clean(subject: str, body: str) -> tuple[str, str]:
    """The subject as one line; the body without noise and empty lines in a row."""
    return " ".join(_tidy_lines(subject).split()), re.sub(r"\n{3,}", "\n\n", without_noise(body)).strip()


# ---- texts


def _body_text(content: str, subtype: str = "plain") -> str:
    """The text of a body of type `text/<subtype>`.

    A body that has the parts of a message in it, is quoted-printable, or is HTML, is read as such, whatever its header
    said.
    """
    if parts := PARTS.match(content):
        content = "\n\n".join(_pieces(content, parts[1]))
        subtype = "plain"
    return _tidy_lines(_without_tags(_without_quoted_printable(content), subtype)).strip()


def _tidy_lines(text: str) -> str:
    """The text with its characters mended, spelled words put together, and single spaces in its lines."""
    return "\n".join(" ".join(line.split()) for line in join_spelled(mend(text)).splitlines())


def _without_tags(content: str, subtype: str = "plain") -> str:
    if subtype == "html" or is_html(content):
        return html_text(content, declared=subtype == "html")
    return content


def _without_quoted_printable(text: str) -> str:
    """The text decoded if nearly all of its `=` are those of quoted-printable."""
    soft = len(re.findall(r"(?<![=\n])=\r?$", text, re.MULTILINE))
    coded = len(re.findall(r"=[0-9A-F]{2}", text))
    if not soft or not coded or soft + coded < max(3, QUOTED_PRINTABLE * text.count("=")):
        return text
    return decode(quopri.decodestring(text.encode(errors="ignore")), None)


def _pieces(content: str, boundary: str) -> Iterator[str]:
    """The texts between the boundaries of a message whose header got lost.

    Only the headers of parts are left out: a mail program shows all of the rest.
    """
    for piece in re.split(rf"^--{re.escape(boundary)}(?:--)?[ \t]*$", content, flags=re.MULTILINE):
        head, _, body = piece.strip("\n").partition("\n\n")
        if not HEADERS.fullmatch(head):
            yield _without_tags(piece)
            continue
        part = _parse(piece.strip("\n").encode(errors="ignore"))
        further_headers = [line for line in head.split("\n") if not PART_HEADER.fullmatch(line)]
        yield _without_tags("\n".join(further_headers))
        is_text = part.get_content_maintype() == "text"
        yield _without_tags(_text(part), part.get_content_subtype()) if is_text else _without_tags(body)


def _together(forms: Sequence[str]) -> str:
    """Forms of one text as one: the first, and those lines of the others whose words it lacks."""
    if not forms or sum(map(len, forms)) > MOST_COMPARED:
        return _paragraphs(forms)
    texts = [forms[0]]
    first_words = _words(forms[0])
    for form in forms[1:]:
        texts.append("\n".join(line for line in form.split("\n") if _words(line) not in first_words))
    return _paragraphs(texts)


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, map(str.strip, texts)))


def _words(text: str) -> str:
    """The words of a line in lower case; the whole line if it has none."""
    words = re.findall(r"[^\W_]+", text.lower()) or [text.strip() or " "]
    return f" {' '.join(words)} "


# ---- MIME


class _Policy(PythonsPolicy):
    """Python's own, with headers of bounded length, and subjects in the charsets that programs mean."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """The name and the value of a header."""
        name, value = super().header_source_parse(sourcelines)
        value = value[:LONGEST_HEADER]
        if name.lower() == "subject":
            if not value.isascii():  # bytes without a declared charset; Python's parser loses them
                value = decode(value.encode("ascii", "surrogateescape"), None)
            value = ENCODED_CHARSET.sub(lambda charset: wider_charset(charset[0]), value)
        return name, value


class _Parser(BytesFeedParser):
    """Python's own, with a bound on mails in mails."""

    def _new_message(self) -> None:
        # pyrefly: ignore[missing-attribute]: typeshed leaves out what begins with an underscore
        if len(self._msgstack) >= DEEPEST_MAIL:
            raise RowError(f"not readable as a mail: it is nested over {DEEPEST_MAIL} levels deep")
        # pyrefly: ignore[missing-attribute]: as above
        super()._new_message()


def _parse(content: bytes) -> Message:
    parser = _Parser(policy=_Policy())
    parser.feed(content)
    return parser.close()


def _texts(part: Message) -> Iterator[str]:
    """The texts of a part that a person reads: text and HTML of any name, and mails in it with their subjects.

    Where a text comes in several forms, HTML is the one that is shown.
    """
    kind = part.get_content_type()
    name = (part.get_filename() or "").lower()
    if part.is_multipart():
        parts = _parts(part)
        if kind == "multipart/alternative":
            forms = sorted(parts, key=_is_plain)
            yield _together([_paragraphs(_texts(form)) for form in forms])
            return
        if part.get_content_maintype() == "message":
            yield _subject(parts[0])
        for inner in parts:
            yield from _texts(inner)
    elif name.endswith(".eml"):
        mail = _parse(_content(part))
        yield _subject(mail)
        yield from _texts(mail)
    elif kind == "application/xhtml+xml" or name.endswith(PAGES):
        yield _body_text(_text(part), "html")
    elif part.get_content_maintype() == "text" or name.endswith(".txt"):
        yield _body_text(_text(part), part.get_content_subtype())


def _parts(part: Message) -> list[Message]:
    """The parts of one that has several."""
    payload = part.get_payload()
    parts = payload if isinstance(payload, list) else []
    return [inner for inner in parts if isinstance(inner, Message)]


def _is_plain(part: Message) -> bool:
    return part.get_content_subtype() == "plain"


def _content(part: Message) -> bytes:
    """The bytes of a part, decoded; none if it has several parts."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _text(part: Message) -> str:
    return decode(_content(part), part.get_content_charset())


def _subject(message: Message) -> str:
    return " ".join(map(str, message.get_all("subject", [])))


def _may_be_text(part: Message) -> bool:
    if part.get_content_maintype() in ("text", "multipart"):
        return True
    content = _content(part)  # such as application/pgp: what PGP signed, in ASCII
    return part.get_filename() is None and content.isascii() and b"\0" not in content
