# ruff: noqa: RUF001 (letters that look like others are what some tests are about)
from base64 import encodebytes
from email.message import EmailMessage

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.data.mail import clean_mail, clean_row, parse_message
from tests.tasks.data.test_mail_noise import BASE64, FORK

MARKUP = ["<html>", "<!doctype html>", "<html", "<b>", "<p>", "</p>", "<br>", "<td>", "<title>", "<script>", "<", ">"]
ENTITIES = ["&amp;", "&lt;", "&amp;lt;b&gt;", "&lt;html&gt;", "&Atilde;", "&copy;", "&#133;", "&", "amp;", "lt;"]
LETTERS = ["a", "é", "\ufb01", "\uff28", "Ã©", "â€œ", "Â", "Ã", *"\u2019\u201c\u0301\ufeff\ufffd\ud83d\0\b\x1b\x7f"]
BLANKS = [" ", "\t", "\n", "\r\n", "\n\n\n", *"\v\f\x85\xa0\u2028"]
TEXTS = st.lists(st.sampled_from(MARKUP + ENTITIES + LETTERS + BLANKS) | st.text(max_size=3), max_size=9).map("".join)


def raw(body, subject="Hello", kind="text/plain", encoding="7bit"):
    return f"From: a@b.org\nSubject: {subject}\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n{body}"


@pytest.mark.parametrize(
    ("message", "subject", "body"),
    [
        (raw("Plain  text,\r\n\r\n\r\n\r\ntidied.\t\n"), "Hello", "Plain text,\n\ntidied."),
        (
            raw("Caf=E9 =80 5", kind='text/plain; charset="windows-1252"', encoding="quoted-printable"),
            "Hello",
            "Café € 5",
        ),
        (raw("5L2g5aW9", kind='text/plain; charset="us-ascii"', encoding="base64"), "Hello", "你好"),
        (raw("xA7A", kind="text/plain; charset=DEFAULT_CHARSET"), "Hello", "xA7A"),
        (raw("Caf=E9", kind="text/plain; charset=no-such", encoding="quoted-printable"), "Hello", "Café"),
        (raw("=A7A=A6n", kind="text/plain; charset=big5", encoding="quoted-printable"), "Hello", "你好"),
        (raw("x", subject="=?utf-8?q?Gr=C3=BC=C3=9Fe?="), "Grüße", "x"),
        (raw("x", subject="A\n  folded   subject"), "A folded subject", "x"),
        (raw("lost\N{REPLACEMENT CHARACTER} cafÃ©"), "Hello", "lost café"),
        ("Content-Type: text/plain\n\nno subject", "", "no subject"),
    ],
)
def test_text_and_subject_are_decoded_and_mended(message, subject, body):
    assert parse_message(message) == (subject, body)


def test_html_becomes_what_a_person_sees():
    html = (
        "<html><head><title>t</title><style>p {color: red}</style></head><body><!-- no --><p>Dear <b>fri</b>end,</p>"
        '<table><tr><td>1</td><td>2</td></tr></table><a href="http://x">Click here</a>'
        "<script>alert(1)</script>&nbsp;&lt;3"
    )
    expected = ("Hello", "Dear friend,\n1 2\n\nClick here <3")
    assert parse_message(raw(html, kind="text/html")) == expected
    subject, body = parse_message(raw(html))  # it does not say so, and may be meant as it stands
    assert body.startswith(expected[1] + "\n\n")
    assert subject == "Hello"
    assert body.endswith("alert(1)")


def test_message_is_read_once_with_everything_that_a_person_sees():
    message = EmailMessage()
    message["Subject"] = "Parts"
    message.set_content("The plain part,\nin two lines")
    message.add_alternative("<p>The <b>plain</b> part, in two lines</p><p>The HTML part</p>", subtype="html")
    message.add_attachment("The attachment", filename="a.txt")
    message.add_attachment(b"<p>A page</p>", maintype="application", subtype="octet-stream", filename="a.HTML")
    message.add_attachment("1,2", subtype="csv", filename="a.csv")
    forwarded = EmailMessage()
    forwarded["Subject"] = "Inner"
    forwarded.set_content("The mail in it")
    message.add_attachment(forwarded)
    expected = (
        "The plain part, in two lines\nThe HTML part\n\nThe attachment\n\nA page\n\n1,2\n\nInner\n\nThe mail in it"
    )
    assert parse_message(message.as_bytes()) == ("Parts", expected)
    message = EmailMessage()
    message.set_content(" \n")
    message.add_alternative("<p>The HTML part</p>", subtype="html")
    assert parse_message(message.as_string()) == ("", "The HTML part")


@pytest.mark.parametrize(
    ("style", "hidden"),
    [
        ("display : none", True),
        ("visibility:hidden", True),
        ("font-size:0", True),
        ("font-size:1px;", True),
        ("opacity:0", True),
        ("opacity:0.9", False),
        ("font-size:.9rem", False),
        ("font: 1em/1.5 Arial", False),
        ("display:none;display:block", False),
        ("fill-opacity:0", False),
        ("mso-hide:all", False),
        (" " * 40_000 + "a", False),
    ],
)
def test_hidden_html_is_moved_to_the_end(style, hidden):
    html = f'<html><p>Above</p><div style="{style}">Harmless<p>words</p></div><p>Below</p></html>'
    expected = ["Above", "Below", "Harmless", "words"] if hidden else ["Above", "Harmless", "words", "Below"]
    assert clean_mail("", html)[1].split() == expected


def test_html_that_its_own_style_shows_again_stays_in_its_place():
    for outer, inner in (("font-size:0", "font-size:14px"), ("visibility:hidden", "visibility:visible")):
        html = f'<html><div style="{outer}">not<p style="{inner}">seen</p></div>yes</html>'
        assert clean_mail("", html)[1].split() == ["seen", "yes", "not"]
    html = '<html><div style="display:none">not<p style="display:block">nor</p></div>yes</html>'
    assert clean_mail("", html)[1].split() == ["yes", "not", "nor"]
    assert clean_mail("", "<html><p hidden>not</p>yes<img alt='a cat'></html>")[1].split() == ["yes", "not", "a", "cat"]


PAYLOAD = "Cheap pills at http://pills.example today"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (f"<span style='color:#fff'>&lt;html&gt;&lt;title&gt;</span><p>{PAYLOAD}</p>", "text/html"),
        (f"<p>&lt;html&gt;&lt;!--</p><p>{PAYLOAD}</p>", "text/html"),
        (f"<b>hi</b><!-- {PAYLOAD} -->", "text/plain"),
        (f"<html><script>{PAYLOAD}</script>", "text/plain"),
        (f"<p hidden>x<section>{PAYLOAD}</section>", "text/html"),
        (f"<ruby>x<rt>{PAYLOAD}</rt></ruby>", "text/html"),
        (f"<img alt='{PAYLOAD}'>", "text/html"),
        (f"<iframe srcdoc='{PAYLOAD}'></iframe>", "text/html"),
        (f"--abc\nContent-Type: text/plain\n\nhi\n--abc\nContent-Type: image/png\n\n{PAYLOAD}\n--abc--", "text/plain"),
        (f"--abc\nContent-Type: text/plain\nX: {PAYLOAD}\n\nhi\n--abc--", "text/plain"),
        (f"-----BEGIN PGP MESSAGE-----\nVersion: {PAYLOAD}\n-----END PGP MESSAGE-----", "text/plain"),
        (f"begin 644 x\nM{PAYLOAD}\nend", "text/plain"),
        (PAYLOAD, "text/plain; charset=cp037"),
        (PAYLOAD, "text/calendar"),
    ],
)
def test_body_keeps_everything_that_may_be_words(body, kind):
    assert PAYLOAD in parse_message(raw(body, kind=kind))[1]


@pytest.mark.parametrize("encoding", ["base64", "7bit"])
def test_mail_in_a_mail_is_read_in_every_encoding(encoding):
    inner = raw(PAYLOAD, subject="Inner")
    content = encodebytes(inner.encode()).decode() if encoding == "base64" else inner
    message = raw(content, kind="message/rfc822", encoding=encoding)
    assert parse_message(message) == ("Hello", f"Inner\n\n{PAYLOAD}")
    message = EmailMessage()
    message.set_content("Above")
    message.add_attachment(inner.encode(), maintype="application", subtype="octet-stream", filename="a.eml")
    assert parse_message(message.as_bytes())[1] == f"Above\n\nInner\n\n{PAYLOAD}"


def test_lines_of_a_plain_form_stay_where_html_has_not_all_of_their_words():
    message = EmailMessage()
    message.set_content("one\ntwo three\n$$$ !!!\nfour")
    message.add_alternative("<p>$$$ !!!</p><p>one two</p><p>three</p>", subtype="html")
    assert parse_message(message.as_bytes())[1] == "$$$ !!!\none two\nthree\n\n$$$ !!!\nfour"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("v\u200bi\u00ada\u2060g\u034fra", "viagra"),
        ("ｖｉａｇｒａ \U0001d42f\U0001d422\U0001d41a\U0001d420\U0001d42b\U0001d41a", "viagra viagra"),
        ("vi\u0337a\u0337gra, café", "viagra, café"),
        ("vіаgrа Привет", "viagra Привет"),
        ("v i a g r a, v.i.a.g.r.a", "viagra, viagra"),
        ("p,i,l,l,s p•i•l•l•s", "pills pills"),
        ("x y z, a/b/c and I a m", "x y z, a/b/c and I a m"),
        ("U.S. and e.g. I am A.", "U.S. and e.g. I am A."),
    ],
)
def test_letters_are_read_as_they_look(written, read):
    assert clean_mail(written, written) == (read, read)


@pytest.mark.parametrize(
    ("content", "kind", "encoding"),
    [
        ("<p>Che<!-- 5 -->ap pi<!-- 5 -->lls to<!-- 5 -->day</p>", "text/html", "7bit"),
        ("<p>Ch<b></b>eap pi<b></b>lls to<b></b>day</p>", "text/html", "7bit"),
        ("".join(f"&#{ord(letter)};" for letter in "Cheap pills today"), "text/html", "7bit"),
        (encodebytes("Cheap pills today".encode("utf-16")).decode(), "text/plain; charset=utf-16", "base64"),
        ("Cheap pills today".encode("utf-7").decode(), "text/plain; charset=utf-7", "7bit"),
        ("Ｃｈｅａｐ ｐｉｌｌｓ ｔｏｄａｙ", "text/plain; charset=utf-8", "8bit"),
        ("C h e a p  p i l l s  t o d a y", "text/plain", "7bit"),
        ("C.h.e.a.p p.i.l.l.s t.o.d.a.y", "text/plain", "7bit"),
        ("\N{SOFT HYPHEN}".join("Cheap pills today"), "text/plain; charset=utf-8", "8bit"),
        ("\N{ZERO WIDTH SPACE}".join("Cheap pills today"), "text/plain; charset=utf-8", "8bit"),
    ],
)
def test_disguised_words_are_read_as_they_are(content, kind, encoding):
    assert parse_message(raw(content, kind=kind, encoding=encoding))[1] == "Cheap pills today"


@given(TEXTS, TEXTS)
@example("", "\b<html><p>Dear <b>friend</b>")
@example("", "&lt;html&gt;<p>Dear <b>friend</b>")
@example("&\ufffdamp;", "&Atilde;\n&copy;")
@example("", "<html>half of a pair: \ud83d")
def test_clean_mail_stays_as_it_is(subject, body):
    cleaned = clean_mail(subject, body)
    assert clean_mail(*cleaned) == cleaned
    row = clean_row({"subject": subject, "body": body})
    assert clean_row(row) == row == dict(zip(("subject", "body"), cleaned, strict=True))


@given(TEXTS, st.sampled_from(["text/plain", "text/html"]))
@example("Ã©\ufffd&\ufffdamp;", "text/html")
def test_body_has_all_words_of_its_message(body, kind):
    message = raw(f"<html>{body}", kind=f"{kind}; charset=utf-8", encoding="8bit")
    row, read = clean_row({"subject": "Hello", "body": f"<html>{body}"}), clean_row({"message": message})
    assert row["subject"] == read["subject"]
    assert set(read["body"].split()) <= set(row["body"].split())


def test_row_may_lack_subject_or_body():
    assert clean_row({"body": " b "}) == {"subject": "", "body": "b"}
    assert clean_row({}) == {"subject": "", "body": ""}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"message": raw("x"), "subject": "s"}, "a row has either message or subject and body"),
        ({"subject": 3}, "subject: 3 is not text"),
    ],
)
def test_row_that_is_no_mail_is_refused(row, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        clean_row(row)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>Dear <b>Anna</b>,</p>\n&nbsp;<p>it works.</p>", "Dear Anna,\n\nit works."),
        ("<head>\n<style>td { color: red }</style></head>\nHello", "Hello\n\ntd { color: red }"),
        ("<html><iframe src='ad'>\n<script>show()</script>\n</iframe>Hello", "Hello\n\nshow()"),
        ("Use <b> for bold & </b> to end it: " + "so it was said. " * 20, None),
        ("I include <stdio.h> and </list>; write to <anna@example.com>", None),
    ],
)
def test_tags_that_were_meant_to_be_read_are_markup_and_those_spoken_of_are_not(body, text):
    assert clean_mail("", body)[1] == (body.strip() if text is None else text)


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


def test_body_with_the_parts_of_a_message_is_read_as_a_message():
    head = "This is a multipart MIME message.\n\n"
    assert clean_mail("", PARTED) == ("", head + "Café is open.\n\nGIF89")
    assert parse_message(b"Subject: a\n\n" + PARTED.encode()) == ("a", head + "Café is open.\n\nGIF89")
    longer = PARTED.replace("text/plain", "text/html").replace("image/gif", "text/plain").replace("GIF89", "See HTML.")
    assert clean_mail("", longer) == ("", head + "Café is open.\n\nSee HTML.")
    quoted = "Look at this, it was in my mailbox.\nWhat does it want?\nNobody knows.\n" + PARTED
    assert clean_mail("", quoted)[1].count("=_b 1") == 3


def test_quoted_printable_that_does_not_say_so_is_decoded_and_equals_signs_of_others_stay():
    assert clean_mail("", "Meet me at the caf=C3=A9=20\non Tues=\nday=2E")[1] == "Meet me at the café\non Tuesday."
    for body in ("x=20\ny=\n", "http://example.com/?a=20&b=20&c=20", "==== a ====\n=20\n====\nb=\nc=\nd"):
        assert clean_mail("", body)[1] == body.strip()


def test_mail_that_never_settles_is_refused():
    assert clean_mail("", "<html><xmp>" * 15 + "inside")[1] == "inside"
    endless = "<html><xmp>" * 25 + "inside"
    reason = r"^not readable as a mail: cleaned 20 times, there is more to clean$"
    with pytest.raises(ValueError, match=reason):
        clean_mail("", endless)
    with pytest.raises(ValueError, match=reason):
        parse_message(raw(endless))


def test_corrupt_name_of_a_charset_loses_no_mail():
    assert parse_message(b"Content-Type: text/plain; charset=a\0b\n\ncaf\xe9") == ("", "café")
    assert parse_message(b"Content-Type: text/html; charset=utf-7\n\n<p>+2AA- hello</p>") == ("", "hello")


def test_rules_report_each_text_that_they_change():
    notes: list[tuple[str, str, str]] = []

    def note(rule: str, before: str, after: str) -> None:
        notes.append((rule, before, after))

    message = raw(f"<p>Caf&amp;eacute;</p>{FORK}<br><p>> n o t e</p>", kind="text/html")
    parse_message(message, note)
    changes = {rule: after for rule, before, after in notes if before != after}
    assert list(changes) == ["markup", "characters", "spelled", "footers", "quotes"]
    assert changes["quotes"] == "Café\n\nnote"
    notes.clear()
    clean_mail("", PARTED, note)
    clean_mail("", f"Caf=C3=A9 Tues=\nday=20\n{BASE64[:-2]}", note)
    assert {rule for rule, before, after in notes if before != after} == {"parts", "quoted_printable", "encoded"}


@pytest.mark.parametrize(
    ("charset", "content", "text"),
    [
        ("gb2312", "镕基先生".encode("gbk"), "镕基先生"),
        ("ks_c_5601-1987", "똠방각하".encode("cp949"), "똠방각하"),
        ("iso-2022-jp", "日本語".encode("iso2022_jp") + b"\x1b(I\x31\x1b(B", "日本語ア"),
        ("us-ascii", b"\x93caf\xe9\x94", '"café"'),
        ("iso-2022-jp", "日本語".encode("iso2022_jp") + b"\x1b$B\x2d\x21\x1b(B!", "日本語!"),
    ],
)
def test_character_that_a_charset_has_only_in_practice_leaves_the_others_as_they_are(charset, content, text):
    head = f"Subject: a\nTo: b\nContent-Type: text/plain; charset={charset}\n\n".encode()
    assert parse_message(head + content) == ("a", text)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("latin-1"), "Grüße"),
        ("Grüße für =?utf-8?q?=C3=A9?=".encode("latin-1"), "Grüße für é"),
        (b"=?gb2312?B?6UY=?=", "镕"),
        (b"=?us-ascii?q?plain?=", "plain"),
    ],
)
def test_subject_keeps_characters_that_its_header_does_not_declare(subject, text):
    assert parse_message(b"Subject: " + subject + b"\nTo: b\n\nbody") == (text, "body")


def test_message_of_an_attachment_alone_has_no_body():
    message = EmailMessage()
    message["Subject"] = "Invoice"
    message.add_attachment(b"%PDF-1.4\n%more", maintype="application", subtype="pdf", filename="a.pdf")
    assert parse_message(message.as_bytes()) == ("Invoice", "")
    message = EmailMessage()
    message["Subject"] = "Notes"
    message.add_attachment("Tuesday at noon.", filename="a.txt")
    assert parse_message(message.as_bytes()) == ("Notes", "Tuesday at noon.")
    assert parse_message("Subject: hi\nContent-Type: application/pgp; format=text\n\nTuesday?") == ("hi", "Tuesday?")
