"""Mails in files, as the command line classifies them."""

import json
import os
import re
from pathlib import PurePath
from threading import Thread

import pytest

from app.mail_files import Place, _is_message, read_mails
from tasks.data.formats.mails import Labels, mails
from tasks.data.mail import clean_row
from tests.app.conftest import CHARSETS, error_of, rows_of

pytestmark = pytest.mark.slow

MAIL = "From: a@b.example\nSubject: Meeting\nTo: c@d.example\n\nthe cat sat on the mat\n"


def test_files_are_classified_each_as_what_it_is(threestage, tmp_path):
    (tmp_path / "mail.eml").write_text(MAIL)
    (tmp_path / "mail.txt").write_text(MAIL)
    (tmp_path / "same.jsonl").write_text(
        json.dumps({"subject": "Meeting", "body": "the cat sat on the mat"}) + "\n\n" + json.dumps({"message": MAIL})
    )
    (tmp_path / "wide.eml").write_text(MAIL, "utf-16")
    result = threestage("classify", "--json", "mail.eml", "mail.txt", "same.jsonl", "-", "wide.eml", stdin=MAIL)
    assert (result.exit_code, result.stderr) == (0, "")
    found = rows_of(result.stdout)
    places = [
        ("mail.eml", None),
        ("mail.txt", None),
        ("same.jsonl", 1),
        ("same.jsonl", 3),
        ("-", None),
        ("wide.eml", None),
    ]
    assert [(row["file"], row.get("line")) for row in found] == places
    assert len({row["probability"] for row in found}) == 1, "all are the same mail"
    assert found[0]["label"] in ("ham", "spam")
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1)


def test_mailboxes_and_tables_are_classified_mail_by_mail(threestage, tmp_path):
    (tmp_path / "mbox").write_text("".join(f"From a@b.example Thu Aug 22 12:36:2{n} 2002\n{MAIL}\n" for n in range(2)))
    (tmp_path / "one.mbox").write_text(f"From a@b.example Thu Aug 22 12:36:20 2002\n{MAIL}")
    (tmp_path / "mails.csv").write_text("id,subject,body\n1,Meeting,the cat sat on the mat\n2,short\n")
    rows = [{"subject": "Meeting", "body": "the cat sat on the mat"}, {"message": MAIL}, ["no row"]]
    (tmp_path / "mails.json").write_text(json.dumps(rows))
    (tmp_path / "list").write_text("[ILUG] the cat\n")  # neither JSON nor a table
    result = threestage("classify", "--json", "mbox", "one.mbox", "mails.csv", "mails.json", "list")
    assert result.exit_code == 3
    found = rows_of(result.stdout)
    places = [tuple(row.get(name) for name in ("file", "row", "mail")) for row in found]
    assert places == [
        *[("mbox", None, 1), ("mbox", None, 2), ("one.mbox", None, None)],
        *[("mails.csv", 2, None), ("mails.csv", 3, None)],
        *[("mails.json", n, None) for n in (1, 2, 3)],
        ("list", None, None),
    ]
    assert len({row["probability"] for row in found[:-1] if "error" not in row}) == 1, "all are the same mail"
    assert [row["error"] for row in found if "error" in row] == [
        "fewer cells than columns (2, not 3); add what is missing",
        "none of subject, body, message in it",
    ]
    assert threestage("classify", "mbox").stdout.splitlines()[1].endswith("\tmbox, mail 2")


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("postmark", [b"", b"From a@b.example Thu Aug 22 12:36:20 2002\n"], ids=["eml", "mbox"])
def test_a_mail_in_any_charset_is_read_as_training_reads_it(tmp_path, charset, postmark):
    path = tmp_path / ("mbox" if postmark else "mail.eml")
    path.write_bytes(postmark + CHARSETS[charset])
    (learned,) = mails(path, PurePath("ham", path.name), Labels(("ham", "spam")), {})
    ((_, row),) = read_mails([str(path)])
    assert clean_row(row) == {"subject": learned.subject, "body": learned.body}
    assert learned.body in CHARSETS[charset].decode(charset)


def test_for_people_a_verdict_is_a_line_and_words_that_moved_it_stand_below(threestage, tmp_path):
    (tmp_path / "mail.eml").write_text(MAIL)
    result = threestage("classify", "--explain", "2", "mail.eml")
    (row,) = rows_of(threestage("classify", "--json", "mail.eml").stdout)
    said, decides = result.stdout.splitlines(), result.stderr
    assert decides == "the number is the probability of spam: threestage-classifier/1 calls a mail spam above 0.500\n"
    assert said[0] == f"{row['label']}\t{row['probabilities']['spam']:.3f}\tmail.eml"
    assert (row["label"] == "spam") == (row["probabilities"]["spam"] > row["threshold"])
    assert len(said) == 3
    assert all(re.fullmatch(r"\t[+-]\d+\.\d\d\t'.+'", line) for line in said[1:])


def test_what_is_no_mail_has_its_reason_and_leaves_the_others_alone(threestage, tmp_path):
    (tmp_path / "mail.eml").write_text(MAIL)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "a.out").write_bytes(b"\x7fELF\0\0 the cat")
    (tmp_path / "rows.jsonl").write_text('{"subject": 7}\n{"text": "hello"}\n{"body": \n')
    names = ["missing.eml", "empty.txt", "rows.jsonl", ".", "a.out", "mail.eml"]
    result = threestage("classify", "--json", *names)
    assert result.exit_code == 3
    found = rows_of(result.stdout)
    assert [row.get("error", "").partition(" (")[0] for row in found] == [
        "No such file or directory",
        "there is no text to classify",
        "subject: 7 is not text",
        "none of subject, body, message in it",
        "no JSON",
        "Is a directory",
        "it is no text",
        "",
    ]
    said = threestage("classify", *names).stderr.splitlines()
    assert len(said) == 8
    assert said[4] == "error: rows.jsonl, line 2: none of subject, body, message in it"


def test_a_model_that_is_no_classifier_is_said(threestage):
    said = error_of(threestage("classify", "-", "--model", "assistant", stdin="hello"))
    assert said == "error: assistant/1 can't classify; models that can: classifier"


@pytest.mark.parametrize(
    ("text", "is_message"),
    [
        (MAIL, True),
        (MAIL.replace("\n", "\r\n"), True),
        ("From a@b.example Mon Jan  5 10:00:00 2026\n" + MAIL, True),
        ("Received: from x\n\tby y; Mon\nSubject: hi\n\nbody", True),
        ("subject: hi\n\nbody", True),
        ("Subject: hi", True),
        ("From here on all is well.\n\nYours", False),
        ("Note: buy milk\n\nThanks", False),
        ("https://example.org\nlook", False),
        ("To: everybody\nplease read this\n\nThanks", False),
        ("Dear Sir: hello", False),
        ("", False),
    ],
)
def test_a_text_is_a_message_where_it_begins_with_headers(text, is_message):
    assert _is_message(text) is is_message


def test_a_pipe_which_can_be_read_once_is_a_mail(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_text, args=(MAIL,))
    writer.start()
    assert [*read_mails([str(pipe)])] == [(Place(str(pipe)), {"message": MAIL.encode()})]
    writer.join()
