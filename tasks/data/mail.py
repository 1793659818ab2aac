"""A mail as the text that a person reads: what the classifier learns from, and what it is given when it is served.

MLflow keeps this file with every version of a model that was trained on mail: nothing else of ours may be imported.
"""

import codecs
import quopri
import re
import unicodedata
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from email.feedparser import BytesFeedParser
from email.message import EmailMessage
from email.policy import EmailPolicy
from html import unescape
from typing import Any, NamedTuple

import ftfy
from lxml import etree

REQUIREMENTS = ("ftfy", "lxml")
"""What a served model needs besides: distributions on PyPI."""
INPUTS = {"subject": str | None, "body": str | None, "message": str | None}
"""The columns of a row that `clean_row` takes."""
LOST = "\N{REPLACEMENT CHARACTER}"
ENDS = {  # what stands where an element of HTML ends, and where it begins behind a word
    **dict.fromkeys(("address", "blockquote", "br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "p"), "\n"),
    **{"table": "\n", "tr": "\n", "td": " ", "th": " "},
}
DROPPED = ("iframe", "script", "style", "title")
UNSEEN = ("template",)
VERBATIM = ("pre", "textarea")
WORDED = ("alt", "srcdoc", "value")  # attributes that a person may read
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
# Lines that list servers and a filter (DeathToSpam) put below a mail. None has a part that anybody could write.
FOOTER_LINE = re.compile(
    r"To unsubscribe from this group, send an email to:|-{1,80}~-{1,80}>|(?:-{0,20}DeathToSpam){1,20}-{0,20}"
    r"|Your use of Yahoo! Groups is subject to http://docs\.yahoo\.com/info/terms/"
)
LONGEST_FOOTER_LINE = 500  # characters
QUOTE = ">|) "
QUOTED_LINE = re.compile(r"^[ \t]*(?:[>|][ \t]?)+", re.MULTILINE)
# What no person reads: the marks of PGP, and base64 of three lines at least that looks random.
PGP_LINE = re.compile(r"-----(?:BEGIN|END) PGP (?:MESSAGE|PUBLIC KEY BLOCK|SIGNATURE|SIGNED MESSAGE)-----")
BASE64 = re.compile(
    r"(?:^{q}[A-Za-z0-9+/]{{60,76}}\n){{3,}}(?:{q}(?:[A-Za-z0-9+/]{{20,76}}|[A-Za-z0-9+/]{{2,75}}==?)$)?".format(
        q=f"[{QUOTE}]*"
    ),
    re.MULTILINE,
)
RANDOM = {r"[A-Z]": 0.2, r"[a-z]": 0.2, r"[0-9]": 0.05}  # shares of the letters of such a line, at least
# Characters that show nothing: soft hyphens, joiners, marks of direction, fillers, selectors of variants, tags.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\U000e0000-\U000e01ef]"
)
# Letters of other scripts that look like Latin ones, where a word has both.
LOOKALIKES = str.maketrans(
    "асԁеһіјӏорԛѕԝхуАВСЕНІЈКМОРЅТХУαγικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "acdehijlopqswxyABCEHIJKMOPSTXYayiknoptuxABEZHIKMNOPTYX",
)
WORD = re.compile(r"[^\W\d_]+")
LATIN, OTHER = re.compile("[A-Za-z]"), re.compile("[\u0370-\u052f]")
# A word that is written letter by letter, with the same sign or space between each two.
SPELLED = re.compile(r"(?<![^\W_])[^\W\d_]([^\w\s]|[ _])[^\W\d_](?:\1[^\W\d_]){2,}(?![^\W_])")
SIZE = re.compile(r"(\d*\.?\d+)(px|pt)?")
LEAST_SIZE = 2.0  # of letters that anybody reads, in px or pt
MOST_COMPARED = 200_000  # characters of the forms of a text; each line is looked for in all of the others
READABLE = (".htm", ".html", ".xhtml", ".shtml", ".svg", ".txt")  # attachments that are read, whatever type they claim
# A header of a part whose message lost its own.
HEADERS = re.compile(r"(?:[\w-]+:.*|[ \t]+.*)(?:\n(?:[\w-]+:.*|[ \t]+.*))*")
PART_HEADER = re.compile(
    r"content-(?:type|transfer-encoding|disposition|id):\s*\S+(?:\s+[\w-]+=\S+)*|\s+[\w-]+=\S+", re.IGNORECASE
)
WIDER = {  # as browsers read them: https://encoding.spec.whatwg.org/#names-and-labels
    **dict.fromkeys(("ascii", "iso8859-1"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    "euc_kr": "cp949",
    "iso2022_jp": "iso2022_jp_ext",
    "shift_jis": "cp932",
}
SHIFTED = re.compile(r"utf[_-](?:7|16|32)|hz|iso2022_")  # charsets in which bytes of ASCII can be other characters
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


class _Shown(NamedTuple):
    """Whether an element is displayed, and its own words large enough and visible."""

    displayed: bool = True
    large: bool = True
    visible: bool = True

    def inside(self, attributes: Mapping[str, str]) -> "_Shown":
        """The same of an element in this one. Its own style can bring back size and visibility, but nothing else."""
        displayed, large, visible = self
        style = {}
        for each in attributes.get("style", "").lower().split(";"):
            name, _, value = each.partition(":")
            style[name.strip()] = value.replace("!important", "").strip()
        display, opacity = style.get("display", "none" if "hidden" in attributes else ""), style.get("opacity")
        displayed &= display != "none" and opacity not in ("0", "0.0")
        if "font-size" in style:
            size = SIZE.fullmatch(style["font-size"])
            large = size is None or float(size[1]) >= (LEAST_SIZE if size[2] else 0.01)
        if "visibility" in style:
            visible = style["visibility"] not in ("hidden", "collapse")
        return _Shown(displayed, large, visible)


class _Reader:
    """Takes what lxml finds in HTML, in order: what a person sees, and below it what is hidden.

    Browsers show more than one parser and a few rules can foresee, so nothing is left out that may be words: hidden
    text only stands apart. Each event is met once.
    """

    def __init__(self, declared: bool) -> None:
        self.declared = declared
        """Else the text may be meant as it stands: its comments, scripts and attributes are words, too."""
        self.seen: list[str] = []
        self.below: list[str] = []
        self.words: list[str] = []
        self.depth = 0
        self.inside = dict.fromkeys((DROPPED, UNSEEN, VERBATIM), 0)
        """How many elements of these kinds are open."""
        self.shown = [_Shown()]
        """Of each open element."""

    @property
    def _found(self) -> list[str]:
        hidden = self.inside[DROPPED] or self.inside[UNSEEN] or not all(self.shown[-1])
        return self.below if hidden else self.seen

    def _flush(self, *_: Any) -> None:
        """The words since the last event; spaces alone are one, or a new line."""
        if not self.words:
            return
        text = "".join(self.words)
        self.words.clear()
        if self.inside[DROPPED] and self.declared:
            return
        if not self.inside[VERBATIM] and not text.strip(SPACES):
            text = "\n" if "\n" in text else " "
        self._found.append(text)

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        self._flush()
        self.depth += 1
        if self.depth > DEEPEST_HTML:
            raise _DeepError
        if tag in KINDS:
            self.inside[KINDS[tag]] += 1
        self.shown.append(self.shown[-1].inside(attributes))
        found = self._found
        if tag in ENDS and found and not self.inside[DROPPED] and not found[-1].endswith((" ", "\n")):
            found.append(ENDS[tag])
        for name, value in attributes.items():
            if name in WORDED or (not self.declared and name not in ("class", "style") and " " in value):
                self.below += [value, "\n"]

    def end(self, tag: str) -> None:
        """An element ends."""
        self._flush()
        found = self._found
        self.depth -= 1
        if len(self.shown) > 1:
            self.shown.pop()
        if tag in KINDS:
            self.inside[KINDS[tag]] -= 1
        if tag in ENDS and not self.inside[DROPPED]:
            found.append(ENDS[tag])

    def data(self, words: str) -> None:
        """Some of the words of an element."""
        self.words.append(words)

    def comment(self, words: str) -> None:
        """What a browser does not show."""
        self._flush()
        if not self.declared:
            self.below += [words, "\n"]

    pi = doctype = _flush

    def close(self) -> str:
        """All that was found."""
        self._flush()
        below = "".join(self.below).strip()
        return "".join(self.seen) + (f"\n\n{below}" if below else "")


def html_text(html: str, declared: bool = True) -> str:
    """The text that a person sees, link texts included, with a new line where a block ends; below it what is hidden.

    Without a header that `declared` it to be HTML, comments, scripts and words in attributes stand below, too.
    HTML that is nested deeper than DEEPEST_HTML is read without its structure.
    """
    parser = etree.HTMLParser(target=_Reader(declared), huge_tree=True)  # else a comment of 10 MB is never left
    try:
        parser.feed(html.removeprefix("\ufeff"))
        return parser.close()
    except _DeepError:
        return unescape(re.sub(r"</?\w+|>", " ", html))


def flat_entities(text: str) -> str:
    """The text with `&amp;amp;amp;…` as `&amp;`: whatever mends entities peels off a layer a pass."""
    return LAYERS.sub("&amp;", text)


def _mend(text: str, note: Note = _no_note) -> str:
    """Broken characters mended, lines with single spaces."""
    before, text = text, flat_entities(text)
    # ftfy looks at each line by itself, which is half of the time of it all and gains nothing on ASCII.
    text = (ftfy.fix_text_segment if text.isascii() else ftfy.fix_text)(text).replace(LOST, "")
    if not text.isascii():
        text = _plain_letters(text)
    note("characters", before, text)
    before, text = text, SPELLED.sub(lambda found: found[0].replace(found[1], ""), text)
    note("spelled", before, text)
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def _plain_letters(text: str) -> str:
    """The text as it looks: compatible letters as plain ones, no invisible characters, no Latin in two scripts."""
    text = unicodedata.normalize("NFKC", INVISIBLE.sub("", text))
    text = re.sub(r"(?<=[a-zA-Z\u00c0-\u024f])[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+", "", text)
    return WORD.sub(_in_one_script, text) if OTHER.search(text) else text


def _in_one_script(word: re.Match) -> str:
    return word[0].translate(LOOKALIKES) if LATIN.search(word[0]) and OTHER.search(word[0]) else word[0]


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
        before, subtype = content, "plain"
        content = "\n\n".join(_marked_up(*piece) for piece in _pieces(content, found[1]))
        note("parts", before, content)
    before, content = content, without_quoted_printable(content)
    note("quoted_printable", before, content)
    return _mend(_marked_up(content, subtype, note), note).strip()


def _marked_up(content: str, subtype: str, note: Note = _no_note) -> str:
    if subtype != "html" and not _is_html(content):
        return content
    text = html_text(content, declared=subtype == "html")
    note("markup", content, text)
    return text


def _pieces(content: str, boundary: str) -> Iterator[tuple[str, str]]:
    """What stands between the boundaries of a message whose header got lost, each with its subtype.

    Nothing is left out but the headers of a part: a mail program shows all of it.
    """
    for piece in re.split(rf"^--{re.escape(boundary)}(?:--)?[ \t]*$", content, flags=re.MULTILINE):
        head, _, rest = piece.strip("\n").partition("\n\n")
        if not HEADERS.fullmatch(head):
            yield piece, "plain"
            continue
        part = _parse(piece.strip("\n").encode(errors="ignore"))
        others = [line for line in head.split("\n") if not PART_HEADER.fullmatch(line)]
        yield "\n".join(others), "plain"
        yield _text(part) if part.get_content_maintype() == "text" else (rest, "plain")


def without_footers(body: str) -> str:
    """The body without fixed lines that list servers put below it, in quoted mails, too.

    Most lists of a collection carry only ham or only spam: a model would read their footers instead of the mail.
    """
    lines = [line for line in body.split("\n") if not _is_footer_line(line)]
    return "\n".join(lines).strip() or body


def _is_footer_line(line: str) -> bool:
    return len(line) <= LONGEST_FOOTER_LINE and FOOTER_LINE.fullmatch(line.lstrip(QUOTE)) is not None


def without_encoded(body: str) -> str:
    """The body without base64 and the marks of PGP: of those who sign their mails most send mails of one label."""
    lines = [line for line in body.split("\n") if not PGP_LINE.fullmatch(line.lstrip(QUOTE))]
    return BASE64.sub(lambda found: "" if _is_random(found[0]) else found[0], "\n".join(lines)).strip() or body


def _is_random(block: str) -> bool:
    lines = [line.lstrip(QUOTE) for line in block.strip("\n").split("\n")]
    shares = ((len(re.findall(kind, line)), share * len(line)) for line in lines[:-1] for kind, share in RANDOM.items())
    return all(count >= least for count, least in shares)


def without_quotes(body: str) -> str:
    """The body without the marks of quoted lines, which say of a mail that it answers one, and can be put anywhere."""
    return QUOTED_LINE.sub("", body)


def _clean(subject: str, body: str, note: Note = _no_note) -> tuple[str, str]:
    """The subject as one line, the body without empty lines in a row, encoded blocks, footers and marks of quotes."""
    for rule in (without_encoded, without_footers, without_quotes):
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
    if content.isascii() and not SHIFTED.match(declared):  # a charset such as EBCDIC is one that no program shows
        return content.decode()
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
    """Give the subject and the body of a raw message as tidy text.

    The body is its text and its HTML where they say different things, mails in it, and attachments that are text.
    Raises RowError for one that can't be read.
    """
    subject, body = _read(raw if isinstance(raw, bytes) else _without_lost(raw).encode(), note)
    return _settle(*_clean(subject, body, note), note)


def _together(forms: Sequence[str]) -> str:
    """Forms of one text: the first as it is, of the others the lines whose words it has not, however it breaks them."""
    if sum(map(len, forms)) > MOST_COMPARED:
        return _paragraphs(forms)
    known = _words(forms[0]) if forms else ""
    others = ((line for line in form.split("\n") if _words(line) not in known) for form in forms[1:])
    return _paragraphs([*forms[:1], *map("\n".join, others)])


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, map(str.strip, texts)))


def _words(text: str) -> str:
    """The words of a line in lower case; of a line without any, all of it."""
    return " ".join(["", *(re.findall(r"[^\W_]+", text.lower()) or [text.strip() or " "]), ""])


def _may_be_text(part: EmailMessage) -> bool:
    if part.get_content_maintype() in ("text", "multipart"):
        return True
    content = part.get_payload(decode=True) or b""  # such as application/pgp: what PGP signed, in ASCII
    return part.get_filename() is None and content.isascii() and b"\0" not in content


def _texts(part: EmailMessage, note: Note) -> Iterator[str]:
    """What a person reads of a part: text and HTML of any name and disposition, and mails with their subjects.

    Of several forms of the same the HTML is the one that is shown.
    """
    kind, name = part.get_content_type(), (part.get_filename() or "").lower()
    if kind == "multipart/alternative" and part.is_multipart():
        forms = sorted(part.get_payload(), key=lambda form: form.get_content_subtype() == "plain")
        yield _together([_paragraphs(_texts(form, note)) for form in forms])
    elif part.get_content_maintype() == "message" and part.is_multipart():
        yield from _mail_in(part.get_payload(0), str(part["content-transfer-encoding"] or "").lower(), note)
    elif part.is_multipart():
        for each in part.get_payload():
            yield from _texts(each, note)
    elif name.endswith(".eml"):
        yield from _mail_in(_parse(part.get_payload(decode=True) or b""), "", note)
    elif part.get_content_maintype() == "text" or kind == "application/xhtml+xml" or name.endswith(READABLE):
        text, subtype = _text(part)
        is_page = kind == "application/xhtml+xml" or name.endswith(READABLE[:-1])
        yield _body_text(text, "html" if is_page else subtype, note)


def _mail_in(message: EmailMessage, encoding: str, note: Note) -> Iterator[str]:
    """The texts of a mail in a mail, which may be encoded as a whole."""
    if encoding in ("base64", "quoted-printable"):
        content = message.as_bytes()
        decoded = quopri.decodestring(content) if encoding != "base64" else b64decode(b"".join(content.split()) + b"==")
        message = _parse(decoded)
    yield _subject(message)
    yield from _texts(message, note)


def _subject(message: EmailMessage) -> str:
    return " ".join(map(str, message.get_all("subject", [])))


def _text(part: EmailMessage) -> tuple[str, str]:
    return _decode(part.get_payload(decode=True) or b"", part.get_content_charset()), part.get_content_subtype()


def _read(content: bytes, note: Note) -> tuple[str, str]:
    """The subject of a raw message and all of its text; RowError for one that can't be read."""
    try:
        message = _parse(content)
        texts = list(_texts(message, note))
        if not any(texts):  # broken boundaries or types leave the content as it came; bytes of a picture are no text
            leaves = (part for part in message.walk() if not part.is_multipart() and _may_be_text(part))
            texts = [_body_text(*_text(part), note) for part in leaves]
        return _subject(message), _paragraphs(texts)
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
