import json

import pytest

from llm.errors import UserError
from tasks.data.quality import validate
from tasks.datasets.emails import COLUMNS, email_expectations, read_emails, row_text


def raw(body, subject="Hello"):
    return f"From: a@b.org\nSubject: {subject}\n\n{body}"


def spam_assassin(folder, group, number, text):
    path = folder / "source" / "data" / group / f"{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"id": number, "group": group, "checksum": {}, "text": text}))


def test_messages_and_tables_become_one_table_in_the_order_of_their_paths(tmp_path):
    spam_assassin(tmp_path, "spam-1", 2, raw("Buy this now"))
    spam_assassin(tmp_path, "easy-ham-1", 1, raw("See you tomorrow"))
    spam_assassin(tmp_path, "hard-ham-1", 1, raw("", subject=""))
    (tmp_path / "mine.csv").write_text('subject,label,body\n"A, b",spam,"two\nlines"\nc,ham,\n')
    (tmp_path / "more.jsonl").write_text('\n{"label": "ham", "subject": "s", "body": "<html>b</html>"}\n')
    (tmp_path / ".gitignore").write_text("*")
    table = read_emails(tmp_path)
    assert table.to_dict("split")["data"] == [
        ["mine.csv#2", "mine.csv", "A, b", "two\nlines", "spam"],
        ["mine.csv#3", "mine.csv", "c", "", "ham"],
        ["more.jsonl#2", "more.jsonl", "s", "b", "ham"],
        ["source/data/easy-ham-1/1.json", "source/data/easy-ham-1", "Hello", "See you tomorrow", "ham"],
        ["source/data/spam-1/2.json", "source/data/spam-1", "Hello", "Buy this now", "spam"],
    ]
    assert list(table) == COLUMNS
    assert row_text(table)[0] == "A, b\ntwo\nlines"
    validate("emails", {"rows": (table, email_expectations())}, tmp_path / "report")


def test_a_body_may_be_longer_than_a_csv_field_is_by_default(tmp_path):
    (tmp_path / "mine.csv").write_text(f"label,subject,body\nham,long,{'word ' * 40_000}\n")
    assert read_emails(tmp_path)["body"].str.len().tolist() == [199_999]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "label,subject,body\nham,a,b\nsmap,a,b\n", "a.csv, row 3: label 'smap' is not one of ham, spam"),
        ("a.csv", "label,body\nham,b\n", "a.csv, row 2: no text under 'subject'; needed are label, subject, body"),
        ("a.csv", "label,subject,body\nham,a\n", "a.csv, row 2: no text under 'body'; needed are label, subject, body"),
        ("a.csv", "label,subject,body\nham,a,b,c\n", "a.csv, row 2: more cells than columns"),
        ("a.csv", 'label,subject,body\nham,a,b\nham,a,"b\n', "a.csv, row 3: unexpected end of data"),
        ("a.csv", b"label,subject,body\nham,a,caf\xe9\n", "a.csv, row 2: byte 0xe9 is not UTF-8"),
        ("a.jsonl", '{"label": "ham", "subject": "", "body": ""}\n{"label"\n', "a.jsonl, row 2: not JSON"),
        ("a.jsonl", '{"label": "ham", "subject": "", "body": 3}', "a.jsonl, row 1: no text under 'body'"),
        ("a.jsonl", "[]", "a.jsonl, row 1: no text under 'label'"),
        ("a.json", '{"group": "spam-1"}', "a.json: no text under 'text'; needed are group, text"),
        ("a.json", '{"group": "other", "text": ""}', "a.json: label 'other' is not one of ham, spam"),
        ("a.json", "{", "a.json, row 1: not JSON"),
        ("a.txt", "x", "a.txt: emails are read from .csv, .jsonl and SpamAssassin's .json files"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_row_and_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_emails(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/{reason}")


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(UserError, match=r"holds no files; run `python -m flows\.fetch"):
        read_emails(tmp_path)
