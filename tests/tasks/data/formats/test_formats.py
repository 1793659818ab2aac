"""Every form in which people have their data: a line of params.yaml, fetched and read as the stages do it."""

import bz2
import csv
import gzip
import io
import json
import lzma
import mailbox
import tarfile
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.compression import zstd
from tasks.data.formats.sniff import sniff
from tasks.data.sources import Source, fetch_source
from tasks.datasets import corpus, emails, instructions

SPLIT = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}
TEXTS = ["It was the best of times.\n\nIt was the worst.", "Call me Ishmael, and don\u2019t ask “why”."]
MAILS = [("ham", "Lunch", "See you at noon.\nBring the café's bill."), ("spam", "You won", 'A "prize", free!')]
ASKED = [("Name a color.", "", "Blue."), ("Add the numbers.", "1, 2", "3")]


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: list[dict], **options: str) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0], **options)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def parquet(rows: list[dict]) -> bytes:
    return pd.DataFrame(rows).to_parquet(index=False)


def zipped(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, str], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return stream.getvalue()


def read(dataset, folder: Path, line: str | dict, monkeypatch: pytest.MonkeyPatch, **params: object) -> pd.DataFrame:
    """What the dataset reads of the one source, whose paths begin in the folder as in a project."""
    monkeypatch.chdir(folder)
    raw = folder / "data/raw"
    raw.mkdir(parents=True)
    fetch_source.fn(Source.model_validate(line), raw)
    if dataset is instructions:
        params |= {"rows_a_kind": 0}
    return dataset.DATASET.read(raw, dataset.Params(**SPLIT, **params))


# ---- the corpus

FILES = {"a.txt": TEXTS[0], "b/c.txt": TEXTS[1]}
ROWS = [{"text": text} for text in TEXTS]
PARAGRAPHS = [text.replace("\n\n", "</p>\n<p>") for text in TEXTS]
PAGES = [f"<html><head><title>T</title></head><body><p>{text}</p></body></html>" for text in PARAGRAPHS]
CORPUS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a text": ("book.txt", lambda f: put(f / "book.txt", "\n\n".join(TEXTS))),
    "Markdown": ("notes/*.md", lambda f: [put(f / f"notes/{n}.md", text) for n, text in enumerate(TEXTS)]),
    "JSON lines": ("rows.jsonl", lambda f: put(f / "rows.jsonl", json_lines(ROWS))),
    "JSON lines by their content": ("rows.dump", lambda f: put(f / "rows.dump", json_lines(ROWS))),
    "JSON": ("rows.json", lambda f: put(f / "rows.json", json.dumps(ROWS, indent=1))),
    "CSV": ("rows.csv", lambda f: put(f / "rows.csv", table([{"id": 1, "Content": text} for text in TEXTS]))),
    "Parquet": ("rows.parquet", lambda f: put(f / "rows.parquet", parquet(ROWS))),
    "HTML": ("site", lambda f: [put(f / f"site/{n}.html", page) for n, page in enumerate(PAGES)]),
    "a folder": ("texts", lambda f: [put(f / "texts" / name, text) for name, text in FILES.items()]),
    "a folder with a slash": ("texts/", lambda f: [put(f / "texts" / name, text) for name, text in FILES.items()]),
    "a glob over folders": ("t/**/*.txt", lambda f: [put(f / "t" / name, text) for name, text in FILES.items()]),
    "gzip": ("rows.jsonl.gz", lambda f: put(f / "rows.jsonl.gz", gzip.compress(json_lines(ROWS).encode()))),
    "Zstandard": (
        "rows.jsonl.zst",
        lambda f: put(f / "rows.jsonl.zst", zstd.compress(json_lines(ROWS).encode())),
    ),
    "xz": ("rows.jsonl.xz", lambda f: put(f / "rows.jsonl.xz", lzma.compress(json_lines(ROWS).encode()))),
    "bzip2": ("rows.jsonl.bz2", lambda f: put(f / "rows.jsonl.bz2", bz2.compress(json_lines(ROWS).encode()))),
    "zip": ("texts.zip", lambda f: put(f / "texts.zip", zipped(FILES))),
    "zip by its content": ("texts.backup", lambda f: put(f / "texts.backup", zipped(FILES))),
    "tar": ("texts.tar", lambda f: put(f / "texts.tar", tarred(FILES))),
    "tar.gz by its content": ("texts", lambda f: put(f / "texts", tarred(FILES, "w:gz"))),
    "tar.zst": (
        "texts.tar.zst",
        lambda f: put(f / "texts.tar.zst", zstd.compress(tarred(FILES))),
    ),
    "tar.xz": ("texts.tar.xz", lambda f: put(f / "texts.tar.xz", tarred(FILES, "w:xz"))),
    "an archive in a folder": ("all", lambda f: put(f / "all/part-1.zip", zipped(FILES))),
    "UTF-16": ("book.txt", lambda f: put(f / "book.txt", "\n\n".join(TEXTS).encode("utf-16"))),
    "a mixed folder": (
        "mixed",
        lambda f: (
            put(f / "mixed/a.md", TEXTS[0]),
            put(f / "mixed/b.jsonl.gz", gzip.compress(json_lines(ROWS[1:]).encode())),
        ),
    ),
}


@pytest.mark.parametrize("form", CORPUS)
def test_a_corpus_is_read_from(form, tmp_path, monkeypatch):
    line, write = CORPUS[form]
    write(tmp_path)
    found = read(corpus, tmp_path, line, monkeypatch)["text"].tolist()
    expected = [text.replace("\u2019", "'").replace("“", '"').replace("”", '"') for text in TEXTS]
    assert "\n\n".join(found) == "\n\n".join(expected)


def test_a_corpus_is_read_from_a_text_of_another_encoding_that_its_source_names(tmp_path, monkeypatch):
    put(tmp_path / "old.txt", "“déjà vu”".encode("windows-1252"))
    line = {"source": "old.txt", "encoding": "windows-1252"}
    assert read(corpus, tmp_path, line, monkeypatch)["text"].tolist() == ['"déjà vu"']


def test_a_large_text_is_read_in_parts_that_end_with_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.data.formats.documents.PART", 1000)
    text = "\n".join(f"line {n} of a long book" for n in range(100))
    put(tmp_path / "book.txt", text)
    found = read(corpus, tmp_path, "book.txt", monkeypatch)
    assert found["id"].tolist() == ["book/book.txt#1", "book/book.txt#2", "book/book.txt#3"]
    assert "\n".join(found["text"]) == text


def test_a_column_of_another_name_is_named_in_the_parameters(tmp_path, monkeypatch):
    put(tmp_path / "rows.csv", "number,speech\n1,Fellow citizens\n")
    assert read(corpus, tmp_path, "rows.csv", monkeypatch, columns={"text": "speech"})["text"].tolist() == [
        "Fellow citizens"
    ]


# ---- emails


def message(subject: str, body: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@example.org", "b@example.org", subject
    made.set_content(body)
    return made


def write_mailbox(path: Path, kind: type[mailbox.Mailbox], *mails: tuple[str, str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    box = kind(str(path), create=True)
    for _, subject, body in mails:
        box.add(message(subject, body))
    box.close()


def columns(label: str, subject: str | None, body: str, values: dict[str, object] | None = None) -> list[dict]:
    return [
        {label: (values or {}).get(what, what), **({subject: about} if subject else {}), body: text}
        for what, about, text in MAILS
    ]


EMAILS: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "folders of .eml": (
        "mail",
        lambda f: [put(f / f"mail/{what}/1.eml", message(*rest).as_bytes()) for what, *rest in MAILS],
        True,
    ),
    "mbox": (
        "mail/*.mbox",
        lambda f: [write_mailbox(f / f"mail/{mail[0]}.mbox", mailbox.mbox, mail) for mail in MAILS],
        True,
    ),
    "compressed mbox by its content": (
        "mail",
        lambda f: [
            (
                write_mailbox(f / f"{mail[0]}", mailbox.mbox, mail),
                put(f / f"mail/{mail[0]}-2024.gz", gzip.compress((f / mail[0]).read_bytes())),
            )
            for mail in MAILS
        ],
        True,
    ),
    "Maildir": (
        "mail",
        lambda f: [write_mailbox(f / f"mail/{mail[0]}", mailbox.Maildir, mail) for mail in MAILS],
        True,
    ),
    "folders in a Maildir": (
        "Maildir",
        lambda f: [write_mailbox(f / f"Maildir/.{mail[0].title()}", mailbox.Maildir, mail) for mail in MAILS],
        True,
    ),
    "folders of texts, as Enron-Spam": (
        "enron1",
        lambda f: [
            put(f / f"enron1/{what}/0001.1999-12-10.farmer.{what}.txt", f"Subject: {subject}\r\n{body}")
            for what, subject, body in MAILS
        ],
        True,
    ),
    "CSV": ("mails.csv", lambda f: put(f / "mails.csv", table(columns("label", "subject", "body"))), True),
    "CSV without a subject": (
        "mails.csv",
        lambda f: put(f / "mails.csv", table(columns("label", None, "text"))),
        False,
    ),
    "CSV with semicolons": (
        "mails.csv",
        lambda f: put(f / "mails.csv", table(columns("label", "subject", "body"), delimiter=";")),
        True,
    ),
    "CSV as Enron's": (
        "enron.csv",
        lambda f: put(
            f / "enron.csv",
            table(
                [
                    {"Message ID": 7, "Subject": subject, "Message": body, "Spam/Ham": what, "Date": "1999-12-10"}
                    for what, subject, body in MAILS
                ]
            ),
        ),
        True,
    ),
    "CSV as Kaggle's of the SMS collection": (
        "spam.csv",
        lambda f: put(
            f / "spam.csv", "v1,v2,,,\n" + "".join(f'{a},"{c.replace(chr(34), chr(34) * 2)}",,,\n' for a, _, c in MAILS)
        ),
        False,
    ),
    "TSV with quotes": (
        "mails.tsv",
        lambda f: put(
            f / "mails.tsv", table(columns("label", "subject", "body"), delimiter="\t", quoting=csv.QUOTE_ALL)
        ),
        True,
    ),
    "CSV with whole messages": (
        "mails.csv",
        lambda f: put(
            f / "mails.csv", table([{"class": what, "message": message(*rest).as_string()} for what, *rest in MAILS])
        ),
        True,
    ),
    "labels in another case": (
        "mails.csv",
        lambda f: put(f / "mails.csv", table(columns("Label", "Subject", "Body", {"ham": "HAM", "spam": "Spam "}))),
        True,
    ),
    "JSON lines": (
        "mails.jsonl",
        lambda f: put(f / "mails.jsonl", json_lines(columns("label", "title", "text"))),
        True,
    ),
    "JSON": ("mails.json", lambda f: put(f / "mails.json", json.dumps(columns("label", "subject", "body"))), True),
    "Parquet": (
        "mails.parquet",
        lambda f: put(f / "mails.parquet", parquet(columns("label", "subject", "text"))),
        True,
    ),
    "a zip of .eml": (
        "mail.zip",
        lambda f: put(f / "mail.zip", zipped({f"{a}/1.eml": message(b, c).as_string() for a, b, c in MAILS})),
        True,
    ),
}


def said(found: pd.DataFrame) -> list[tuple[str, str, str]]:
    return sorted(found[["label", "subject", "body"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("form", EMAILS)
def test_emails_are_read_from(form, tmp_path, monkeypatch):
    line, write, has_subjects = EMAILS[form]
    write(tmp_path)
    found = said(read(emails, tmp_path, line, monkeypatch))
    assert found == sorted((label, subject if has_subjects else "", body) for label, subject, body in MAILS)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_labels_may_be_numbers_that_the_parameters_explain(form, tmp_path, monkeypatch):
    rows = columns("spam", None, "text", {"ham": 0, "spam": 1})
    write = {"csv": table, "jsonl": json_lines, "parquet": parquet}[form]
    put(tmp_path / f"mails.{form}", write(rows))
    found = read(emails, tmp_path, f"mails.{form}", monkeypatch, label_map={0: "ham", 1: "spam"})
    assert said(found) == [(label, "", body) for label, _, body in MAILS]


SMS = [
    "ham\tGo until jurong point, crazy.. Available only in bugis n great world",
    'spam\t"FREE entry in 2 a wkly comp; text FA to 87121',
    'ham\tHe said "hello" and left',
    'spam\t"URGENT!" You\'ve won £900',
]


def test_the_sms_collection_has_no_header_no_ending_and_quotes_that_enclose_nothing(tmp_path, monkeypatch):
    put(tmp_path / "SMSSpamCollection", "\n".join(SMS) + "\n")
    found = read(emails, tmp_path, "SMSSpamCollection", monkeypatch)
    assert found["id"].tolist() == [f"SMSSpamCollection/SMSSpamCollection#{n}" for n in (1, 2, 3, 4)]
    assert found[["label", "body"]].to_numpy().tolist() == [line.split("\t") for line in SMS]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("spam/1.eml", "spam"),
        ("easy-ham-1/1.eml", "ham"),
        ("spam/archive/ham.mbox", "ham"),
        ("spam/hamburg.eml", "spam"),
        ("data/not-spam/1.eml", None),
        ("mixed/spam-or-ham/1.eml", None),
        ("ham/SPAM_or_HAM.eml", "ham"),
        ("spam-data/not-spam/1.eml", None),
        ("spam-data/legit/2.txt", None),
        ("x/no-spam/3.txt", None),
        ("spam/nonspam/3.txt", None),
        ("ham/not-spam/3.txt", "ham"),
        ("my-spam/January/1.eml", "spam"),
        ("Spam.mbox/A4F0/Data/Messages/1.emlx", "spam"),
        ("spam/archive/3.eml", "spam"),
        ("spam-data/4.csv", "spam"),
        ("spam/ham.csv", "ham"),
        ("ham/not-spam.mbox", "ham"),
    ],
)
def test_the_nearest_name_that_says_one_label_counts(path, label):
    assert emails.Labels(("ham", "spam")).of_path(Path(path)) == label


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("ham/Re_ new spam filter.eml", "ham"),
        ("ham/Re_ not spam.eml", "ham"),
        ("x/not-spam/my spam.eml", None),
        ("spam-corpus/0001.1999-12-10.farmer.ham.txt", "ham"),
        ("ham/Stop. Spam. Now.eml", "ham"),
    ],
)
def test_of_one_message_folders_say_the_label_before_its_name_which_is_its_subject(path, label):
    assert emails.Labels(("ham", "spam")).of_message(Path(path)) == label


HELD = "From: Anna <anna@example.org>\nSubject: Grüße\nContent-Type: text/plain; charset=utf-8\n\nWir sehen uns.\n"


@pytest.mark.parametrize("name", ["spam/1.eml", "spam.mbox"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_messages_with_a_mark_of_their_encoding_keep_their_headers(name, encoding, tmp_path, monkeypatch):
    postmark = "From anna@example.org Thu Aug 22 12:36:23 2002\n" * name.endswith(".mbox")
    put(tmp_path / "mail" / name, (postmark + HELD).encode(encoding))
    assert said(read(emails, tmp_path, "mail", monkeypatch)) == [("spam", "Grüße", "Wir sehen uns.")]


BOX = """\
From anna@example.org Thu Aug 22 12:36:23 2002
From: anna@example.org
Subject: One

first
From here it is far.
From Monday 2 Jan 10:00 on, as in 2024
To: this we say yes
From bert@example.org Fri Aug 23 12:36:23 2002
From: bert@example.org
Subject: Two

second
"""


@pytest.mark.parametrize("name", ["ham.mbox", "ham/box.eml"])
def test_messages_without_a_blank_line_between_them_are_several_whatever_the_file_is_called(
    name, tmp_path, monkeypatch
):
    put(tmp_path / "mail" / name, BOX)
    first = "first\nFrom here it is far.\nFrom Monday 2 Jan 10:00 on, as in 2024\nTo: this we say yes"
    assert said(read(emails, tmp_path, "mail", monkeypatch)) == [("ham", "One", first), ("ham", "Two", "second")]


def test_a_message_of_apple_mail_is_read_without_its_length_and_properties(tmp_path, monkeypatch):
    properties = '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict/></plist>\n'
    put(tmp_path / "mail/ham/1.emlx", f"{len(HELD.encode())}      \n{HELD}{properties}")
    assert said(read(emails, tmp_path, "mail", monkeypatch)) == [("ham", "Grüße", "Wir sehen uns.")]


def test_a_message_of_apple_mail_without_its_length_is_refused(tmp_path, monkeypatch):
    put(tmp_path / "other/ham/1.emlx", HELD)
    with pytest.raises(UserError, match=r"1\.emlx, row 1: not the length of the message .*; export it as \.eml"):
        read(emails, tmp_path, "other", monkeypatch)


def test_of_a_table_without_a_header_a_column_of_dates_is_no_body(tmp_path, monkeypatch):
    put(tmp_path / "a.csv", "2024-01-01 10:00:00,ham,See you\n2024-01-02 10:00:00,spam,You won\n")
    assert said(read(emails, tmp_path, "a.csv", monkeypatch)) == [("ham", "", "See you"), ("spam", "", "You won")]


def test_a_table_without_a_header_whose_body_may_be_two_columns_is_refused(tmp_path, monkeypatch):
    put(tmp_path / "a.csv", "ham,Lunch on Friday,ok\nspam,You won,Reply now to claim it\n")
    with pytest.raises(UserError, match=r"a\.csv, row 1: no header says whether column 2 or 3 is the body; add one"):
        read(emails, tmp_path, "a.csv", monkeypatch)


def test_a_column_called_group_is_no_label_where_another_is(tmp_path, monkeypatch):
    put(tmp_path / "a.csv", "text,Label,group\nhello there,ham,team spam reports\n")
    assert said(read(emails, tmp_path, "a.csv", monkeypatch)) == [("ham", "", "hello there")]


def test_a_label_and_its_number_are_no_two_labels(tmp_path, monkeypatch):
    put(tmp_path / "a.csv", "label,text,label_num\nham,hello there,0\n")
    assert said(read(emails, tmp_path, "a.csv", monkeypatch)) == [("ham", "", "hello there")]


def test_a_row_whose_text_runs_on_into_a_column_without_a_name_is_left_out_and_said(tmp_path, monkeypatch, caplog):
    put(tmp_path / "a.csv", ",v1,v2,,\n0,ham,hello there,,\n1,spam,You won, call now,\n2,ham,See you,,7\nx,ham,Bye,,\n")
    found = read(emails, tmp_path, "a.csv", monkeypatch)
    assert said(found) == [("ham", "", "Bye"), ("ham", "", "See you"), ("ham", "", "hello there")]
    reason = "row 3: column 4 has no name and holds ' call now'; name it, or quote what has commas"
    assert "1 rows left out" in caplog.text
    assert reason in caplog.text


def test_a_line_of_excel_that_says_the_separator_is_no_header(tmp_path, monkeypatch):
    put(tmp_path / "a.csv", 'sep=;\r\nlabel;body\r\nham;"one, two"\r\n')
    found = read(emails, tmp_path, "a.csv", monkeypatch)
    assert said(found) == [("ham", "", "one, two")]
    assert found["id"].tolist() == ["a/a.csv#3"]


def test_quotes_around_words_of_a_tsv_enclose_no_cell(tmp_path, monkeypatch):
    put(tmp_path / "a.tsv", 'ham\tSee you\nspam\t"FREE" call "NOW"\n')
    assert said(read(emails, tmp_path, "a.tsv", monkeypatch)) == [
        ("ham", "", "See you"),
        ("spam", "", '"FREE" call "NOW"'),
    ]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_body_that_is_null_is_empty_as_a_cell_of_a_table(form, tmp_path, monkeypatch):
    rows = [{"label": "ham", "subject": "Lunch", "body": None}, {"label": "spam", "subject": None, "body": "You won"}]
    put(tmp_path / f"a.{form}", {"jsonl": json_lines, "parquet": parquet}[form](rows))
    assert said(read(emails, tmp_path, f"a.{form}", monkeypatch)) == [("ham", "Lunch", ""), ("spam", "", "You won")]


# ---- instructions


def turns(role: str, text: str, user: str, assistant: str) -> list[dict]:
    return [
        {
            "conversations" if role == "from" else "messages": [
                {role: user, text: asked},
                {role: assistant, text: answer},
            ]
        }
        for asked, answer in ((f"{a}\n{b}".strip(), c) for a, b, c in ASKED)
    ]


ALPACA = [{"instruction": a, "input": b, "output": c} for a, b, c in ASKED]
INSTRUCTIONS: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "JSON as Alpaca's": ("alpaca.json", lambda f: put(f / "alpaca.json", json.dumps(ALPACA, indent=4)), True),
    "JSON lines with nulls": (
        "a.jsonl",
        lambda f: put(
            f / "a.jsonl", json_lines([{**row, "input": row["input"] or None, "system": None} for row in ALPACA])
        ),
        True,
    ),
    "CSV": (
        "a.csv",
        lambda f: put(f / "a.csv", table([{"Prompt": a, "Context": b, "Response": c} for a, b, c in ASKED])),
        True,
    ),
    "Parquet": ("a.parquet", lambda f: put(f / "a.parquet", parquet(ALPACA)), True),
    "ShareGPT": ("s.json", lambda f: put(f / "s.json", json.dumps(turns("from", "value", "human", "gpt"))), False),
    "OpenAI messages": (
        "m.jsonl",
        lambda f: put(f / "m.jsonl", json_lines(turns("role", "content", "user", "assistant"))),
        False,
    ),
    "messages in Parquet": (
        "m.parquet",
        lambda f: put(f / "m.parquet", parquet(turns("role", "content", "user", "assistant"))),
        False,
    ),
}


@pytest.mark.parametrize("form", INSTRUCTIONS)
def test_instructions_are_read_from(form, tmp_path, monkeypatch):
    line, write, has_inputs = INSTRUCTIONS[form]
    write(tmp_path)
    found = read(instructions, tmp_path, line, monkeypatch)[["instruction", "input", "output"]]
    expected = [(a, b, c) if has_inputs else (f"{a}\n{b}".strip(), "", c) for a, b, c in ASKED]
    assert list(found.itertuples(index=False, name=None)) == expected
    assert len(found) == 2


def test_a_conversation_is_its_last_answer_with_what_was_said_before(tmp_path, monkeypatch):
    said = [("system", "Be brief."), ("assistant", "Hello!"), ("user", "Hi."), ("assistant", "What is it?")]
    said += [("user", "Name a color."), ("user", "And no other."), ("assistant", "Blue."), ("user", "Thanks.")]
    put(tmp_path / "m.json", json.dumps([{"messages": [{"role": who, "content": text} for who, text in said]}]))
    row = read(instructions, tmp_path, "m.json", monkeypatch).iloc[0]
    assert (row["system"], row["history"]) == ("Be brief.", ["Hi.", "What is it?"])
    assert (row["instruction"], row["output"]) == ("Name a color.\nAnd no other.", "Blue.")


def test_rows_a_line_of_which_the_first_is_long_are_rows_whatever_the_file_is_called(tmp_path, monkeypatch):
    rows = [{"instruction": "Count. " * 20_000, "output": "1"}, {"instruction": "Name a color.", "output": "Blue."}]
    put(tmp_path / "a.json", json_lines(rows))
    assert read(instructions, tmp_path, "a.json", monkeypatch)["output"].tolist() == ["1", "Blue."]


def test_columns_of_ones_own_table_leave_feedback_and_other_sources_as_they_are(tmp_path, monkeypatch):
    names = {"label": "Kind", "body": "Message"}
    put(tmp_path / "mine/a.csv", "Kind,Message\nham,See you\n")
    put(tmp_path / "mine/feedback.jsonl", json_lines([{"label": "spam", "subject": "", "body": "You won"}]))
    found = read(emails, tmp_path, "mine", monkeypatch, columns=names)
    assert said(found) == [("ham", "", "See you"), ("spam", "", "You won")]


# ---- what a form is, and what is none


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.txt", "Once upon a time", "text"),
        ("a.txt", '[Chapter 1]\n{"a": 1}', "text"),
        ("a", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.jsonl", '[\n {"a": 1}\n]', "json"),
        ("a", "From a@b.org Thu Aug 22 12:36:23 2002\nTo: b\n\nx", "mbox"),
        ("a", "Received: from x\n by y\nSubject: z\n\nx", "eml"),
        ("a", "From here on: nothing\nis as it was", "text"),
        ("a", "  <!DOCTYPE html>\n<p>", "html"),
        ("a", "ham\tone\nspam\ttwo\n", "csv"),
        ("a.txt", "Dear Anna,\tsee you\n", "text"),
        ("a.txt", "ham\tone\nspam\ttwo\n", "csv"),
        ("a", "From ripley at stats.ox.ac.uk  Wed Jan  1 09:00:00 2003\nTo: b\n\nx", "mbox"),
        ("a", 'From "anna maria"@b.org\tThu Aug 22 12:36:23 +0200 (Summer Time) 2002\nTo: b\n\nx', "mbox"),
        ("a", "From 10:00 to 12:30 we meet, as in 2024\n\nx", "text"),
        ("a.csv", "", "empty"),
        ("a.bin", b"\x7fELF\0\0", "binary"),
    ],
)
def test_a_form_is_found_by_the_content(name, content, form, tmp_path):
    assert sniff(put(tmp_path / name, content)) == form


@pytest.mark.parametrize("dataset", [corpus, emails, instructions])
def test_what_is_no_form_of_a_dataset_is_said_with_those_that_are(dataset, tmp_path, monkeypatch):
    put(tmp_path / "program", b"\x7fELF\0\0")
    with pytest.raises(UserError, match=r"program/program: no .*jsonl"):
        read(dataset, tmp_path, "program", monkeypatch)


def test_a_document_of_an_office_program_is_refused_with_a_way_out(tmp_path):
    put(tmp_path / "mails.xlsx", zipped({"[Content_Types].xml": "<Types/>"}))
    with pytest.raises(UserError, match=r"mails\.xlsx: a document of an office program; save it as \.csv"):
        fetch_source.fn(Source(source=str(tmp_path / "mails.xlsx")), tmp_path)
