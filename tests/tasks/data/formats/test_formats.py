"""Every form in which people have their data: a line of params.yaml, fetched and read as the stages do it."""

import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pandas as pd
import pytest

from llm.errors import UserError
from tasks.data.compression import zstd
from tasks.data.sniff import sniff
from tasks.data.sources import Source, write_source
from tasks.datasets import corpus, emails, instructions

SPLIT = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}
TEXTS = ["It was the best of times.\n\nIt was the worst.", "Call me Ishmael, and don\u2019t ask “why”."]
MAILS = [("ham", "Lunch", "See you at noon.\nBring the café's bill."), ("spam", "You won", 'A "prize", free!')]
ASKED = [("Name a color.", "", "Blue."), ("Add the numbers.", "1, 2", "3")]
Content = str | bytes


def put(folder: Path, files: dict[str, Content]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


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


@pytest.fixture
def read(tmp_path, monkeypatch):
    """What a dataset reads of files, by the one source of a line whose paths begin in the folder as in a project."""

    def fetched(dataset, line: str | dict, files: dict[str, Content], **params: object) -> pd.DataFrame:
        put(tmp_path, files)
        monkeypatch.chdir(tmp_path)
        raw = tmp_path / "data/raw"
        raw.mkdir(parents=True)
        write_source(Source.model_validate(line), raw)
        params |= {"rows_a_kind": 0} if dataset is instructions else {}
        return dataset.DATASET.read(raw, dataset.Params(**SPLIT, **params))

    return fetched


# ---- the corpus

FILES = {"a.txt": TEXTS[0], "b/c.txt": TEXTS[1]}
IN_FOLDER = {f"texts/{name}": text for name, text in FILES.items()}
ROWS = [{"text": text} for text in TEXTS]
LINES = json_lines(ROWS)
PARAGRAPHS = [text.replace("\n\n", "</p>\n<p>") for text in TEXTS]
PAGES = [f"<html><head><title>T</title></head><body><p>{text}</p></body></html>" for text in PARAGRAPHS]
CORPUS: dict[str, tuple[str, dict[str, Content]]] = {
    "a text": ("book.txt", {"book.txt": "\n\n".join(TEXTS)}),
    "Markdown": ("notes/*.md", {f"notes/{n}.md": text for n, text in enumerate(TEXTS)}),
    "JSON lines": ("rows.jsonl", {"rows.jsonl": LINES}),
    "JSON lines by their content": ("rows.dump", {"rows.dump": LINES}),
    "JSON": ("rows.json", {"rows.json": json.dumps(ROWS, indent=1)}),
    "CSV": ("rows.csv", {"rows.csv": table([{"id": 1, "Content": text} for text in TEXTS])}),
    "Parquet": ("rows.parquet", {"rows.parquet": parquet(ROWS)}),
    "HTML": ("site", {f"site/{n}.html": page for n, page in enumerate(PAGES)}),
    "a folder": ("texts", IN_FOLDER),
    "a glob over folders": ("texts/**/*.txt", IN_FOLDER),
    "gzip": ("rows.jsonl.gz", {"rows.jsonl.gz": gzip.compress(LINES)}),
    "Zstandard": ("rows.jsonl.zst", {"rows.jsonl.zst": zstd.compress(LINES)}),
    "xz": ("rows.jsonl.xz", {"rows.jsonl.xz": lzma.compress(LINES)}),
    "zip": ("texts.zip", {"texts.zip": zipped(FILES)}),
    "tar": ("texts.tar", {"texts.tar": tarred(FILES)}),
    "tar.gz by its content": ("texts", {"texts": tarred(FILES, "w:gz")}),
    "tar.zst": ("texts.tar.zst", {"texts.tar.zst": zstd.compress(tarred(FILES))}),
    "an archive in a folder": ("all", {"all/part-1.zip": zipped(FILES)}),
    "a mixed folder": ("mixed", {"mixed/a.md": TEXTS[0], "mixed/b.jsonl.gz": gzip.compress(json_lines(ROWS[1:]))}),
}


@pytest.mark.parametrize("form", CORPUS)
def test_a_corpus_is_read_from(form, read):
    found = read(corpus, *CORPUS[form])["text"].tolist()
    expected = [text.replace("\u2019", "'").replace("“", '"').replace("”", '"') for text in TEXTS]
    assert "\n\n".join(found) == "\n\n".join(expected)


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16"])
def test_a_corpus_is_read_from_a_text_of_another_encoding_that_its_source_names(encoding, read):
    line = {"source": "old.txt", "encoding": encoding}
    assert read(corpus, line, {"old.txt": "“déjà vu”".encode(encoding)})["text"].tolist() == ['"déjà vu"']


def test_a_large_text_is_read_in_parts_that_end_with_lines(read, monkeypatch):
    monkeypatch.setattr("tasks.data.formats.documents.PART", 1000)
    text = "\n".join(f"line {n} of a long book" for n in range(100))
    found = read(corpus, "book.txt", {"book.txt": text})
    assert found["id"].tolist() == ["book/book.txt#1", "book/book.txt#2", "book/book.txt#3"]
    assert "\n".join(found["text"]) == text


def test_a_column_of_another_name_is_named_in_the_parameters(read):
    found = read(corpus, "rows.csv", {"rows.csv": "number,speech\n1,Fellow citizens\n"}, columns={"text": "speech"})
    assert found["text"].tolist() == ["Fellow citizens"]


# ---- emails


def message(subject: str, body: str) -> str:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@example.org", "b@example.org", subject
    made.set_content(body)
    return made.as_string()


def box(mail: tuple[str, str, str]) -> str:
    return f"From a@example.org Thu Aug 22 12:36:23 2002\n{message(*mail[1:])}\n"


def columns(label: str, subject: str | None, body: str, values: dict[str, object] | None = None) -> list[dict]:
    return [
        {label: (values or {}).get(what, what), **({subject: about} if subject else {}), body: text}
        for what, about, text in MAILS
    ]


ENRON = ("Message ID", "Subject", "Message", "Spam/Ham", "Date")
KAGGLE = "v1,v2,,,\n" + "".join(f'{a},"{c.replace(chr(34), chr(34) * 2)}",,,\n' for a, _, c in MAILS)
NAMED = columns("label", "subject", "body")
EMAILS: dict[str, tuple[str, dict[str, Content]]] = {
    "folders of .eml": ("mail", {f"mail/{what}/1.eml": message(*rest) for what, *rest in MAILS}),
    "mbox": ("mail/*.mbox", {f"mail/{mail[0]}.mbox": box(mail) for mail in MAILS}),
    "compressed mbox by its content": (
        "mail",
        {f"mail/{mail[0]}-2024.gz": gzip.compress(box(mail).encode()) for mail in MAILS},
    ),
    "Maildir": (
        "mail",
        {f"mail/{a}/{b}/1": text for a, *c in MAILS for b, text in (("cur", message(*c)), ("new/.x", ""))},
    ),
    "folders in a Maildir": ("Maildir", {f"Maildir/.{what.title()}/new/1": message(*rest) for what, *rest in MAILS}),
    "folders of texts, as Enron-Spam": (
        "enron1",
        {f"enron1/{a}/0001.1999-12-10.farmer.{a}.txt": f"Subject: {b}\r\n{c}" for a, b, c in MAILS},
    ),
    "CSV": ("mails.csv", {"mails.csv": table(NAMED)}),
    "CSV without a subject": ("mails.csv", {"mails.csv": table(columns("label", None, "text"))}),
    "CSV with semicolons": ("mails.csv", {"mails.csv": table(NAMED, delimiter=";")}),
    "CSV as Enron's": (
        "enron.csv",
        {"enron.csv": table([dict(zip(ENRON, (7, b, c, a, "1999-12-10"), strict=True)) for a, b, c in MAILS])},
    ),
    "CSV as Kaggle's without a subject": ("spam.csv", {"spam.csv": KAGGLE}),
    "TSV with quotes": ("mails.tsv", {"mails.tsv": table(NAMED, delimiter="\t", quoting=csv.QUOTE_ALL)}),
    "CSV with whole messages": (
        "mails.csv",
        {"mails.csv": table([{"class": what, "message": message(*rest)} for what, *rest in MAILS])},
    ),
    "labels in another case": (
        "mails.csv",
        {"mails.csv": table(columns("Label", "Subject", "Body", {"ham": "HAM", "spam": "Spam "}))},
    ),
    "JSON lines": ("mails.jsonl", {"mails.jsonl": json_lines(columns("label", "title", "text"))}),
    "JSON": ("mails.json", {"mails.json": json.dumps(NAMED)}),
    "Parquet": ("mails.parquet", {"mails.parquet": parquet(columns("label", "subject", "text"))}),
    "a zip of .eml": ("mail.zip", {"mail.zip": zipped({f"{a}/1.eml": message(b, c) for a, b, c in MAILS})}),
}


def said(found: pd.DataFrame) -> list[tuple[str, str, str]]:
    return sorted(found[["label", "subject", "body"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("form", EMAILS)
def test_emails_are_read_from(form, read):
    found = said(read(emails, *EMAILS[form]))
    assert found == sorted((label, "" if "without" in form else subject, body) for label, subject, body in MAILS)


@pytest.mark.parametrize(("form", "write"), [("csv", table), ("jsonl", json_lines), ("parquet", parquet)])
def test_labels_may_be_numbers_that_the_parameters_explain(form, write, read):
    rows = columns("spam", None, "text", {"ham": 0, "spam": 1})
    found = read(emails, f"mails.{form}", {f"mails.{form}": write(rows)}, label_map={0: "ham", 1: "spam"})
    assert said(found) == [(label, "", body) for label, _, body in MAILS]


SMS = [
    "ham\tGo until jurong point, crazy.. Available only in bugis n great world",
    'spam\t"FREE entry in 2 a wkly comp; text FA to 87121',
    'ham\tHe said "hello" and left',
    'spam\t"URGENT!" You\'ve won £900',
]


def test_the_sms_collection_has_no_header_no_ending_and_quotes_that_enclose_nothing(read):
    found = read(emails, "SMSSpamCollection", {"SMSSpamCollection": "\n".join(SMS) + "\n"})
    assert found["id"].tolist() == [f"SMSSpamCollection/SMSSpamCollection#{n}" for n in (1, 2, 3, 4)]
    assert found[["label", "body"]].to_numpy().tolist() == [line.split("\t") for line in SMS]


WHERE = {  # where a file lies, and the label that its path says; None for no label
    **{"spam/1.eml": "spam", "easy-ham-1/1.eml": "ham", "spam/archive/ham.mbox": "ham", "spam/hamburg.eml": "spam"},
    **{"data/not-spam/1.eml": None, "mixed/spam-or-ham/1.eml": None, "ham/SPAM_or_HAM.eml": "ham"},
    **{"spam-data/not-spam/1.eml": None, "spam-data/legit/2.txt": None, "spam-data/4.csv": "spam"},
    **{"x/no-spam/3.txt": None, "spam/nonspam/3.txt": None, "ham/not-spam/3.txt": "ham", "ham/not-spam.mbox": "ham"},
    **{"my-spam/January/1.eml": "spam", "Spam.mbox/A4F0/Data/Messages/1.emlx": "spam", "spam/ham.csv": "ham"},
}
OF_MESSAGE = {  # as programs call them by their subjects
    **{"ham/Re_ new spam filter.eml": "ham", "ham/Re_ not spam.eml": "ham", "x/not-spam/my spam.eml": None},
    **{"spam-corpus/0001.1999-12-10.farmer.ham.txt": "ham", "ham/Stop. Spam. Now.eml": "ham"},
}


def test_the_nearest_name_that_says_one_label_counts_and_for_a_message_folders_before_its_subject():
    labels = emails.Labels(("ham", "spam"))
    assert {path: labels.of_path(Path(path)) for path in WHERE} == WHERE
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
def test_what_programs_put_around_a_message_is_no_part_of_it(name, content, read):
    assert said(read(emails, "mail", {f"mail/{name}": content})) == [("spam", "Grüße", "Wir sehen uns.")]


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
def test_messages_without_a_blank_line_between_them_are_several_whatever_the_file_is_called(name, read):
    first = "first\nFrom here it is far.\nFrom Monday 2 Jan 10:00 on, as in 2024\nTo: this we say yes"
    found = said(read(emails, "mail", {f"mail/{name}": BOX}))
    assert found == [("ham", "One", first), ("ham", "Two", "second")]


NULLS = [{"label": "ham", "subject": "Lunch", "body": None}, {"label": "spam", "subject": None, "body": "You won"}]
TABLES = {
    "of a table without a header a column of dates is no body": (
        *("a.csv", "2024-01-01 10:00:00,ham,See you\n2024-01-02 10:00:00,spam,You won\n"),
        [("ham", "", "See you"), ("spam", "", "You won")],
    ),
    "a column called group is no label where another is": (
        *("a.csv", "text,Label,group\nhello there,ham,team spam reports\n"),
        [("ham", "", "hello there")],
    ),
    "a label and its number are no two labels": (
        *("a.csv", "label,text,label_num\nham,hello there,0\n"),
        [("ham", "", "hello there")],
    ),
    "quotes around words of a TSV enclose no cell": (
        *("a.tsv", 'ham\tSee you\nspam\t"FREE" call "NOW"\n'),
        [("ham", "", "See you"), ("spam", "", '"FREE" call "NOW"')],
    ),
    "a null is empty": ("a.jsonl", json_lines(NULLS), [("ham", "Lunch", ""), ("spam", "", "You won")]),
    "a null of Parquet is empty": ("a.parquet", parquet(NULLS), [("ham", "Lunch", ""), ("spam", "", "You won")]),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_of_emails_is_read_as_people_mean_it(case, read, caplog):
    name, content, expected = TABLES[case]
    assert said(read(emails, name, {name: content})) == expected
    assert "is taken from the column" not in caplog.text


def test_a_row_whose_text_runs_on_into_a_column_without_a_name_is_left_out_and_said(read, caplog):
    rows = ",v1,v2,,\n0,ham,hello there,,\n1,spam,You won, call now,\n2,ham,See you,,7\nx,ham,Bye,,\n"
    found = read(emails, "a.csv", {"a.csv": rows})
    assert said(found) == [("ham", "", "Bye"), ("ham", "", "See you"), ("ham", "", "hello there")]
    reason = "row 3: column 4 has no name and holds ' call now'; name it, or quote what has commas"
    assert "1 rows left out" in caplog.text
    assert reason in caplog.text


def test_columns_of_ones_own_table_leave_feedback_and_other_sources_as_they_are(read):
    feedback = json_lines([{"label": "spam", "subject": "", "body": "You won"}])
    files = {"mine/a.csv": "Kind,Message\nham,See you\n", "mine/feedback.jsonl": feedback}
    found = read(emails, "mine", files, columns={"label": "Kind", "body": "Message"})
    assert said(found) == [("ham", "", "See you"), ("spam", "", "You won")]


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
WITH_NULLS = [{**row, "input": row["input"] or None, "system": None} for row in ALPACA]
TURNS = turns("role", "content", "user", "assistant")
INSTRUCTIONS: dict[str, tuple[str, Content, bool]] = {
    "JSON as Alpaca's": ("a.json", json.dumps(ALPACA, indent=4), True),
    "JSON lines with nulls": ("a.jsonl", json_lines(WITH_NULLS), True),
    "CSV": ("a.csv", table([{"Prompt": a, "Context": b, "Response": c} for a, b, c in ASKED]), True),
    "Parquet": ("a.parquet", parquet(ALPACA), True),
    "ShareGPT": ("s.json", json.dumps(turns("from", "value", "human", "gpt")), False),
    "OpenAI messages": ("m.jsonl", json_lines(TURNS), False),
    "messages in Parquet": ("m.parquet", parquet(TURNS), False),
}


@pytest.mark.parametrize("form", INSTRUCTIONS)
def test_instructions_are_read_from(form, read):
    name, content, has_inputs = INSTRUCTIONS[form]
    found = read(instructions, name, {name: content})[["instruction", "input", "output"]]
    expected = [(a, b, c) if has_inputs else (f"{a}\n{b}".strip(), "", c) for a, b, c in ASKED]
    assert list(found.itertuples(index=False, name=None)) == expected


def test_a_conversation_is_its_last_answer_with_what_was_said_before(read):
    said = [("system", "Be brief."), ("assistant", "Hello!"), ("user", "Hi."), ("assistant", "What is it?")]
    said += [("user", "Name a color."), ("user", "And no other."), ("assistant", "Blue."), ("user", "Thanks.")]
    messages = [{"role": who, "content": text} for who, text in said]
    row = read(instructions, "m.json", {"m.json": json.dumps([{"messages": messages}])}).iloc[0]
    assert (row["system"], row["history"]) == ("Be brief.", ["Hi.", "What is it?"])
    assert (row["instruction"], row["output"]) == ("Name a color.\nAnd no other.", "Blue.")


def test_rows_a_line_of_which_the_first_is_long_are_rows_whatever_the_file_is_called(read):
    rows = [{"instruction": "Count. " * 20_000, "output": "1"}, {"instruction": "Name a color.", "output": "Blue."}]
    assert read(instructions, "a.json", {"a.json": json_lines(rows)})["output"].tolist() == ["1", "Blue."]


# ---- what a form is, and what is none


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.txt", "Once upon a time", "text"),
        ("a", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "jsonl"),
        ("a.jsonl", '[\n {"a": 1}\n]', "json"),
        ("a", "From a@b.org Thu Aug 22 12:36:23 2002\nTo: b\n\nx", "mbox"),
        ("a", "Received: from x\n by y\nSubject: z\n\nx", "eml"),
        ("a", "  <!DOCTYPE html>\n<p>", "html"),
        ("a", "ham\tone\nspam\ttwo\n", "csv"),
        ("a.txt", "ham\tone\nspam\ttwo\n", "csv"),
        ("a", "From ripley at stats.ox.ac.uk  Wed Jan  1 09:00:00 2003\nTo: b\n\nx", "mbox"),
        ("a", 'From "anna maria"@b.org\tThu Aug 22 12:36:23 +0200 (Summer Time) 2002\nTo: b\n\nx', "mbox"),
        ("a", "From 10:00 to 12:30 we meet, as in 2024\n\nx", "text"),
        ("a.csv", "", "empty"),
        ("a.bin", b"\x7fELF\0\0", "binary"),
    ],
)
def test_a_form_is_found_by_the_content(name, content, form, tmp_path):
    assert sniff(put(tmp_path, {name: content})) == form


@pytest.mark.parametrize("dataset", [corpus, emails, instructions])
def test_what_is_no_form_of_a_dataset_is_said_with_those_that_are(dataset, read):
    with pytest.raises(UserError, match=r"program/program: no .*jsonl"):
        read(dataset, "program", {"program": b"\x7fELF\0\0"})


def test_a_document_of_an_office_program_is_refused_with_a_way_out(tmp_path):
    put(tmp_path, {"mails.xlsx": zipped({"[Content_Types].xml": "<Types/>"})})
    with pytest.raises(UserError, match=r"mails\.xlsx: a document of an office program; save it as \.csv"):
        write_source(Source(source=str(tmp_path / "mails.xlsx")), tmp_path)
