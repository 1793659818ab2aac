from email.message import EmailMessage

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.data.mail import clean_mail, clean_row, parse_message

MARKUP = ["<html>", "<!doctype html>", "<html", "<b>", "<p>", "</p>", "<br>", "<td>", "<title>", "<script>", "<", ">"]
ENTITIES = ["&amp;", "&lt;", "&amp;lt;b&gt;", "&lt;html&gt;", "&Atilde;", "&copy;", "&#133;", "&", "amp;", "lt;"]
LETTERS = ["a", "é", "\ufb01", "\uff28", "Ã©", "â€œ", "Â", "Ã", *"\u2019\u201c\u0301\ufeff\ufffd\ud83d\0\b\x1b\x7f"]
BLANKS = [" ", "\t", "\n", "\r\n", "\n\n\n", *"\v\f\x85\xa0\u2028"]
TEXTS = st.lists(st.sampled_from(MARKUP + ENTITIES + LETTERS + BLANKS) | st.text(max_size=3), max_size=9).map("".join)
CASES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no mistake


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
    assert parse_message(raw(html)) == expected


def test_a_plain_part_is_preferred_and_attachments_are_dropped():
    message = EmailMessage()
    message["Subject"] = "Parts"
    message.set_content("The plain part")
    message.add_alternative("<p>The HTML part</p>", subtype="html")
    message.add_attachment("The attachment", filename="a.txt")
    assert parse_message(message.as_string()) == ("Parts", "The plain part")
    message = EmailMessage()
    message.set_content(" \n")
    message.add_alternative("<p>The HTML part</p>", subtype="html")
    assert parse_message(message.as_string()) == ("", "The HTML part")


def test_a_message_without_its_boundary_keeps_its_text():
    assert parse_message(raw("still here", kind="multipart/alternative; boundary=x")) == ("Hello", "still here")


@CASES
@given(TEXTS, TEXTS)
@example("", "\b<html><p>Dear <b>friend</b>")
@example("", "&lt;html&gt;<p>Dear <b>friend</b>")
@example("&\ufffdamp;", "&Atilde;\n&copy;")
@example("", "<html>half of a pair: \ud83d")
def test_a_clean_mail_stays_as_it_is(subject, body):
    cleaned = clean_mail(subject, body)
    assert clean_mail(*cleaned) == cleaned
    row = clean_row({"subject": subject, "body": body})
    assert clean_row(row) == row == dict(zip(("subject", "body"), cleaned, strict=True))


@CASES
@given(TEXTS, st.sampled_from(["text/plain", "text/html"]))
@example("\ufeff<html>Dear friend", "text/plain")
@example("<xmp><html>Dear friend", "text/html")
def test_the_text_of_a_message_stays_as_it_is(body, kind):
    parsed = parse_message(raw(body, kind=f"{kind}; charset=utf-8", encoding="8bit"))
    assert clean_mail(*parsed) == parsed
    row = clean_row({"message": raw(body, kind=f"{kind}; charset=utf-8", encoding="8bit")})
    assert clean_row(row) == row == dict(zip(("subject", "body"), parsed, strict=True))


@CASES
@given(TEXTS, st.sampled_from(["text/plain", "text/html"]))
@example("Ã©\ufffd&\ufffdamp;", "text/html")
def test_html_is_read_alike_as_a_body_and_in_a_message(body, kind):
    message = raw(f"<html>{body}", kind=f"{kind}; charset=utf-8", encoding="8bit")
    row = clean_row({"subject": "Hello", "body": f"<html>{body}"})
    assert row == clean_row({"message": message, "subject": None, "body": None})


def test_a_row_may_leave_out_what_it_has_not():
    assert clean_row({"body": " b "}) == {"subject": "", "body": "b"}
    assert clean_row({}) == {"subject": "", "body": ""}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"message": raw("x"), "subject": "s"}, "a row has either message or subject and body"),
        ({"subject": 3}, "subject: 3 is not text"),
    ],
)
def test_a_row_that_is_no_mail_is_refused(row, reason):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        clean_row(row)
