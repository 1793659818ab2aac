"""A mail is read as a person reads it, whatever it hides: nothing that may be words is lost, nothing else stays."""
# ruff: noqa: RUF001 (letters that look like others are what some tests are about)

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage

import pytest
from bs4 import BeautifulSoup, CData, NavigableString
from bs4.element import RubyParenthesisString, RubyTextString
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.data.mail import RowError, clean_mail, clean_row, parse_message
from tasks.data.mail.html import DROPPED, ENDS, html_text

SECONDS = 5  # of processor time, so that a busy machine changes nothing
PAYLOAD = "Cheap pills at http://pills.example today"


@contextmanager
def soon() -> Iterator[None]:
    """Fails where what is inside takes long."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def raw(body, subject="Hello", kind="text/plain", encoding="7bit"):
    return f"From: a@b.org\nSubject: {subject}\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n{body}"


def in_charset(charset: str, content: bytes) -> bytes:
    return f"Subject: Hello\nContent-Type: text/plain; charset={charset}\n\n".encode() + content


def forms(plain: str, html: str) -> bytes:
    message = EmailMessage()
    message["Subject"] = "Hello"
    message.set_content(plain)
    message.add_alternative(html, subtype="html")
    return message.as_bytes()


def attached(content: str | bytes, **options: str) -> bytes:
    message = EmailMessage()
    message["Subject"] = "Hello"
    message.set_content("Above")
    message.add_attachment(content, **options)
    return message.as_bytes()


PAGE = "<html><head><title>t</title><style>p {color: red}</style></head><body><!-- no --><p>Dear <b>fri</b>end,</p>"
PAGE += '<table><tr><td>1</td><td>2</td></tr></table><a href="http://x">Click here</a><script>1</script>&nbsp;&lt;3'
FILE = {"maintype": "application", "subtype": "octet-stream"}

# Messages, and the body that is read; the subject is Hello.
BODIES: list[tuple[str | bytes, str]] = [
    (raw("Plain  text,\r\n\r\n\r\n\r\ntidied.\t\n"), "Plain text,\n\ntidied."),
    (raw("Caf=E9 =80 5", kind='text/plain; charset="windows-1252"', encoding="quoted-printable"), "Café € 5"),
    (raw("5L2g5aW9", kind='text/plain; charset="us-ascii"', encoding="base64"), "你好"),
    (raw("xA7A", kind="text/plain; charset=DEFAULT_CHARSET"), "xA7A"),
    (raw("lost\N{REPLACEMENT CHARACTER} cafÃ©"), "lost café"),
    (in_charset("gb2312", "镕基先生".encode("gbk")), "镕基先生"),
    (in_charset("iso-2022-jp", "日本語".encode("iso2022_jp") + b"\x1b$B\x2d\x21\x1b(B!"), "日本語!"),
    (in_charset("us-ascii", b"\x93caf\xe9\x94"), '"café"'),
    (in_charset("a\0b", b"caf\xe9"), "café"),
    (raw(PAGE, kind="text/html"), "Dear friend,\n1 2\n\nClick here <3"),
    (raw(PAGE), "Dear friend,\n1 2\n\nClick here <3\n\ntp {color: red} no\n1"),
    (raw("<p>+2AA- hello</p>", kind="text/html; charset=utf-7"), "hello"),
    (
        forms("The plain part,\nin two lines", "<p>The <b>plain</b> part, in two lines</p>"),
        "The plain part, in two lines",
    ),
    (
        forms("one\ntwo three\n$$$ !!!\nfour", "<p>$$$ !!!</p><p>one two</p><p>three</p>"),
        "$$$ !!!\none two\nthree\n\n$$$ !!!\nfour",
    ),
    (attached(b"<p>A page</p>", **FILE, filename="a.HTML"), "Above\n\nA page"),
    (attached(b"%PDF-1.4\n%more", maintype="application", subtype="pdf", filename="a.pdf"), "Above"),
    (attached(raw(PAYLOAD, subject="Inner").encode(), **FILE, filename="a.eml"), f"Above\n\nInner\n\n{PAYLOAD}"),
    (raw("Tuesday?", kind="application/pgp; format=text"), "Tuesday?"),
    # words in disguise
    (raw("<p>Che<!-- 5 -->ap pi<!-- 5 -->lls to<!-- 5 -->day</p>", kind="text/html"), "Cheap pills today"),
    (raw("".join(f"&#{ord(letter)};" for letter in "Cheap pills"), kind="text/html"), "Cheap pills"),
    (in_charset("utf-16", "Cheap pills".encode("utf-16")), "Cheap pills"),
]


@pytest.mark.parametrize(("message", "body"), BODIES)
def test_body_is_what_a_person_sees(message, body):
    assert parse_message(message) == ("Hello", body)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        (b"A\n  folded   subject", "A folded subject"),
        ("Grüße".encode(), "Grüße"),
        ("Grüße für =?utf-8?q?=C3=A9?=".encode("latin-1"), "Grüße für é"),
        (b"=?gb2312?B?6UY=?=", "镕"),
    ],
)
def test_subject_keeps_characters_that_its_header_does_not_declare(subject, text):
    assert parse_message(b"Subject: " + subject + b"\n\nbody") == (text, "body")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (f"<span style='color:#fff'>&lt;html&gt;&lt;title&gt;</span><p>{PAYLOAD}</p>", "text/html"),
        (f"<p>&lt;html&gt;&lt;!--</p><p>{PAYLOAD}</p>", "text/html"),
        (f"<b>hi</b><!-- {PAYLOAD} -->", "text/plain"),
        (f"<html><script>{PAYLOAD}</script>", "text/plain"),
        (f"<p hidden>x<section>{PAYLOAD}</section>", "text/html"),
        (f"<ruby>x<rt>{PAYLOAD}</rt></ruby>", "text/html"),
        (f"<iframe srcdoc='{PAYLOAD}'></iframe>", "text/html"),
        (f"--abc\nContent-Type: text/plain\n\nhi\n--abc\nContent-Type: image/png\n\n{PAYLOAD}\n--abc--", "text/plain"),
        (f"--abc\nContent-Type: text/plain\nX: {PAYLOAD}\n\nhi\n--abc--", "text/plain"),
        (f"-----BEGIN PGP MESSAGE-----\nVersion: {PAYLOAD}\n-----END PGP MESSAGE-----", "text/plain"),
        (f"begin 644 x\nM{PAYLOAD}\nend", "text/plain"),
        (f"--\n{PAYLOAD}", "text/plain"),
        (f"____\nhttp://x.org/mailman/listinfo/x\n{PAYLOAD}", "text/plain"),
        (PAYLOAD, "text/plain; charset=cp037"),
    ],
)
def test_body_keeps_everything_that_may_be_words(body, kind):
    assert PAYLOAD in parse_message(raw(body, kind=kind))[1]


HIDDEN = ["Above", "Below", "Harmless", "words"]
SHOWN = ["Above", "Harmless", "words", "Below"]
PART_SHOWN = ["Above", "words", "Below", "Harmless"]


@pytest.mark.parametrize(
    ("outer", "inner", "words"),
    [
        *((style, "", HIDDEN) for style in ("display : none", "visibility:hidden", "font-size:0", "opacity:0")),
        *((style, "", SHOWN) for style in ("opacity:0.9", "font-size:.9rem", "display:none;display:block")),
        *((style, "", SHOWN) for style in ("font: 1em/1.5 Arial", "fill-opacity:0", " " * 40_000 + "a")),
        ("font-size:0", "font-size:14px", PART_SHOWN),
        ("visibility:hidden", "visibility:visible", PART_SHOWN),
        ("display:none", "display:block", HIDDEN),
    ],
)
def test_hidden_html_is_moved_to_the_end(outer, inner, words):
    div = f'<div style="{outer}">Harmless<p style="{inner}">words</p></div>'
    assert clean_mail("", f"<html><p>Above</p>{div}<p>Below</p></html>")[1].split() == words


FORK = "To unsubscribe from this group, send an email to:"
YAHOO = (
    "---------------------------------~->\n\nYour use of Yahoo! Groups is subject to http://docs.yahoo.com/info/terms/"
)
BASE64 = "\n".join(["iQEVAwUBPW5AmaHbXyzZsAb3AQH+qQgA1vnUjJUwGDa1yCRQd3vZAnhkCF0KDBBA"] * 3 + ["HlFSecw=="])
SIGNED = f"-----BEGIN PGP SIGNATURE-----\n{BASE64}\n-----END PGP SIGNATURE-----"
PARTED = """\
This is a multipart MIME message.

--=_b 1
Content-Type: text/plain;
 charset="utf-8"
Content-Transfer-Encoding: quoted-printable

Caf=C3=A9 is op=
en.

--=_b 1
Content-Type: image/gif

GIF89
--=_b 1--
"""
CLEANED = [
    *((f"Above.\n\n{noise}\n\nBelow.", "Above.\n\nBelow.") for noise in (FORK, f"> {FORK}", YAHOO, BASE64, SIGNED)),
    ("--DeathToSpamDeathToSpamDeathToSpam--\nAbove.\n" + SIGNED.replace("\n", "\n> "), "Above."),
    ("Above.\n> quoted\n| too", "Above.\nquoted\ntoo"),
    (PARTED, "This is a multipart MIME message.\n\nCafé is open.\n\nGIF89"),
    ("Meet me at the caf=C3=A9=20\non Tues=\nday=2E", "Meet me at the café\non Tuesday."),
    ("<p>Dear <b>Anna</b>,</p>\n&nbsp;<p>it works.</p>", "Dear Anna,\n\nit works."),
    ("<head>\n<style>td { color: red }</style></head>\nHello", "Hello\n\ntd { color: red }"),
    ("<html><iframe src='ad'>\n<script>show()</script>\n</iframe>Hello", "Hello\n\nshow()"),
    ("<html><p hidden>not</p>yes<img alt='a cat'></html>", "yes\n\nnot\na cat"),
    ("<html><xmp>" * 15 + "inside", "inside"),
    ("v\u200bi\u00ada\u2060g\u034fra ｖｉａｇｒａ", "viagra viagra"),
    ("vi\u0337a\u0337gra, café vіаgrа Привет", "viagra, café viagra Привет"),
    ("v i a g r a, v.i.a.g.r.a p,i,l,l,s p•i•l•l•s", "viagra, viagra pills pills"),
]
KEPT = [
    "x=20\ny=",
    "http://example.com/?a=20&b=20&c=20",
    "==== a ====\n=20\n====\nb=\nc=\nd",
    ("Use <b> for bold & </b> to end it: " + "so it was said. " * 20).strip(),
    "I include <stdio.h> and </list>; write to <anna@example.com>",
    "x y z, a/b/c and I a m; U.S. and e.g. I am A.",
    "You can join at http://x.org/mailman/listinfo/cats, it costs nothing.",
    "-- DeathToSpam is the name of the list --\n\nDear all,\n---------\nTuesday at noon.\n---------\nAnna",
    "Your use of Yahoo! Groups is subject to",
    *(FORK, BASE64, BASE64[:129]),
    "\n".join(["Buy/cheap/pills/at/our/shop/today/and/visit/the/pharmacy/right/now/x"] * 4),
]


@pytest.mark.parametrize(("body", "text"), [*CLEANED, *((body, body) for body in KEPT)])
def test_body_loses_noise_and_disguises_and_nothing_else(body, text):
    assert clean_mail("", body) == ("", text)


@pytest.mark.parametrize("row", [{"message": raw("x"), "subject": "s"}, {"subject": 3}, {"body": b"bytes"}])
def test_row_that_is_no_message_or_subject_and_body_is_refused(row):
    assert clean_row({"body": " b "}) == {"subject": "", "body": "b"}
    assert clean_row({"message": raw("x").encode()}) == {"subject": "Hello", "body": "x"}
    with pytest.raises(RowError):
        clean_row(row)


# ---- hostile mails


UNITS = ["<div>", "<b>", "</p>", "<table><tr><td>", "<td>x</td>", "<!-", "&amp;", "amp;", "<p a=b ", "=?utf-8?q?a?= "]
UNITS += ["/listinfo/"]


@pytest.mark.parametrize("unit", UNITS)
def test_hostile_page_that_repeats_a_unit_is_read_soon(unit):
    with soon():
        assert parse_message(raw(f"inside {unit * 60_000}", kind="text/html"))[1].startswith("inside")


@pytest.mark.parametrize("boundary", ["b", "never", '"b'])
def test_hostile_mail_of_many_parts_or_a_broken_boundary_is_read_soon(boundary):
    parts = "--b\nContent-Type: text/plain\n\ninside\n" * 1_000
    with soon():
        assert "inside" in parse_message(raw(parts, kind=f"multipart/mixed; boundary={boundary}"))[1]


@pytest.mark.parametrize(
    "header", ["Subject: Hello" + " =?utf-8?q?a?=" * 70_000, "Content-Type: text/plain" + "; a=b" * 200_000]
)
def test_hostile_header_of_a_megabyte_is_read_soon(header):
    with soon():
        assert parse_message(f"{header}\n\nbody")[1] == "body"


@pytest.mark.parametrize("endless", ["<html><xmp>" * 25, "<html><xmp>" * 10_000])
def test_hostile_mail_that_never_settles_is_refused_soon(endless):
    with soon():
        for row in ({"body": endless}, {"message": raw(endless)}):
            with pytest.raises(RowError):
                clean_row(row)


CASES = settings(max_examples=200)
NAMES = "p div td tr table b br hr li pre title script style ruby iframe rt rp textarea a body html head form select"
TAGS = st.builds(
    "<{begin}{name}{end}>".format,
    begin=st.sampled_from(["", "/"]),
    name=st.sampled_from([*NAMES.split(), "option", "x-y", "svg", "h1", "P"]),
    end=st.sampled_from(["", " a='b'", "/"]),
)
WORDS = ["word", " ", "\n", "\t\n ", "&amp;", "&nbsp;", "&lt;p&gt;", "é", "<", ">", "<!-- c -->", "<!doctype html>"]
WORDS += ["<?pi x?>", "<![CDATA[x]]>", "\0", "\ufeff", "</", "<!--", "&#0;", "&#xd800;", '<a href="', "]]>", "\r\n"]
WORDS += [
    "&amp;lt;b&gt;",
    "&Atilde;",
    "&copy;",
    "amp;",
    "\ufb01",
    "\uff28",
    "Ã©",
    "â€œ",
    "\ud83d",
    "\b",
    "\x85",
    "\u2028",
]
HTML = st.lists(TAGS | st.sampled_from(WORDS) | st.text(max_size=4), max_size=24).map("".join)


def sayable(text: str) -> str:
    """Without halves of surrogate pairs, which no mail gets to the parser."""
    return text.encode(errors="ignore").decode()


def by_a_tree(html: str) -> str:
    """What a person sees, from the tree that Beautiful Soup makes of lxml's events."""
    with warnings.catch_warnings(action="ignore"):
        soup = BeautifulSoup(html, "lxml")
    for tag in soup(DROPPED):
        tag.decompose()
    begins = {"\n": "\ue000", " ": "\ue001"}
    for mark, begin in begins.items():
        for tag in soup([name for name, end in ENDS.items() if end == mark]):
            tag.insert_before(begin)
            tag.append(mark)
    seen = ""
    for letter in soup.get_text(types=(NavigableString, CData, RubyTextString, RubyParenthesisString)):
        mark = next((mark for mark, begin in begins.items() if begin == letter), letter)
        if mark is letter or (seen and seen[-1] not in " \n"):
            seen += mark
    return seen


@CASES
@given(HTML.map(sayable))
@example("<p>a<!-- -->\n<!-- -->\n<b> </b>")
@example("<ruby>a<rt>b<p>c</p></rt></ruby>")
@example("<pre> \n </pre> \n <textarea>\n</textarea>")
@example("</p></br></td>a")
def test_html_is_what_a_tree_of_it_says(html):
    assert html_text(html) == by_a_tree(html)


@CASES
@given(st.integers(1, 400), st.sampled_from(["div", "b", "table><tr><td", "ul><li", "form"]), HTML.map(sayable))
def test_html_that_is_deep_loses_its_structure_and_none_of_its_words(depth, name, inner):
    assert "inside" in html_text(f"<{name}>" * depth + "inside " + inner)


@given(HTML, HTML)
@example("", "\b<html><p>Dear <b>friend</b>")
@example("&\ufffdamp;", "&Atilde;\n&copy;")
@example("", "<html>half of a pair: \ud83d")
def test_clean_mail_stays_as_it_is(subject, body):
    cleaned = clean_mail(subject, body)
    assert clean_mail(*cleaned) == cleaned


@given(HTML, st.sampled_from(["text/plain", "text/html"]))
@example("Ã©\ufffd&\ufffdamp;", "text/html")
def test_body_has_all_words_of_its_message(body, kind):
    message = raw(f"<html>{body}", kind=f"{kind}; charset=utf-8", encoding="8bit")
    assert set(parse_message(message)[1].split()) <= set(clean_mail("", f"<html>{body}")[1].split())


HEADERS = ["Subject: a", "Subject: =?x?y?z?=", "MIME-Version: 1.0", ": x", "From x", " folded"]
HEADERS += ["Content-Type: multipart/mixed; boundary=b", 'Content-Type: multipart/alternative; boundary="b']
HEADERS += [f"Content-Type: {kind}" for kind in ("text/html", "/", "message/rfc822", "text/plain; charset=\udcff")]
HEADERS += [f"Content-Transfer-Encoding: {name}" for name in ("base64", "quoted-printable", "uuencode")]
LINES = st.sampled_from([*HEADERS, "", "", "--b", "--b--", "text", "<html>", "=E9=", "w6k=", "begin 666 x", "\xff"])
MESSAGES = st.lists(LINES | st.text(max_size=8), max_size=20).map("\n".join)


@settings(max_examples=500)
@given(MESSAGES.map(lambda text: text.encode("utf-8", "surrogateescape")) | st.binary(max_size=200))
def test_message_is_tidy_text_or_no_mail(content):
    with soon():
        try:
            subject, body = parse_message(content)
        except RowError:
            return
        assert clean_mail(subject, body) == (subject, body)
