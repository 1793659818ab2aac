"""Mails in files, as `threestage classify` reads them."""

import re

import pytest

from app.mail_files import is_message, read_mails
from tasks.data import emails
from tasks.data.findings import Findings
from tasks.data.mail import clean_row
from tests.app.conftest import CHARSETS, UNAPPROVED, rows_of

pytestmark = pytest.mark.slow

POSTMARK = "From a@b.example Thu Aug 22 12:36:20 2002\n"
MAIL = "From: a@b.example\nSubject: Meeting\nTo: c@d.example\n\nthe cat sat on the mat\n"


def test_mail_files_of_each_form_are_classified_mail_by_mail(threestage, tmp_path):
    for name, content in {
        "mail.eml": MAIL,
        "mail.txt": MAIL,
        "mbox": f"{POSTMARK}{MAIL}\n" * 2,
        "one.mbox": POSTMARK + MAIL,
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "wide.eml").write_text(MAIL, "utf-16")
    (tmp_path / "list").write_text("[ILUG] the cat\n")  # neither JSON nor a table
    names = ["mail.eml", "mail.txt", "mbox", "one.mbox", "wide.eml", "-", "list"]
    result = threestage("classify", "--json", *names, stdin=MAIL)
    assert (result.exit_code, result.stderr) == (0, UNAPPROVED)
    *same, text = rows_of(result.stdout)
    assert [(row["file"], row.get("mail")) for row in same] == [
        ("mail.eml", None),
        ("mail.txt", None),
        ("mbox", 1),
        ("mbox", 2),
        ("one.mbox", None),
        ("wide.eml", None),
        ("-", None),
    ]
    assert len({row["probability"] for row in same}) == 1, "all are the same mail"
    assert {row["label"] for row in [*same, text]} <= {"ham", "spam"}
    assert sum(same[0]["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("postmark", ["", POSTMARK], ids=["eml", "mbox"])
def test_unicode_mail_of_any_charset_is_read_as_training_reads_it(tmp_path, charset, postmark):
    path = tmp_path / "ham" / ("mbox" if postmark else "mail.eml")
    path.parent.mkdir()
    path.write_bytes(postmark.encode() + CHARSETS[charset])
    learned = emails.read(tmp_path, emails.Params(), Findings()).iloc[0]
    ((_, row),) = read_mails([str(path)])
    assert clean_row(row) == learned[["subject", "body"]].to_dict()
    assert learned["body"] in CHARSETS[charset].decode(charset)


def test_classify_prints_a_verdict_above_the_phrases_that_moved_it(threestage, tmp_path):
    (tmp_path / "mbox").write_text(f"{POSTMARK}{MAIL}\n{POSTMARK}Subject: Lunch\n\nat noon\n")
    rows = rows_of(threestage("classify", "--json", "mbox").stdout)
    result = threestage("classify", "--explain=2", "mbox")
    decides = "threestage-classifier/1 calls a mail spam above 0.600, and is unsure above 0.190"
    assert result.stderr == f"{UNAPPROVED}the number is the probability of spam: {decides}\n"
    assert [(row["label"], row["threshold"], row["unsure"]) for row in rows] == [
        ("ham", 0.5, [0.19, 0.6]),
        ("unsure", 0.5, [0.19, 0.6]),
    ]
    verdicts = [f"{row['label']}\t{row['probabilities']['spam']:.3f}\tmbox, mail {n}" for n, row in enumerate(rows, 1)]
    phrases = [line for line in result.stdout.splitlines() if line not in verdicts]
    assert result.stdout.splitlines()[0] == verdicts[0]
    assert len(verdicts) + len(phrases) == len(result.stdout.splitlines())
    assert 2 <= len(phrases) <= 4
    assert all(re.fullmatch(r"\tlike (ham|spam)\t'.+'", line) for line in phrases)


def test_file_that_is_no_mail_has_its_reason_and_stops_no_other(threestage, tmp_path):
    (tmp_path / "mail.eml").write_text(MAIL)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "a.out").write_bytes(b"\x7fELF\0\0 the cat")
    (tmp_path / "rows.jsonl").write_text('{"subject": "Lunch"}\n{"subject": "Dinner"}\n')
    (tmp_path / "rows.csv").write_text("id,subject,body\n1,Lunch,at noon\n")
    names = ["missing.eml", "empty.txt", "rows.jsonl", ".", "a.out", "rows.csv", "mail.eml"]
    result = threestage("classify", "--json", *names)
    assert result.exit_code == 3
    table = "it is a table; send its rows to /classify of a server"
    assert [row.get("error") for row in rows_of(result.stdout)] == [
        "No such file or directory",
        "there is no text to classify",
        table,
        "Is a directory",
        "it is no text",
        table,
        None,
    ]
    lines = threestage("classify", *names).stderr.splitlines()
    assert f"error: rows.jsonl: {table}" in lines
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MAIL, True),
        (MAIL.replace("\n", "\r\n"), True),
        (POSTMARK + MAIL, True),
        ("Received: from x\n\tby y; Mon\nSubject: hi\n\nbody", True),
        ("subject: hi", True),
        ("From here on all is well.\n\nYours", False),
        ("Note: buy milk\n\nThanks", False),
        ("https://example.org\nlook", False),
        ("To: everybody\nplease read this\n\nThanks", False),
        ("", False),
    ],
)
def test_text_that_begins_with_headers_is_a_message(text, expected):
    assert is_message(text) is expected
