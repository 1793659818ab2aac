"""People's own labelled data: each kind comes in, or one line says what to do about it."""

import bz2
import gzip
import json
import lzma
import re
from pathlib import PurePath

import pytest
from form_files import Content, csv_table, json_lines, parquet, put

from tasks.data import emails, requests
from tasks.data.compression import zstd
from tasks.data.findings import Findings
from tasks.data.labels import LabelledSplit, Labels

LUNCH = ("ham", "Lunch", "See you at noon.\nBring the café's bill.")
PRIZE = ("spam", "You won", 'A "prize", free!')
MAILS = [LUNCH, PRIZE]
BARE = [(label, "", body) for label, _, body in MAILS]
HAM = [LUNCH]


def message(subject: str, body: str) -> str:
    head = f"From: a@example.org\nTo: b@example.org\nSubject: {subject}\nContent-Type: text/plain; charset=utf-8"
    return f"{head}\n\n{body}\n"


def box(subject: str, body: str) -> str:
    return f"From a@example.org Thu Aug 22 12:36:23 2002\n{message(subject, body)}\n"


def table(label: str, subject: str | None, body: str, values: dict[str, object] | None = None) -> list[dict]:
    rows: list[dict] = []
    for name, title, text in MAILS:
        subjects = {subject: title} if subject else {}
        rows.append({label: (values or {}).get(name, name), **subjects, body: text})
    return rows


LUNCH_MAIL, PRIZE_MAIL = message(*LUNCH[1:]), message(*PRIZE[1:])
LUNCH_BOX, PRIZE_BOX = box(*LUNCH[1:]), box(*PRIZE[1:])
NAMED = table("label", "subject", "body")
LINES = json_lines(NAMED)
ENRON = ("Message ID", "Subject", "Message", "Spam/Ham", "Date")
ENRON_ROWS = [dict(zip(ENRON, (7, subject, body, label, "1999-12-10"), strict=True)) for label, subject, body in MAILS]
KAGGLE = 'v1,v2,,,\nham,"See you at noon.\nBring the café\'s bill.",,,\nspam,"A ""prize"", free!",,,\n'
SMS = [("ham", "", "Go until jurong point, crazy.. Only in bugis"), ("spam", "", '"FREE entry in 2 a wkly comp')]
SMS_LINES = "".join(f"{label}\t{body}\n" for label, _, body in SMS)
FLAGS = {"ham": 0, "spam": 1}
PROPERTIES = '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict/></plist>\n'
APPLE = f"{len(LUNCH_MAIL.encode())}      \n{LUNCH_MAIL}{PROPERTIES}"
PACKAGE = [{"id": 1, "group": "easy-ham-1", "text": f"From a Thu Aug 22 12:36:23 2002\n{LUNCH_MAIL}"}]
NULLS = [{"label": "ham", "subject": "Lunch", "body": None}, {"label": "spam", "subject": None, "body": "You won"}]
AUTOMATIC = json_lines([{"label": "spam", "subject": "", "body": "You won"}])

# Files, the rows that come out, and parameters.
OWN: dict[str, tuple[dict[str, Content], list[tuple[str, str, str]], dict]] = {
    "folders of .eml": ({"ham/1.eml": LUNCH_MAIL, "spam/1.eml": PRIZE_MAIL}, MAILS, {}),
    ".eml with a mark": ({"ham/1.eml": LUNCH_MAIL.encode("utf-8-sig")}, HAM, {}),
    ".eml in UTF-16": ({"ham/1.eml": LUNCH_MAIL.encode("utf-16")}, HAM, {}),
    ".emlx of Apple's Mail": ({"Inbox.mbox/A4F0/Data/Messages/1.emlx": APPLE}, HAM, {}),
    "mbox": ({"ham.mbox": LUNCH_BOX, "spam.mbox": PRIZE_BOX}, MAILS, {}),
    "Inbox beside Junk": ({"mail/Inbox.mbox": LUNCH_BOX, "mail/Junk.mbox": PRIZE_BOX}, MAILS, {}),
    "boxes without a suffix": ({"Mail/Sent": LUNCH_BOX, "Mail/Junk": PRIZE_BOX}, MAILS, {}),
    "mbox by its content": ({"ham-24.gz": gzip.compress(LUNCH_BOX.encode()), "spam-24": PRIZE_BOX}, MAILS, {}),
    "Maildir": ({"inbox/cur/1": LUNCH_MAIL, "junk/new/1": PRIZE_MAIL, "inbox/.uidlist": "V1"}, MAILS, {}),
    "not-spam beside spam": ({"x/not-spam/1.eml": LUNCH_MAIL, "x/spam/1.eml": PRIZE_MAIL}, MAILS, {}),
    "folders of other names": (
        {"x/Freunde/1.eml": LUNCH_MAIL, "x/Werbung/1.eml": PRIZE_MAIL},
        MAILS,
        {"label_of": {"freunde/*": "ham", "Werbung/*": "spam"}},
    ),
    "texts as Enron's": ({"e/ham/1.farmer.ham.txt": "Subject: Lunch\r\nSee you"}, [("ham", "Lunch", "See you")], {}),
    "CSV": ({"a.csv": csv_table(NAMED)}, MAILS, {}),
    "CSV of semicolons": ({"a.csv": csv_table(NAMED, delimiter=";")}, MAILS, {}),
    "CSV as Enron's": ({"a.csv": csv_table(ENRON_ROWS)}, MAILS, {}),
    "CSV as Kaggle's": ({"spam.csv": KAGGLE}, BARE, {}),
    "CSV without subjects": ({"a.csv": csv_table(table("Label", None, "Text", values={"ham": "HAM"}))}, BARE, {}),
    "CSV of whole messages": ({"a.csv": csv_table([{"class": "ham", "message": LUNCH_MAIL}])}, HAM, {}),
    "CSV in UTF-16": ({"a.csv": csv_table(NAMED).encode("utf-16")}, MAILS, {}),
    "CSV in UTF-32": ({"a.csv": csv_table(NAMED).encode("utf-32")}, MAILS, {}),
    "CSV in Windows-1252": ({"a.csv": csv_table(NAMED).encode("cp1252")}, MAILS, {}),
    "CSV of a label": ({"ham.csv": "text\nSee you\n"}, [("ham", "", "See you")], {}),
    "CSV with columns of one's own": (
        {"a.csv": "Kind,Words\nham,See you\n", "feedback.jsonl": AUTOMATIC},
        [("ham", "", "See you"), ("spam", "", "You won")],
        {"columns": {"label": "Kind", "body": "Words"}},
    ),
    "a group that is no label": ({"a.csv": "text,Label,group\nhello,ham,spam team\n"}, [("ham", "", "hello")], {}),
    "a label and its number": ({"a.csv": "label,text,label_num\nham,hello,0\n"}, [("ham", "", "hello")], {}),
    "SMS Spam Collection": ({"sms/SMSSpamCollection": SMS_LINES}, SMS, {}),
    "SMS as .tsv": ({"sms.tsv": SMS_LINES}, SMS, {}),
    "SMS as .txt": ({"x/sms.txt": SMS_LINES}, SMS, {}),
    "SMS with a header": ({"sms.tsv": f"label\tsms\n{SMS_LINES}"}, SMS, {}),
    "CSV without a header": ({"a.csv": 'ham,"Lunch, at noon"\nspam,You won\n'}, [("ham", "", "Lunch, at noon")], {}),
    "spam: 0 and 1": ({"a.csv": csv_table(table("spam", None, "text", values=FLAGS))}, BARE, {}),
    "spam_flag: 1.0": ({"a.parquet": parquet([{"spam_flag": 1.0, "text": "Win"}])}, [("spam", "", "Win")], {}),
    "is_spam: true and false": (
        {"a.jsonl": json_lines(table("is_spam", None, "text", values={"ham": False, "spam": True}))},
        BARE,
        {},
    ),
    "labels of one's own": (
        {"a.csv": csv_table(table("label", None, "text", values=FLAGS))},
        BARE,
        {"label_map": {0: "ham", 1: "spam"}},
    ),
    "common words": (
        {"a.csv": csv_table(table("type", None, "text", values={"ham": "Legitimate", "spam": "phishing"}))},
        BARE,
        {},
    ),
    "JSON": ({"a.json": json.dumps(NAMED)}, MAILS, {}),
    "JSON lines": ({"a.jsonl": json_lines(table("label", "title", "text"))}, MAILS, {}),
    "gzip": ({"a.jsonl.gz": gzip.compress(LINES)}, MAILS, {}),
    "Zstandard": ({"a.ndjson.zst": zstd.compress(LINES)}, MAILS, {}),
    "xz": ({"a.jsonl.xz": lzma.compress(LINES)}, MAILS, {}),
    "bzip2": ({"a.JSONL.bz2": bz2.compress(LINES)}, MAILS, {}),
    "nulls": ({"a.jsonl": json_lines(NULLS)}, [("ham", "Lunch", ""), ("spam", "", "You won")], {}),
    "Parquet": ({"a.parquet": parquet(NAMED)}, MAILS, {}),
    "compressed Parquet": ({"a.parquet.gz": gzip.compress(parquet(NAMED))}, MAILS, {}),
    "JSON of SpamAssassin's package": ({"x/easy-ham-1/1.json": json.dumps(PACKAGE)}, HAM, {}),
}


def read(folder, dataset=emails, **params):
    findings = Findings()
    rows = dataset.read(folder, dataset.Params(**params), findings)
    return rows, [str(problem).replace(f"{folder}/", "") for problem in findings.problems], findings


@pytest.mark.parametrize("kind", OWN)
def test_own_mails_come_in(kind, tmp_path):
    files, expected, params = OWN[kind]
    put(tmp_path, files)
    rows, problems, _ = read(tmp_path, **params)
    assert problems == []
    contents = list(rows[["label", "subject", "body"]].itertuples(index=False, name=None))
    assert sorted(contents)[: len(expected)] == sorted(expected)


TICKETS = ("urgent", "can wait", "no_answer")
# Files, what the one problem names, and parameters.
MISTAKES: dict[str, tuple[dict[str, Content], list[str], dict]] = {
    "unknown label": (
        {"a.csv": "label,body\nham,a\nsmap,b\nsmap,c\n"},
        ["a.csv, row 3", "'smap'", "ham, spam", "--label smap=", "1 more"],
        {},
    ),
    "numbers": ({"a.csv": "label,body\n0,a\n1,b\n"}, ["a.csv, row 2", "'0', '1'", "--label 0=", "--label 1="], {}),
    "label of another dataset": (
        {"a.csv": "label,body\nurgent,a\nspam,b\n"},
        ["row 3", "'spam'", *TICKETS],
        {"labels": TICKETS},
    ),
    "flag among three labels": (
        {"a.csv": "urgent,body\n1,a\n0,b\n"},
        ["a.csv, row 3", "'0'", *TICKETS],
        {"labels": TICKETS},
    ),
    "messages without a label": (
        {"x/2024/1.eml": LUNCH_MAIL, "x/2024/2.eml": PRIZE_MAIL},
        ["x/2024: ", "2 files", "ham, spam", "--label-of '2024/*=ham'"],
        {},
    ),
    "Maildir without a label": ({"x/cur/1": LUNCH_MAIL, "x/new/2": LUNCH_MAIL}, ["x: ", "--label-of 'x/*=ham'"], {}),
    "mbox without a label": ({"x/2024.mbox": LUNCH_BOX}, ["x/2024.mbox: ", "--label-of '2024.mbox=ham'"], {}),
    "an archive of spam": ({"x/spam/archive/1.eml": PRIZE_MAIL}, ["x/spam/archive: ", "ham, spam"], {}),
    "spam or ham": ({"mixed/spam-or-ham/1.eml": LUNCH_MAIL}, ["mixed/spam-or-ham: ", "ham, spam"], {}),
    "table without labels": (
        {"a.csv": "subject,body\na,b\nc,d\n"},
        ["a.csv, row 2", "subject, body", "--column label=NAME", "--label-of 'a.csv=ham'", "1 more"],
        {},
    ),
    "table without texts": (
        {"a.csv": "words,spam\nyou won,1\n"},
        ["a.csv, row 2", "'body'", "words, spam", "--column body=NAME"],
        {},
    ),
    "no such column": ({"a.csv": "label,x\nham,a\n"}, ["row 2", "'words'", "label, x"], {"columns": {"body": "words"}}),
    "no such column of ours": ({"a.csv": "label,x\nham,a\n"}, ["'boddy'", "body"], {"columns": {"boddy": "x"}}),
    "no table and no mail": ({"program": b"\x7fELF\0\0"}, ["program: ", "binary", "jsonl"], {}),
    "number as a text": ({"a.jsonl": b'{"label": "ham", "body": 3}'}, ["a.jsonl, row 1", "'3'", "'body'"], {}),
    "list as a row": ({"a.jsonl": b"[]"}, ["a.jsonl, row 1", "'[]'"], {}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_problem_with_file_row_value_and_way_out(mistake, tmp_path):
    files, parts, params = MISTAKES[mistake]
    put(tmp_path, files)
    _, (problem,), _ = read(tmp_path, **params)
    assert [part for part in parts if part not in problem] == [], problem


DROPPED = {
    "empty file": ({"a.csv": ""}, "a.csv", "empty"),
    "blank mail": ({"ham/1.eml": "Subject: \nTo: b\n\n \n"}, "ham/1.eml", "no text"),
    "text in a column without a name": ({"a.csv": ",v1,v2,\n0,spam,You won, call now\n"}, "a.csv, row 2", "name"),
    "mails in mails in mails": (
        {
            "ham/1.eml": b"".join(
                b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(5_000)
            )
        },
        "ham/1.eml",
        "50 levels deep",
    ),
    "endless nesting": ({"ham/1.txt": "<html><xmp>" * 10_000}, "ham/1.txt", "20 times"),
}


@pytest.mark.parametrize("case", DROPPED)
def test_file_or_row_that_holds_nothing_or_is_unreadable_is_dropped_with_a_reason(case, tmp_path):
    files, row_id, reason = DROPPED[case]
    put(tmp_path, {**files, "z.csv": "label,body\nham,See you\n"})
    rows, problems, findings = read(tmp_path)
    assert (rows["body"].tolist(), problems) == (["See you"], [])
    (row,) = findings.dropped
    assert row["id"].endswith(row_id)
    assert reason in row["reason"]


OF_PATH = {  # the label that a path says; None for no label
    **{"spam/1.eml": "spam", "easy-ham-1/1.eml": "ham", "spam/x/ham.mbox": "ham", "spam/hamburg.eml": "spam"},
    **{"mixed/spam-or-ham/1.eml": None, "my-spam/January/1.eml": "spam", "spam/ham.csv": "ham"},
    **{"Spam.mbox/A4F0/Data/Messages/1.emlx": "spam", "x/2024/1.eml": None, "junk/ham/1.eml": "ham"},
    # a label that is denied
    **{"data/not-spam/1.eml": "ham", "x/no-spam/3.txt": "ham", "spam/nonspam/3.txt": "ham", "x/not_Ham/1": "spam"},
    # words that contradict each other
    **{"spam-mails/Inbox.mbox": None, "spam-mails/Junk.mbox": "spam", "spam/archive/1.eml": None},
    # the source's own topic
    **{"spam-data/2.txt": None, "archive/x/2.txt": None, "spam-data/legit/2.txt": "ham"},
}
OF_MESSAGE = {  # as programs call them by their subjects
    **{"ham/Re_ new spam filter.eml": "ham", "ham/Re_ not spam.eml": "ham", "x/not-spam/my spam.eml": "ham"},
    **{"spam-corpus/0001.1999-12-10.farmer.ham.txt": "ham", "x/bulk order for the archive.eml": None},
}


def test_label_of_a_path_is_that_of_the_nearest_name_and_for_a_message_of_its_folder():
    labels = Labels(LabelledSplit(label_map={"2024": "spam"}))
    assert {path: labels.of_path(PurePath(path)) for path in OF_PATH} == OF_PATH
    assert {path: labels.of_path(PurePath(path), is_message=True) for path in OF_MESSAGE} == OF_MESSAGE
    three = Labels(LabelledSplit(labels=("answer", "crisis", "decline")))
    assert three.of_path(PurePath("crisis/not-crisis/1.txt")) is None


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"labels": ["spam"]}, "labels"),
        ({"labels": ["a", "b", "a"]}, "twice"),
        ({"labels": ["a", ""]}, "labels.1"),
        ({"labels": ["a", "b!"]}, "labels.1"),  # names of MLflow's metrics
        ({"labels": [True, False]}, "labels.0"),
        ({"label_map": {True: "spam"}}, "label_map"),  # YAML's yes
        ({"label_map": {"1": "spma"}}, "'spma'"),
        ({"label_of": {"*": "spma"}}, "'spma'"),
    ],
)
def test_labels_of_params_are_words_that_stand_once(values, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        LabelledSplit(**values)


def test_requests_are_read_from_tables_alone(tmp_path):
    turns = "How do I kill a process?\nNow the parent"
    put(tmp_path, {"a.jsonl": json_lines([{"request": turns, "label": "answer"}]), "b.tsv": "crisis\tI want to die\n"})
    rows, problems, _ = read(tmp_path, requests)
    assert problems == []
    assert rows.to_numpy().tolist() == [
        ["a.jsonl#1", "a.jsonl", turns, "answer"],
        ["b.tsv#1", "b.tsv", "I want to die", "crisis"],
    ]
    put(tmp_path, {"answer/1.eml": LUNCH_MAIL})
    assert read(tmp_path, requests)[1][0].startswith("answer/1.eml: ")
