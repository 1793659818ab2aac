"""A mail as the text that a person reads: what the classifier learns from, and what it is given when it is served.

MLflow keeps this file with every version of a model that was trained on mail: nothing else of ours may be imported.
"""

import codecs
import quopri
import re
from collections.abc import Callable, Mapping, Sequence
from email.feedparser import BytesFeedParser
from email.message import EmailMessage
from email.policy import EmailPolicy
from html import unescape
from typing import Any

import ftfy
from lxml import etree

REQUIREMENTS = ("ftfy", "lxml")
"""What a served model needs besides: distributions on PyPI."""
INPUTS = {"subject": str | None, "body": str | None, "message": str | None}
"""The columns of a row that `clean_row` takes."""
LOST = "\N{REPLACEMENT CHARACTER}"
ENDS = {  # what stands where an element of HTML ends
    **dict.fromkeys(("address", "blockquote", "br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "p"), "\n"),
    **{"table": "\n", "tr": "\n", "td": " ", "th": " "},
}
DROPPED = ("iframe", "script", "style", "title")
UNSEEN = ("rp", "rt", "template")  # their words are not those of the text around them
VERBATIM = ("pre", "textarea")
KINDS = {tag: kind for kind in (DROPPED, UNSEEN, VERBATIM) for tag in kind}
SPACES = " \t\n\f\r"  # HTML's own
# Tags that people's programs write in mails; of <stdio.h>, <list> and <anna@example.com> a text may well speak.
TAG = re.compile(
    r"</?(?:a|b|blockquote|body|br|center|div|em|font|form|h[1-6]|head|hr|html|i|img|input|li|meta|ol|p|pre|script|span"
    r"|strong|style|table|tbody|td|th|title|tr|u|ul)\b[^<>]*>",
    re.IGNORECASE,
)
QUOTED = 0.9  # share of a text's equals signs
TAGGED = 0.1  # share of a text from which on its tags were meant to be read
# Lines such as those between the parts of a message whose header got lost, below at most two of a preamble:
PARTS = re.compile(r"\s*(?:[^\s-].*\n\s*){0,2}--(\S.{0,68}\S)[ \t]*\n(?:[\w-]+:.*\n)*Content-Type:", re.IGNORECASE)
DEEPEST_HTML = 256  # a parser looks through all open elements where one ends: without a bound that is quadratic
DEEPEST_MAIL = 50  # mails in mails; each line is held against the boundary of every one around it
LONGEST_HEADER = 10_000  # characters; Python's parser of headers is quadratic
# What list servers, sponsors and a filter (DeathToSpam) put below a mail, and what the reader of a feed puts above it:
FOOTER = re.compile(r"/listinfo/|email is sponsored|Yahoo! Groups Sponsor|DeathToSpam")  # in a part that is set off
FOOTER_LINE = re.compile(
    r"https?://\S+/listinfo/\S+|To unsubscribe from this group, send an email to:|\S+-unsubscribe@\S+"
    r"|Your use of Yahoo! Groups is subject to\b.*|(?:-*DeathToSpam)+-*|-+~-+>"
)
FEED = re.compile(r"\AURL: \S+\nDate: .*\n")
RULED = ("--", "__", "==", "~~", "**")  # how a line begins that sets a part of a mail off
LONGEST_FOOTER = 8  # lines
LONGEST_FOOTER_LINE = 1000  # characters; an expression of several wildcards is quadratic
LONGEST_SIGNATURE = 10
QUOTE = ">|) "
# What no person reads: signatures and keys of PGP, base64 (three lines at least), uuencode.
ENCODED = re.compile(
    r"^{q}-----BEGIN PGP SIGNED MESSAGE-----\n(?:{q}Hash: .*\n)*"
    r"|^{q}-----BEGIN PGP (?:MESSAGE|PUBLIC KEY BLOCK|SIGNATURE)-----\n(?:{q}(?:\w+: .*|[\w+/=]*)\n)*{q}-----END PGP .*"
    r"|(?:^{q}[A-Za-z0-9+/]{{60,76}}\n){{3,}}(?:{q}(?:[A-Za-z0-9+/]{{20,76}}|[A-Za-z0-9+/]{{2,75}}==?)$)?"
    r"|^{q}begin [0-7]{{3}} .+\n(?:{q}M.{{10,60}}\n)+(?:{q}.{{0,60}}\n){{0,2}}{q}end$".format(q=f"[{QUOTE}]*"),
    re.MULTILINE,
)
WIDER = {  # as browsers read them: https://encoding.spec.whatwg.org/#names-and-labels
    **dict.fromkeys(("ascii", "iso8859-1"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "euc_kr": "cp949",
    "iso2022_jp": "iso2022_jp_ext",
    "shift_jis": "cp932",
}
MULTIBYTE = re.compile(r"big5|cp9[345]\d|euc_|gb|hz|iso2022_|johab|shift_")
ENCODED_CHARSET = re.compile(r"(?<==\?)[^?*\s]{1,40}(?=[?*])")  # of a word of a header
PASSES = 20  # of cleaning; of 6,046 messages of the default data none needs more than four
LAYERS = re.compile(r"&(?:(?:amp|#0*38|#x0*26);?){8,}", re.IGNORECASE)  # more than anybody writes


Note = Callable[[str, str, str], None]
"""Is told of a rule of cleaning, a text before it, and after."""


def _no_note(rule: str, before: str, after: str) -> None:
    pass


def _without_lost(text: str) -> str:
    """The text without marks of lost characters and halves of surrogate pairs."""
    # The archive was decoded with losses: which character it was is gone, and U+FFFD would only mark old charsets.
    return _without_halves(text).replace(LOST, "")


def _without_halves(text: str) -> str:
    return text.encode(errors="ignore").decode()


class _DeepError(Exception):
    """HTML that is nested deeper than anybody writes it."""


class _Reader:
    """Takes what lxml finds in HTML, in order, and keeps what a person sees. Each event is met once."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.words: list[str] = []
        self.depth = 0
        self.inside = dict.fromkeys((DROPPED, UNSEEN, VERBATIM), 0)
        """How many elements of these kinds are open."""

    def _flush(self, *_: Any) -> None:
        """The words since the last event; spaces alone are one, or a new line."""
        if not self.words:
            return
        text = "".join(self.words)
        self.words.clear()
        if self.inside[DROPPED] or self.inside[UNSEEN]:
            return
        if not self.inside[VERBATIM] and not text.strip(SPACES):
            text = "\n" if "\n" in text else " "
        self.seen.append(text)

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        self._flush()
        self.depth += 1
        if self.depth > DEEPEST_HTML:
            raise _DeepError
        if tag in KINDS:
            self.inside[KINDS[tag]] += 1

    def end(self, tag: str) -> None:
        """An element ends."""
        self._flush()
        self.depth -= 1
        if tag in KINDS:
            self.inside[KINDS[tag]] -= 1
        if tag in ENDS and not self.inside[DROPPED]:
            self.seen.append(ENDS[tag])

    def data(self, words: str) -> None:
        """Some of the words of an element."""
        self.words.append(words)

    comment = pi = doctype = _flush

    def close(self) -> str:
        """All that was seen."""
        self._flush()
        return "".join(self.seen)


def html_text(html: str) -> str:
    """The text that a person sees, link texts included, with a new line where a block ends.

    HTML that is nested deeper than DEEPEST_HTML is read without its structure.
    """
    parser = etree.HTMLParser(target=_Reader(), huge_tree=True)  # without it, a comment of 10 MB is never left
    try:
        parser.feed(html.removeprefix("\ufeff"))
        return parser.close()
    except _DeepError:
        return unescape(re.sub(r"<[^<>]*>", " ", html))


def flat_entities(text: str) -> str:
    """The text with `&amp;amp;amp;…` as `&amp;`: whatever mends entities peels off a layer a pass."""
    return LAYERS.sub("&amp;", text)


def _mend(text: str, note: Note = _no_note) -> str:
    """Broken characters mended, lines with single spaces."""
    before, text = text, flat_entities(text)
    # ftfy looks at each line by itself, which is half of the time of it all and gains nothing on ASCII.
    text = (ftfy.fix_text_segment if text.isascii() else ftfy.fix_text)(text).replace(LOST, "")
    note("characters", before, text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def without_quoted_printable(text: str) -> str:
    """The text decoded, where a part is quoted-printable and does not say so: all but some `=` are of its kind."""
    soft = len(re.findall(r"(?<![=\n])=\r?$", text, re.MULTILINE))
    coded = len(re.findall(r"=[0-9A-F]{2}", text))
    if not soft or not coded or soft + coded < max(3, QUOTED * text.count("=")):
        return text
    return _decode(quopri.decodestring(text.encode(errors="ignore")), None)


def _is_html(text: str) -> bool:
    if re.match(r"\s*<(!doctype|html)\b", text, re.IGNORECASE):
        return True
    return "</" in text and sum(map(len, TAG.findall(text))) > TAGGED * len(text)


def _body_text(content: str, subtype: str = "plain", note: Note = _no_note) -> str:
    if found := PARTS.match(content):
        message = f'Content-Type: multipart/mixed; boundary="{found[1]}"\n\n{content}'.encode(errors="ignore")
        # The longest: a plain one may but say that there is HTML. A part that holds nothing leaves the body as it was.
        texts = (text for text in _read(message)[1] if text[0].strip())
        before = content
        content, subtype = max(texts, key=lambda text: len(text[0]), default=(content, subtype))
        note("parts", before, content)
    before, content = content, without_quoted_printable(content)
    note("quoted_printable", before, content)
    if subtype == "html" or _is_html(content):
        before, content = content, html_text(content)
        note("markup", before, content)
    return _mend(content, note).strip()


def _parts(body: str) -> list[list[str]]:
    """A body as its lines, in parts that a blank line ends or a ruled one begins; a blank line is a part."""
    parts: list[list[str]] = [[]]
    for line in body.split("\n"):
        bare = line.lstrip(QUOTE)
        if not bare or bare.startswith(RULED) or (parts[-1] and not parts[-1][-1].lstrip(QUOTE)):
            parts.append([])
        parts[-1].append(line)
    return list(filter(None, parts))


def without_footers(body: str) -> str:
    """The body without what list servers and their sponsors put below it, in quoted mails, too.

    Most lists of a collection have but hams, or but spams: a model would read their footers instead of the mail.
    """
    found = FEED.sub("", body)
    parts = [part for part in _parts(found) if not _is_footer(part)]
    lines = [line for part in parts for line in part if not _is_footer_line(line)]
    return "\n".join(lines).strip() or body


def _is_footer_line(line: str) -> bool:
    return len(line) <= LONGEST_FOOTER_LINE and FOOTER_LINE.fullmatch(line.lstrip(QUOTE)) is not None


def _is_footer(part: Sequence[str]) -> bool:
    ruled = len(part) <= LONGEST_FOOTER and part[0].lstrip(QUOTE).startswith(RULED)
    return ruled and any(map(FOOTER.search, part))


def without_encoded(body: str) -> str:
    """The body without blocks of base64, uuencode and PGP: of those that sign their mails most are of one label."""
    return ENCODED.sub("", body).strip() or body


def without_signature(body: str) -> str:
    """The body without what stands below a last line of two dashes (RFC 3676): it tells who wrote, and not what."""
    text, dashes, signature = body.rpartition("\n--\n")
    return text.strip() if dashes and text.strip() and signature.count("\n") < LONGEST_SIGNATURE else body


def _clean(subject: str, body: str, note: Note = _no_note) -> tuple[str, str]:
    """The subject as one line, the body without empty lines in a row, encoded blocks, footers and signature."""
    for rule in (without_encoded, without_footers, without_signature):
        before, body = body, rule(body)
        note(rule.__name__.removeprefix("without_"), before, body)
    return " ".join(_mend(subject, note).split()), re.sub(r"\n{3,}", "\n\n", body).strip()


def _settle(subject: str, body: str, note: Note = _no_note) -> tuple[str, str]:
    """Clean until nothing changes, so that a mail that was cleaned before is served as it was evaluated.

    Raises RowError where that never ends.
    """
    # What is mended may give more to mend: an entity in an entity, or "<html>" after a control character.
    for _ in range(PASSES):
        before, (subject, body) = (subject, body), _clean(subject, _body_text(body, note=note), note)
        if (subject, body) == before:
            return subject, body
    raise RowError(f"not readable as a mail: cleaned {PASSES} times, there is more to clean")


def _wider(charset: str) -> str:
    """The charset that programs mean by a name: most write more characters than its standard has."""
    try:
        name = codecs.lookup(charset).name
    except (LookupError, ValueError):  # a charset may be called anything
        return charset
    return WIDER.get(name, name)


def _decode(content: bytes, charset: str | None) -> str:
    """Decode a part; what is valid UTF-8 is taken for it, whatever charset the header claims."""
    declared = _wider(charset or "ascii")
    names = [("utf-8", "strict")] * (not content.isascii()) + [(declared, "strict")]
    if MULTIBYTE.match(declared):  # one character that is lost is less than a text in Latin-1
        names.append((declared, "replace"))
    for name, errors in names:
        try:
            return _without_halves(content.decode(name, errors))
        except (LookupError, ValueError):
            continue
    return content.decode("latin-1")


class RowError(ValueError):
    """A row that is no mail; served, it is the row's answer."""


class _Policy(EmailPolicy):
    """Python's own, for headers of a bounded length, and for subjects in the charsets that programs mean."""

    def header_source_parse(self, sourcelines: list[str]) -> tuple[str, str]:
        """The name and the value of a header."""
        name, value = super().header_source_parse(sourcelines)
        value = value[:LONGEST_HEADER]
        if name.lower() == "subject":
            if not value.isascii():  # bytes that no charset is declared of; Python's parser loses them
                value = _decode(value.encode("ascii", "surrogateescape"), None)
            value = ENCODED_CHARSET.sub(lambda found: _wider(found[0]), value)
        return name, value


class _Parser(BytesFeedParser):
    """Python's own, for mails in mails to a bounded depth."""

    def _new_message(self) -> None:
        if len(self._msgstack) >= DEEPEST_MAIL:
            raise RowError(f"not readable as a mail: it is nested over {DEEPEST_MAIL} levels deep")
        super()._new_message()


POLICY = _Policy()


def _parse(content: bytes) -> EmailMessage:
    parser = _Parser(policy=POLICY)
    parser.feed(content)
    return parser.close()


def parse_message(raw: str | bytes, note: Note = _no_note) -> tuple[str, str]:
    """Give the subject and the body of a raw message as tidy text: its plain part, else its HTML; no attachments.

    Raises RowError for one that can't be read.
    """
    subject, texts = _read(raw if isinstance(raw, bytes) else _without_lost(raw).encode())
    bodies = (_body_text(*text, note) for text in texts)
    return _settle(*_clean(subject, next(filter(None, bodies), ""), note), note)


def _may_be_text(part: EmailMessage) -> bool:
    if part.get_content_maintype() in ("text", "multipart"):
        return True
    content = part.get_payload(decode=True) or b""  # such as application/pgp: what PGP signed, in ASCII
    return part.get_filename() is None and content.isascii() and b"\0" not in content


def _read(content: bytes) -> tuple[str, list[tuple[str, str]]]:
    """The subject of a raw message and its texts, each with its subtype, the best first; RowError for none."""
    try:
        message = _parse(content)
        parts = [part for kind in ("plain", "html") if (part := message.get_body((kind,))) is not None]
        if not parts:  # broken boundaries or types leave the content as it came; bytes of a picture are no text
            parts = [part for part in message.walk() if not part.is_multipart() and _may_be_text(part)][:1]
        texts = [
            (_decode(part.get_payload(decode=True), part.get_content_charset()), part.get_content_subtype())
            for part in parts
        ]
        return str(message["subject"] or ""), texts
    except RowError:
        raise
    except (LookupError, AttributeError, TypeError, ValueError, RecursionError) as error:  # of Python's parser
        raise RowError(f"not readable as a mail ({type(error).__name__}: {error})") from error


def clean_mail(subject: str, body: str, note: Note = _no_note) -> tuple[str, str]:
    """Subject and body of a mail, perhaps in HTML, as tidy text; what is tidy stays as it is.

    Raises RowError for a body that can't be read.
    """
    subject, body = _without_lost(subject), _body_text(_without_lost(body), note=note)
    return _settle(*_clean(subject, body, note), note)


def clean_row(row: Mapping[str, Any]) -> dict[str, str]:
    """Subject and body as tidy text of a row with these two, or with a whole raw mail under `message`.

    A message may be bytes, which are decoded as its headers say. Raises RowError for a row with both, with something
    else than text, or with a mail that can't be read.
    """
    values = {name: row.get(name) for name in INPUTS if row.get(name) is not None}
    for name, value in values.items():
        if not isinstance(value, (str, bytes) if name == "message" else str):
            raise RowError(f"{name}: {value!r} is not text")
    if "message" in values:
        if len(values) > 1:
            raise RowError("a row has either message or subject and body")
        subject, body = parse_message(values["message"])
    else:
        subject, body = clean_mail(values.get("subject", ""), values.get("body", ""))
    return {"subject": subject, "body": body}
