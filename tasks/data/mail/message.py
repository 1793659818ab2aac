"""MIME: the texts of a message and of the mails in it, decoded, out of HTML and with their characters mended."""

import quopri
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.feedparser import BytesFeedParser
from email.message import EmailMessage, Message
from email.policy import EmailPolicy
from typing import TYPE_CHECKING

from tasks.data.mail.characters import decode, join_spelled, mend, wider_charset
from tasks.data.mail.html import html_text, is_html

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
READABLE = (".htm", ".html", ".xhtml", ".shtml", ".svg", ".txt")  # attachments that are read, whatever type they claim

if TYPE_CHECKING:
    PythonsPolicy = EmailPolicy[EmailMessage]
else:
    PythonsPolicy = EmailPolicy  # which takes no type at run time

Note = Callable[[str, str, str], None]
"""Called with the name of a cleaning rule, the text before it, and the text after it."""


def no_note(rule: str, before: str, after: str) -> None:
    """Keep nothing."""


class RowError(ValueError):
    """A row that is no mail. A served model answers the row with this error."""


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


POLICY = _Policy()


def _parse(content: bytes) -> Message:
    parser = _Parser(policy=POLICY)
    parser.feed(content)
    return parser.close()


def read_message(content: bytes, note: Note = no_note) -> tuple[str, str]:
    """The subject of a raw message, and all of its text. Raises RowError if it can't be read."""
    try:
        message = _parse(content)
        texts = list(_texts(message, note))
        if not any(texts):  # broken boundaries or types leave the content as it came; bytes of a picture are no text
            leaves = [part for part in message.walk() if not part.is_multipart() and _may_be_text(part)]
            texts = [body_text(_text(part), part.get_content_subtype(), note) for part in leaves]
        return _subject(message), _paragraphs(texts)
    except RowError:
        raise
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:  # of Python's parser
        raise RowError(f"not readable as a mail ({type(error).__name__}: {error})") from error


def body_text(content: str, subtype: str = "plain", note: Note = no_note) -> str:
    """The text of a body of type `text/<subtype>`.

    A body that has the parts of a message in it, is quoted-printable, or is HTML, is read as such, whatever its header
    said.
    """
    if parts := PARTS.match(content):
        text = "\n\n".join(_pieces(content, parts[1]))
        note("parts", content, text)
        content = text
        subtype = "plain"
    decoded = _without_quoted_printable(content)
    note("quoted_printable", content, decoded)
    return tidy_lines(_marked_up(decoded, subtype, note), note).strip()


def tidy_lines(text: str, note: Note = no_note) -> str:
    """The text with its characters mended, spelled words put together, and single spaces in its lines."""
    mended = mend(text)
    note("characters", text, mended)
    joined = join_spelled(mended)
    note("spelled", mended, joined)
    return "\n".join(" ".join(line.split()) for line in joined.splitlines())


def _marked_up(content: str, subtype: str, note: Note = no_note) -> str:
    if subtype != "html" and not is_html(content):
        return content
    text = html_text(content, declared=subtype == "html")
    note("markup", content, text)
    return text


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
            yield _marked_up(piece, "plain")
            continue
        part = _parse(piece.strip("\n").encode(errors="ignore"))
        further_headers = [line for line in head.split("\n") if not PART_HEADER.fullmatch(line)]
        yield _marked_up("\n".join(further_headers), "plain")
        if part.get_content_maintype() == "text":
            yield _marked_up(_text(part), part.get_content_subtype())
        else:
            yield _marked_up(body, "plain")


def _texts(part: Message, note: Note) -> Iterator[str]:
    """The texts of a part that a person reads: text and HTML of any name, and mails in it with their subjects.

    Where a text comes in several forms, HTML is the one that is shown.
    """
    kind = part.get_content_type()
    name = (part.get_filename() or "").lower()
    if kind == "multipart/alternative" and part.is_multipart():
        forms = sorted(_parts(part), key=_is_plain)
        yield _together([_paragraphs(_texts(form, note)) for form in forms])
    elif part.get_content_maintype() == "message" and part.is_multipart():
        encoding = str(part["content-transfer-encoding"] or "").lower()
        yield from _mail_in(_parts(part)[0], encoding, note)
    elif part.is_multipart():
        for inner in _parts(part):
            yield from _texts(inner, note)
    elif name.endswith(".eml"):
        yield from _mail_in(_parse(_content(part)), "", note)
    elif part.get_content_maintype() == "text" or kind == "application/xhtml+xml" or name.endswith(READABLE):
        is_page = kind == "application/xhtml+xml" or name.endswith(READABLE[:-1])
        yield body_text(_text(part), "html" if is_page else part.get_content_subtype(), note)


def _parts(part: Message) -> list[Message]:
    """The parts of one that has several."""
    payload = part.get_payload()
    parts = payload if isinstance(payload, list) else []
    return [inner for inner in parts if isinstance(inner, Message)]


def _content(part: Message) -> bytes:
    """The bytes of a part, decoded; none if it has several parts."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _is_plain(part: Message) -> bool:
    return part.get_content_subtype() == "plain"


def _mail_in(message: Message, encoding: str, note: Note) -> Iterator[str]:
    """The texts of a mail in a mail, which may be encoded as a whole."""
    if encoding in ("base64", "quoted-printable"):
        content = message.as_bytes()
        if encoding == "base64":
            message = _parse(b64decode(b"".join(content.split()) + b"=="))
        else:
            message = _parse(quopri.decodestring(content))
    yield _subject(message)
    yield from _texts(message, note)


def _subject(message: Message) -> str:
    return " ".join(map(str, message.get_all("subject", [])))


def _text(part: Message) -> str:
    return decode(_content(part), part.get_content_charset())


def _may_be_text(part: Message) -> bool:
    if part.get_content_maintype() in ("text", "multipart"):
        return True
    content = _content(part)  # such as application/pgp: what PGP signed, in ASCII
    return part.get_filename() is None and content.isascii() and b"\0" not in content


def _together(forms: Sequence[str]) -> str:
    """Forms of one text as one: the first, and those lines of the others whose words it lacks."""
    if sum(map(len, forms)) > MOST_COMPARED:
        return _paragraphs(forms)
    texts = list(forms[:1])
    first_words = _words(forms[0]) if forms else ""
    for form in forms[1:]:
        texts.append("\n".join(line for line in form.split("\n") if _words(line) not in first_words))
    return _paragraphs(texts)


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, map(str.strip, texts)))


def _words(text: str) -> str:
    """The words of a line in lower case; the whole line if it has none."""
    words = re.findall(r"[^\W_]+", text.lower()) or [text.strip() or " "]
    return f" {' '.join(words)} "
