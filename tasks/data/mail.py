"""A mail as the text that a person reads: what the classifier learns from, and what it is given when it is served.

MLflow keeps this file with every version of a model that was trained on mail: nothing else of ours may be imported.
"""

import codecs
import quopri
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
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
ENDS = {  # what stands where an element of HTML ends, and where it begins behind a word
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
# What list servers and a filter (DeathToSpam) put below a mail, and what the reader of a feed puts above it: lines of a
# fixed form, so that nothing else can hide in them.
FOOTER_LINE = re.compile(
    r"https?://[\w.-]{1,60}/(?:mailman/)?listinfo/[\w.-]{1,40}|To unsubscribe from this group, send an email to:"
    r"|[\w.-]{1,60}-unsubscribe@[\w.-]{1,60}"
    r"|Your use of Yahoo! Groups is subject to http://docs\.yahoo\.com/info/terms/|(?:-*DeathToSpam)+-*|-+~-+>"
)
FEED = re.compile(r"\AURL: \S{1,200}\nDate: .{1,60}\n")
LONGEST_FOOTER_LINE = 200  # characters
QUOTE = ">|) "
QUOTED_LINE = re.compile(r"^[ \t]*(?:[>|][ \t]?)+", re.MULTILINE)
# What no person reads: signatures and keys of PGP, base64 (three lines at least), uuencode. A line of words is none.
ENCODED = re.compile(
    r"^{q}-----BEGIN PGP SIGNED MESSAGE-----\n(?:{q}Hash: \w{{1,10}}\n)*"
    r"|^{q}-----BEGIN PGP (?:MESSAGE|PUBLIC KEY BLOCK|SIGNATURE)-----\n"
    r"(?:{q}(?:Version|Charset|MessageID): .{{1,50}}\n)*"
    r"(?:{q}\n)?(?:{q}[A-Za-z0-9+/]{{60,76}}\n)*(?:{q}[A-Za-z0-9+/]{{1,76}}={{0,2}}\n)?(?:{q}=[A-Za-z0-9+/]{{4}}\n)?"
    r"{q}-----END PGP [A-Z ]{{1,20}}-----"
    r"|(?:^{q}[A-Za-z0-9+/]{{60,76}}\n){{3,}}(?:{q}(?:[A-Za-z0-9+/]{{20,76}}|[A-Za-z0-9+/]{{2,75}}==?)$)?"
    r"|^{q}begin [0-7]{{3}} \S{{1,60}}\n(?:{q}M\S{{60}}\n)+(?:{q}\S{{1,60}}\n){{0,2}}{q}end$".format(q=f"[{QUOTE}]*"),
    re.MULTILINE,
)
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
SPELLED = re.compile(r"(?<![^\W_])[^\W\d_]([ .*|/~_-])[^\W\d_](?:\1[^\W\d_])+(?![^\W_])")
HIDDEN = re.compile(
    r"display:none|opacity:0?(?:\.0+)?(?:;|$)|mso-hide:all|max-(?:height|width):0(?:px)?(?:;|$)|text-indent:-\d{3,}"
)
SIZE = re.compile(r"(?:^|;)font(?:-size)?:(?:[^;]* )?([\d.]+)(?:px|pt|em|rem|%)?")
VISIBILITY = re.compile(r"(?:^|;)visibility:(\w+)")
LEAST_SIZE = 2.0  # of letters that anybody reads, in whatever unit
MOST_FORMS = 20
READABLE = (".htm", ".html", ".txt")  # attachments that are read, whatever type they claim
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


def _shown(attributes: Mapping[str, str], displayed: bool, large: bool, visible: bool) -> tuple[bool, bool, bool]:
    """The same of an element in one that is so. Its own style can bring back size and visibility, but nothing else."""
    style = re.sub(r"\s*([:;,])\s*|\s*!important", r"\1", attributes.get("style", "").lower())
    displayed &= "hidden" not in attributes and not HIDDEN.search(style)
    if found := SIZE.search(style):
        large = found[1].count(".") > 1 or float(found[1].rstrip(".") or 0) >= LEAST_SIZE
    if found := VISIBILITY.search(style):
        visible = found[1] not in ("hidden", "collapse")
    return displayed, large, visible


class _Reader:
    """Takes what lxml finds in HTML, in order, and keeps what a person sees. Each event is met once."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.words: list[str] = []
        self.depth = 0
        self.inside = dict.fromkeys((DROPPED, UNSEEN, VERBATIM), 0)
        """How many elements of these kinds are open."""
        self.shown = [(True, True, True)]
        """Of each open element: whether it is displayed, and whether its own words are large enough and visible."""

    def _flush(self, *_: Any) -> None:
        """The words since the last event; spaces alone are one, or a new line."""
        if not self.words:
            return
        text = "".join(self.words)
        self.words.clear()
        if self.inside[DROPPED] or self.inside[UNSEEN] or not all(self.shown[-1]):
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
        self.shown.append(_shown(attributes, *self.shown[-1]))
        if tag in ENDS and self.seen and not self.inside[DROPPED] and not self.seen[-1].endswith((" ", "\n")):
            self.seen.append(ENDS[tag])

    def end(self, tag: str) -> None:
        """An element ends."""
        self._flush()
        self.depth -= 1
        if len(self.shown) > 1:
            self.shown.pop()
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
        message = f'Content-Type: multipart/mixed; boundary="{found[1]}"\n\n{content}'.encode(errors="ignore")
        # Of a message that has its header nobody sees what stands before its parts and behind them.
        around = content[: found.start(1) - 2], content.partition(f"\n--{found[1]}--")[2]
        texts = [around[0], *(_body_text(*text) for text in _read(message)[1]), around[1]]
        if any(text.strip() for text in texts[1:]):  # parts that hold nothing leave the body as it was
            before, content, subtype = content, _together(texts), "plain"
            note("parts", before, content)
    before, content = content, without_quoted_printable(content)
    note("quoted_printable", before, content)
    if subtype == "html" or _is_html(content):
        before, content = content, html_text(content)
        note("markup", before, content)
    return _mend(content, note).strip()


def without_footers(body: str) -> str:
    """The body without the lines that list servers put below it, in quoted mails, too.

    Most lists of a collection have but hams, or but spams: a model would read their footers instead of the mail. What
    else stands there is read: a filter that skips it is passed by whoever writes there.
    """
    lines = [line for line in FEED.sub("", body).split("\n") if not _is_footer_line(line)]
    return "\n".join(lines).strip() or body


def _is_footer_line(line: str) -> bool:
    return len(line) <= LONGEST_FOOTER_LINE and FOOTER_LINE.fullmatch(line.lstrip(QUOTE)) is not None


def without_encoded(body: str) -> str:
    """The body without blocks of base64, uuencode and PGP: of those that sign their mails most are of one label."""
    return ENCODED.sub("", body).strip() or body


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
    """Give the subject and the body of a raw message as tidy text: all that a person would see of it.

    That is its text and its HTML where that says something else, mails in it, and attachments that are text.
    Raises RowError for one that can't be read.
    """
    subject, texts = _read(raw if isinstance(raw, bytes) else _without_lost(raw).encode())
    body = _together([_body_text(*text, note) for text in texts])
    return _settle(*_clean(subject, body, note), note)


def _together(texts: Sequence[str]) -> str:
    """Texts one after another, each without the lines that stand in those before it, however they are broken.

    Each line is looked for in all that was before: more than MOST_FORMS texts are all kept as they are.
    """
    if len(texts) > MOST_FORMS:
        return "\n\n".join(filter(None, map(str.strip, texts)))
    found: list[str] = []
    known = ""
    for text in texts:
        lines = [line for line in text.split("\n") if _words(line) not in known] if known else [text]
        known += _words(text)
        found.append("\n".join(lines).strip())
    return "\n\n".join(filter(None, found))


def _words(text: str) -> str:
    return " ".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])


def _may_be_text(part: EmailMessage) -> bool:
    if part.get_content_maintype() in ("text", "multipart"):
        return True
    content = part.get_payload(decode=True) or b""  # such as application/pgp: what PGP signed, in ASCII
    return part.get_filename() is None and content.isascii() and b"\0" not in content


def _texts(part: EmailMessage) -> Iterator[tuple[str, str]]:
    """What a person reads of a part, each text with its subtype, in their order: text and HTML of any name or kind of
    disposition, and mails in the mail with their subjects. Of two forms of the same the plain one is first."""
    if part.is_multipart():
        parts = part.get_payload()
        if part.get_content_type() == "multipart/alternative":
            parts = sorted(parts, key=lambda each: each.get_content_subtype() != "plain")
        for each in parts:
            if part.get_content_maintype() == "message":
                yield str(each["subject"] or ""), "plain"
            yield from _texts(each)
    elif (name := (part.get_filename() or "").lower()).endswith(READABLE) or (
        part.get_content_maintype() == "text"
        and (part.get_content_subtype() in ("plain", "html") or part.get_content_disposition() != "attachment")
    ):
        yield _text(part, "html" if name.endswith(READABLE[:2]) else part.get_content_subtype())


def _text(part: EmailMessage, subtype: str) -> tuple[str, str]:
    return _decode(part.get_payload(decode=True) or b"", part.get_content_charset()), subtype


def _read(content: bytes) -> tuple[str, list[tuple[str, str]]]:
    """The subject of a raw message and its texts, each with its subtype; RowError for one that can't be read."""
    try:
        message = _parse(content)
        texts = list(_texts(message))
        if not texts:  # broken boundaries or types leave the content as it came; bytes of a picture are no text
            leaves = (part for part in message.walk() if not part.is_multipart() and _may_be_text(part))
            texts = [_text(part, part.get_content_subtype()) for part in leaves]
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
