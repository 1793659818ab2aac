"""Every form in which people have mails: a line of params.yaml, fetched and read as the stages do it."""

import gzip
import json
from email.message import EmailMessage
from pathlib import Path

import pandas as pd
import pytest
from form_files import Content, csv_table, json_lines, parquet, zipped

from llm.errors import UserError
from tasks.data.formats.labels import Labels
from tasks.datasets import emails

MAILS = [("ham", "Lunch", "See you at noon.\nBring the café's bill."), ("spam", "You won", 'A "prize", free!')]


def message(subject: str, body: str) -> str:
    mail = EmailMessage()
    mail["From"] = "a@example.org"
    mail["To"] = "b@example.org"
    mail["Subject"] = subject
    mail.set_content(body)
    return mail.as_string()


def box(subject: str, body: str) -> str:
    return f"From a@example.org Thu Aug 22 12:36:23 2002\n{message(subject, body)}\n"


def columns(label: str, subject: str | None, body: str, values: dict[str, object] | None = None) -> list[dict]:
    rows: list[dict] = []
    for name, title, text in MAILS:
        subjects = {subject: title} if subject else {}
        rows.append({label: (values or {}).get(name, name), **subjects, body: text})
    return rows


ENRON = ("Message ID", "Subject", "Message", "Spam/Ham", "Date")
KAGGLE = "v1,v2,,,\n" + "".join(f'{a},"{c.replace(chr(34), chr(34) * 2)}",,,\n' for a, _, c in MAILS)
NAMED = columns("label", "subject", "body")
EMAILS: dict[str, tuple[str, dict[str, Content]]] = {
    "folders of .eml": ("mail", {f"mail/{label}/1.eml": message(subject, body) for label, subject, body in MAILS}),
    "mbox": ("mail/*.mbox", {f"mail/{label}.mbox": box(subject, body) for label, subject, body in MAILS}),
    "compressed mbox by its content": (
        "mail",
        {f"mail/{label}-2024.gz": gzip.compress(box(subject, body).encode()) for label, subject, body in MAILS},
    ),
    "Maildir": (
        "mail/*/cur/*",
        {f"mail/{label}/cur/1": message(subject, body) for label, subject, body in MAILS} | {"mail/ham/u": "V1"},
    ),
    "folders of texts, as Enron-Spam": (
        "enron1",
        {f"enron1/{a}/0001.1999-12-10.farmer.{a}.txt": f"Subject: {b}\r\n{c}" for a, b, c in MAILS},
    ),
    "CSV": ("mails.csv", {"mails.csv": csv_table(NAMED)}),
    "CSV without a subject": ("mails.csv", {"mails.csv": csv_table(columns("label", None, "text"))}),
    "CSV with semicolons": ("mails.csv", {"mails.csv": csv_table(NAMED, delimiter=";")}),
    "CSV as Enron's": (
        "enron.csv",
        {"enron.csv": csv_table([dict(zip(ENRON, (7, b, c, a, "1999-12-10"), strict=True)) for a, b, c in MAILS])},
    ),
    "CSV as Kaggle's without a subject": ("spam.csv", {"spam.csv": KAGGLE}),
    "CSV with whole messages": (
        "mails.csv",
        {
            "mails.csv": csv_table(
                [{"class": label, "message": message(subject, body)} for label, subject, body in MAILS]
            )
        },
    ),
    "labels in another case": (
        "mails.csv",
        {"mails.csv": csv_table(columns("Label", "Subject", "Body", values={"ham": "HAM", "spam": "Spam "}))},
    ),
    "JSON lines": ("mails.jsonl", {"mails.jsonl": json_lines(columns("label", "title", "text"))}),
    "JSON": ("mails.json", {"mails.json": json.dumps(NAMED)}),
    "Parquet": ("mails.parquet", {"mails.parquet": parquet(columns("label", "subject", "text"))}),
    "a zip of .eml": ("mail.zip", {"mail.zip": zipped({f"{a}/1.eml": message(b, c) for a, b, c in MAILS})}),
}


def contents(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    return sorted(table[["label", "subject", "body"]].itertuples(index=False, name=None))


def has_no_subject(form: str) -> bool:
    return "without" in form


@pytest.mark.parametrize("form", EMAILS)
def test_emails_are_read_from(form, read):
    line, files = EMAILS[form]
    mails = [(label, subject * (not has_no_subject(form)), body) for label, subject, body in MAILS]
    assert contents(read(emails, line, files)) == sorted(mails)


@pytest.mark.parametrize(("form", "write"), [("csv", csv_table), ("jsonl", json_lines), ("parquet", parquet)])
def test_label_map_explains_labels_that_are_numbers(form, write, read):
    rows = columns("spam", None, "text", values={"ham": 0, "spam": 1})
    table = read(emails, f"mails.{form}", {f"mails.{form}": write(rows)}, label_map={0: "ham", 1: "spam"})
    assert contents(table) == [(label, "", body) for label, _, body in MAILS]


SMS = [
    "ham\tGo until jurong point, crazy.. Available only in bugis n great world",
    'spam\t"FREE entry in 2 a wkly comp; text FA to 87121',
    'ham\tHe said "hello" and left',
    'spam\t"URGENT!" You\'ve won £900',
]


def test_emails_of_the_sms_collection_have_quotes_that_enclose_nothing(read):
    table = read(emails, "sms.tsv", {"sms.tsv": "\n".join(["label\tsms", *SMS]) + "\n"})
    assert table["id"].tolist() == [f"sms/sms.tsv#{n}" for n in (2, 3, 4, 5)]
    assert table[["label", "body"]].to_numpy().tolist() == [line.split("\t") for line in SMS]


def test_emails_table_without_a_header_is_an_error(read):
    with pytest.raises(UserError, match=r"sms\.tsv, row 2: no label; it is looked for under label, labels, class"):
        read(emails, "sms.tsv", {"sms.tsv": "\n".join(SMS) + "\n"})


OF_PATH = {  # the label that a path says; None for no label
    **{"spam/1.eml": "spam", "easy-ham-1/1.eml": "ham", "spam/archive/ham.mbox": "ham", "spam/hamburg.eml": "spam"},
    **{"mixed/spam-or-ham/1.eml": None, "ham/SPAM_or_HAM.eml": "ham", "my-spam/January/1.eml": "spam"},
    **{"Spam.mbox/A4F0/Data/Messages/1.emlx": "spam", "spam/ham.csv": "ham", "x/2024/1.eml": None},
    # a label that is denied
    **{"data/not-spam/1.eml": None, "spam-data/not-spam/1.eml": None, "x/no-spam/3.txt": None},
    **{"spam/nonspam/3.txt": None, "ham/not-spam/3.txt": None, "ham/not-spam.mbox": None, "x/not_Spam/ham/1": "ham"},
    # the source's own topic
    **{"spam-data/legit/2.txt": None, "spam-data/4.csv": None},
}
OF_MESSAGE = {  # as programs call them by their subjects
    **{"ham/Re_ new spam filter.eml": "ham", "ham/Re_ not spam.eml": "ham", "x/not-spam/my spam.eml": None},
    **{"spam-corpus/0001.1999-12-10.farmer.ham.txt": "ham", "ham/Stop. Spam. Now.eml": "ham"},
}


def test_label_of_a_path_is_that_of_the_nearest_name_and_for_a_message_of_its_folder():
    labels = Labels(("ham", "spam"), {"2024": "spam"})
    assert {path: labels.of_path(Path(path)) for path in OF_PATH} == OF_PATH
    assert {path: labels.of_message(Path(path)) for path in OF_MESSAGE} == OF_MESSAGE


HELD = "From: Anna <anna@example.org>\nSubject: Grüße\nContent-Type: text/plain; charset=utf-8\n\nWir sehen uns.\n"
POSTMARK = "From anna@example.org Thu Aug 22 12:36:23 2002\n"
PROPERTIES = '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict/></plist>\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spam/1.eml", HELD.encode("utf-8-sig")),
        ("spam/1.eml", HELD.encode("utf-16")),
        ("spam.mbox", (POSTMARK + HELD).encode("utf-8-sig")),
        ("spam/1.emlx", f"{len(HELD.encode())}      \n{HELD}{PROPERTIES}"),  # Apple's, between a length and properties
    ],
)
def test_message_is_read_without_what_programs_put_around_it(name, content, read):
    assert contents(read(emails, "mail", {f"mail/{name}": content})) == [("spam", "Grüße", "Wir sehen uns.")]


BOX = """\
From anna@example.org Thu Aug 22 12:36:23 2002
From: anna@example.org
Subject: One

first
From bert@example.org Fri Aug 23 12:36:23 2002

From Monday 2 Jan 10:00 on we meet
>From here it is far.

From bert@example.org Fri Aug 23 12:36:23 2002
From: bert@example.org
Subject: Two

second
"""


def test_mailbox_has_a_message_at_each_postmark_after_a_blank_line(read):
    first = "first\nFrom bert@example.org Fri Aug 23 12:36:23 2002\n\nFrom Monday 2 Jan 10:00 on we meet\nFrom here it"
    mails = contents(read(emails, "ham.mbox", {"ham.mbox": BOX}))
    assert mails == [("ham", "One", f"{first} is far."), ("ham", "Two", "second")]


NULLS = [{"label": "ham", "subject": "Lunch", "body": None}, {"label": "spam", "subject": None, "body": "You won"}]
TABLES = {
    "a column called group is no label where another is": (
        *("a.csv", "text,Label,group\nhello there,ham,team spam reports\n"),
        [("ham", "", "hello there")],
    ),
    "a label and its number are no two labels": (
        *("a.csv", "label,text,label_num\nham,hello there,0\n"),
        [("ham", "", "hello there")],
    ),
    "a null is empty": ("a.jsonl", json_lines(NULLS), [("ham", "Lunch", ""), ("spam", "", "You won")]),
    "a null of Parquet is empty": ("a.parquet", parquet(NULLS), [("ham", "Lunch", ""), ("spam", "", "You won")]),
}


@pytest.mark.parametrize("case", TABLES)
def test_emails_table_of_unusual_columns_or_cells_is_read(case, read):
    name, content, expected = TABLES[case]
    assert contents(read(emails, name, {name: content})) == expected


def test_emails_row_whose_text_runs_into_a_column_without_a_name_is_dropped(read, caplog):
    rows = ",v1,v2,,\n0,ham,hello there,,\n1,spam,You won, call now,\n2,ham,See you,,7\nx,ham,Bye,,\n"
    table = read(emails, "a.csv", {"a.csv": rows})
    assert contents(table) == [("ham", "", "Bye"), ("ham", "", "See you"), ("ham", "", "hello there")]
    reason = "row 3: column 4 has no name and holds ' call now'; name it, or quote what has commas"
    assert "1 rows left out" in caplog.text
    assert reason in caplog.text


def test_columns_of_the_parameters_leave_feedback_as_it_is(read):
    feedback = json_lines([{"label": "spam", "subject": "", "body": "You won"}])
    files = {"mine/a.csv": "Kind,Message\nham,See you\n", "mine/feedback.jsonl": feedback}
    table = read(emails, "mine", files, columns={"label": "Kind", "body": "Message"})
    assert contents(table) == [("ham", "", "See you"), ("spam", "", "You won")]
