"""People's own labelled data: each kind comes in, or one line says what to do about it."""

import gzip
import json
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


def message(subject, body):
    head = f"From: a@example.org\nTo: b@example.org\nSubject: {subject}\nContent-Type: text/plain; charset=utf-8"
    return f"{head}\n\n{body}\n"


def box(subject, body):
    return f"From a@example.org Thu Aug 22 12:36:23 2002\n{message(subject, body)}\n"


LUNCH_MAIL, PRIZE_MAIL = message(*LUNCH[1:]), message(*PRIZE[1:])
LUNCH_BOX, PRIZE_BOX = box(*LUNCH[1:]), box(*PRIZE[1:])
NAMED = [{"label": label, "subject": subject, "body": body} for label, subject, body in MAILS]
ENRON = "Message ID,Subject,Message,Spam/Ham,Date\n7,Lunch,See you,ham,1999-12-10\n"
KAGGLE = 'v1,v2,,,\nham,"See you at noon.\nBring the café\'s bill.",,,\nspam,"A ""prize"", free!",,,\n'
SMS = [("ham", "", "Go until jurong point, crazy.. Only in bugis"), ("spam", "", '"FREE entry in 2 a wkly comp')]
SMS_LINES = "".join(f"{label}\t{body}\n" for label, _, body in SMS)
WIN = [("spam", "", "Win")]
PROPERTIES = '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict/></plist>\n'
APPLE = f"{len(LUNCH_MAIL.encode())}      \n{LUNCH_MAIL}{PROPERTIES}"
PACKAGE = [{"id": 1, "group": "easy-ham-1", "text": f"From a Thu Aug 22 12:36:23 2002\n{LUNCH_MAIL}"}]
AUTOMATIC = json_lines([{"label": "spam", "subject": None, "body": "You won"}])

# Files, the rows that come out, and parameters.
OWN: list[tuple[dict[str, Content], list[tuple[str, str, str]], dict]] = [
    ({"ham/1.eml": LUNCH_MAIL.encode("utf-16"), "spam/1.eml": PRIZE_MAIL}, MAILS, {}),
    ({"Inbox.mbox/A4F0/Data/Messages/1.emlx": APPLE}, HAM, {}),
    ({"Mail/Sent": LUNCH_BOX, "Mail/Junk.mbox": PRIZE_BOX}, MAILS, {}),
    ({"ham-24.gz": gzip.compress(LUNCH_BOX.encode()), "spam-24": PRIZE_BOX}, MAILS, {}),
    ({"inbox/cur/1": LUNCH_MAIL, "junk/new/1": PRIZE_MAIL, "inbox/.uidlist": "V1"}, MAILS, {}),
    ({"x/Freunde/1.eml": LUNCH_MAIL}, HAM, {"label_of": {"freunde/*": "ham"}}),
    ({"e/ham/1.farmer.ham.txt": "Subject: Lunch\r\nSee you"}, [("ham", "Lunch", "See you")], {}),
    ({"a.csv": csv_table(NAMED)}, MAILS, {}),
    ({"a.csv": csv_table(NAMED, delimiter=";")}, MAILS, {}),
    ({"enron.csv": ENRON}, [("ham", "Lunch", "See you")], {}),
    ({"spam.csv": KAGGLE}, BARE, {}),
    ({"a.csv": "Label,Text\nSPAM,Win\n"}, WIN, {}),
    ({"a.csv": csv_table([{"class": "ham", "message": LUNCH_MAIL}])}, HAM, {}),
    ({"spam.csv": "text\nWin\n"}, WIN, {}),
    (
        {"a.csv": "Kind,Words\nham,See you\n", "feedback.jsonl": AUTOMATIC},
        [("ham", "", "See you"), ("spam", "", "You won")],
        {"columns": {"label": "Kind", "body": "Words"}},
    ),
    ({"a.csv": "text,Label,group\nWin,spam,ham team\n"}, WIN, {}),
    ({"a.csv": "label,text,label_num\nspam,Win,1\n"}, WIN, {}),
    ({"sms/SMSSpamCollection": SMS_LINES}, SMS, {}),
    ({"x/sms.txt": SMS_LINES}, SMS, {}),
    ({"sms.tsv": f"label\tsms\n{SMS_LINES}"}, SMS, {}),
    ({"a.csv": 'ham,"Lunch, at noon"\nspam,You won\n'}, [("ham", "", "Lunch, at noon")], {}),
    ({"a.csv": "spam,text\n1,Win\n"}, WIN, {}),
    ({"a.parquet": parquet([{"spam_flag": 1.0, "text": "Win"}])}, WIN, {}),
    ({"a.jsonl": b'{"is_ham": false, "text": "Win"}'}, WIN, {}),
    ({"a.csv": "label,text\n1,Win\n"}, WIN, {"label_map": {0: "ham", 1: "spam"}}),
    ({"a.csv": "type,text\nphishing,Win\n"}, WIN, {}),
    ({"a.json": json.dumps(NAMED)}, MAILS, {}),
    ({"a.ndjson.zst": zstd.compress(json_lines(NAMED))}, MAILS, {}),
    ({"a.parquet.gz": gzip.compress(parquet(NAMED))}, MAILS, {}),
    ({"x/easy-ham-1/1.json": json.dumps(PACKAGE)}, HAM, {}),
]


def read(folder, dataset=emails, **params):
    findings = Findings()
    rows = dataset.read(folder, dataset.Params(**params), findings)
    return rows, [str(problem).replace(f"{folder}/", "") for problem in findings.problems], findings


@pytest.mark.parametrize(("files", "expected", "params"), OWN)
def test_own_mails_come_in(files, expected, params, tmp_path):
    put(tmp_path, files)
    rows, problems, _ = read(tmp_path, **params)
    assert problems == []
    contents = sorted(map(tuple, rows[["label", "subject", "body"]].to_numpy().tolist()))
    assert contents[: len(expected)] == sorted(expected)


TICKETS = ("urgent", "can wait", "no_answer")
# A file, its content, what the one problem names, and parameters.
MISTAKES: list[tuple[str, Content, list[str], dict]] = [
    ("a.csv", "label,body\nham,a\nsmap,b\nsmap,c\n", ["a.csv, row 3", "'smap'", "ham, spam", "1 more"], {}),
    ("a.csv", "label,body\n0,a\n1,b\n", ["a.csv, row 2", "'0', '1'", "--label 0=", "--label 1="], {}),
    ("a.csv", "label,body\nurgent,a\nspam,b\n", ["row 3", "'spam'", *TICKETS], {"labels": TICKETS}),
    ("a.csv", "urgent,body\n1,a\n0,b\n", ["a.csv, row 3", "'0'", *TICKETS], {"labels": TICKETS}),
    ("x/2024/1.eml", LUNCH_MAIL, ["x/2024: ", "ham, spam", "--label-of '2024/*=ham'"], {}),
    ("x/cur/1", LUNCH_MAIL, ["x: ", "--label-of 'x/*=ham'"], {}),
    ("x/2024.mbox", LUNCH_BOX, ["x/2024.mbox: ", "--label-of '2024.mbox=ham'"], {}),
    ("a.csv", "subject,body\na,b\nc,d\n", ["a.csv, row 2", "subject, body", "--column label=NAME", "1 more"], {}),
    ("a.csv", "words,spam\nyou won,1\n", ["a.csv, row 2", "'body'", "words, spam", "--column body=NAME"], {}),
    ("a.csv", "label,x\nham,a\n", ["row 2", "'words'", "label, x"], {"columns": {"body": "words"}}),
    ("a.csv", "label,x\nham,a\n", ["'boddy'", "body"], {"columns": {"boddy": "x"}}),
    ("program", b"\x7fELF\0\0", ["program: ", "binary", "jsonl"], {}),
    ("a.jsonl", b'{"label": "ham", "body": 3}', ["a.jsonl, row 1", "'3'", "'body'"], {}),
    ("a.jsonl", b"[]", ["a.jsonl, row 1", "'[]'"], {}),
]


@pytest.mark.parametrize(("name", "content", "words", "params"), MISTAKES)
def test_mistake_is_one_problem_with_file_row_value_and_way_out(name, content, words, params, tmp_path):
    put(tmp_path, {name: content})
    _, (problem,), _ = read(tmp_path, **params)
    assert all(word in problem for word in words), problem


NESTED = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(5_000))


@pytest.mark.parametrize(
    ("name", "content", "row_id"),
    [
        ("a.csv", "", "a.csv"),
        ("ham/1.eml", "Subject: \nTo: b\n\n \n", "ham/1.eml"),
        ("a.csv", ",v1,v2,\n0,spam,You won, call now\n", "a.csv, row 2"),
        ("ham/1.eml", NESTED, "ham/1.eml"),
        ("ham/1.txt", "<html><xmp>" * 10_000, "ham/1.txt"),
    ],
)
def test_file_or_row_that_holds_nothing_or_is_unreadable_is_dropped(name, content, row_id, tmp_path):
    put(tmp_path, {name: content, "z.csv": "label,body\nham,See you\n"})
    rows, problems, findings = read(tmp_path)
    assert (rows["body"].tolist(), problems) == (["See you"], [])
    (row,) = findings.dropped
    assert row["id"].endswith(row_id)


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
