"""Files that are broken or mean harm: each ends soon with one problem that names its place, or is read all the same."""

import gzip
import io
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.errors import UserError
from tasks.data.compression import zstd
from tasks.data.formats.tables import READERS
from tasks.data.mail import parse_message
from tasks.data.problems import Problem
from tasks.datasets import corpus, emails, instructions

SECONDS = 5  # of processor time, so that a busy machine changes nothing
BOUND = 2**20  # bytes of a line, and of a text that is read as a whole; by itself 64 MB
SPLIT = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}
PARAMS = {
    corpus: corpus.Params(**SPLIT),
    emails: emails.Params(**SPLIT),
    instructions: instructions.Params(**SPLIT, rows_a_kind=0),
}


@contextmanager
def soon() -> Iterator[None]:
    """Fails where what is inside takes long."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def read(dataset: Any, folder: Path) -> tuple[list[tuple], list[str]]:
    """The first rows of a dataset and all problems."""
    problems: list[Problem] = []
    table = dataset.DATASET.check(folder, PARAMS[dataset], problems)
    kept = [column for column in ("label", "subject", "body", "text", "instruction", "output") if column in table]
    rows = list(table[kept].head(3).map(lambda value: str(value)[:40]).itertuples(index=False, name=None))
    return rows, [str(problem).replace(f"{folder}/", "") for problem in problems]


def parquet(**columns: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def twice(column: str) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table([["ham"], ["first"], ["second"]], names=["label", column, column]), stream)
    return stream.getvalue()


def rows(*contents: dict) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in contents)


ASK = {"instruction": "x", "output": "y"}
DEEP = 50_000
LONG = b"word " * (BOUND // 4)
TALK = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]

# File, content, and the one problem that is found in it, by dataset and form.
CORPUS = [
    ("a.txt", b"fine\nbad \xe9t\xe9\n", r"row 2: byte 0xe9 is not UTF-8; save the file as UTF-8, such as by iconv"),
    ("a.txt", b"fine\nnot\0fine", r"row 2: holds NUL"),
    ("a.txt", "text".encode("utf-16"), r"row 1: holds NUL.* save the file as UTF-8"),
    ("a.txt", LONG, r"row 1: a line of over 1,048,576"),
    (
        "a.txt.gz",
        gzip.compress(b"\0" * 1_000_000, mtime=0) * 1_000,
        r"row 1: a line of over 1,048,576 bytes",
    ),  # a gigabyte
    ("a.txt.gz", gzip.compress(b"text" * 999, mtime=0)[:-20], r"not readable as a compressed file"),
    ("a.txt.zst", zstd.compress(os.urandom(9_999).hex().encode())[:-20], r"a\.txt\.zst(, row 1)?: "),
    ("a.csv", b"id,words\n1,x\n", r'row 2: no string under "text", only id, words'),
    ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"row 2: not JSON: Expecting value at column 10"),
    ("a.jsonl", b'{"text": "x"}\n{"txt": "y"}\n', r'row 2: no string under "text", only txt'),
    ("a.jsonl", b'{"text": "fine"}\n' + b'{"text": ' * DEEP + b"}" * DEEP, r"row 2: .*nested too deep"),
    ("a.jsonl", b'{"text": ' + b"9" * 100_000 + b"}", r"row 1: .*digits"),
    ("a.json", b'{\n"a": }', r"row 2: not JSON: Expecting value at column 6"),
    ("a.json", b'{"text": "x"}\n{"text": "y"}\n', r"row 2: .*; a file with an object a line is called \.jsonl"),
    ("a.json", b'{"c1": {"messages": [[{"text": "x"}]]}}', r"a\.json, chat c1: no messages with sender and text"),
    ("a.json", b'{"c": {"messages": [[{"sender": [], "text": "Hi"}]]}}', r"chat c: no messages with sender and text"),
    ("a.parquet", b"PAR1" + b"x" * 99, r"not readable as Parquet"),
    ("a.parquet", parquet(text=["a"], at=pa.array([0], pa.timestamp("us", "Mars/Olympus"))), r".*Mars/Olympus"),
]
EMAILS = [
    ("ham/a.eml", "Subject: a\n\nb".encode("utf-16-le"), r"row 1: holds NUL.*UTF-8"),
    ("x/a.eml", b"Subject: a\nTo: b\n\nc", r"no file or folder name says which of ham, spam it is"),
    ("a.csv", b"label,body\nham,a\0b\n", r"row 2: holds NUL"),
    ("a.csv", b"label,subject,body\nham,a,caf\xe9\n", r"row 2: byte 0xe9 is not UTF-8"),
    ("a.csv", b'label,body\nham,"' + (b"word " * 200 + b"\n") * 3_000, r"row 2: field larger than field limit"),
    ("a.csv", b'label,subject,body\nham,a,b\nham,a,"b\n', r"row 3: unexpected end of data"),
    ("a.csv", b"label,body,label\nham,a,spam\n", r"row 1: two columns are called 'label'"),
    ("a.csv", b"label,subject,body\nham,a\n", r"row 2: fewer cells than columns \(2, not 3\)"),
    ("a.csv", b"label,subject,body\nham,a,b,c\n", r"row 2: more cells than columns \(4, not 3\)"),
    ("a.csv", b"label,body\nham,a\nsmap,b\n", r"row 3: label 'smap' is not one of ham, spam"),
    ("a.csv", b"message_text,spam\nyou won,spam\n", r"row 2: no text under 'body'; columns are message_text, spam"),
    ("a.csv", b"subject,body\na,b\n", r"row 2: no label; it is looked for under label, labels, class"),
    ("a.jsonl", b'{"label": "ham", "bo', r"row 1: not JSON"),
    ("a.jsonl", b'{"label": "ham", "subject": "", "body": 3}', r"row 1: no text under 'body'"),
    ("a.jsonl", b"[]", r"row 1: '\[\]' is no row with columns"),
    ("a.json", b'{"group": "spam-1"}', r"a\.json: no label; it is looked for under label, labels, class"),
    ("a.json", b'{"group": "other", "text": ""}', r"a\.json: label 'other' is not one of ham, spam"),
    ("a.parquet", twice("body"), r"a\.parquet: two columns are called 'body'; rename one"),
    (
        "spam/a.eml",
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(5_000)),
        r"not readable as a mail: it is nested over 50 levels deep",
    ),
    (
        "spam/a.txt",
        b"Subject: a\n" + b"<html><xmp>" * 10_000,
        r"not readable as a mail: cleaned 20 times, there is",
    ),
]
INSTRUCTIONS = [
    ("a.txt", b"Once", r"no table of instructions; they are read from csv, json, jsonl, parquet"),
    ("a.yml", b"conversations:\n- [Hi, Hello]\n", r"no table of instructions; they are read from csv"),
    ("a.jsonl", rows(ASK) + b'{"instruction": "' + LONG, r"row 2: a line of over 1,048,576 bytes"),
    ("a.jsonl", rows(ASK, {"output": "y"}), r'row 2: no string under "instruction"'),
    ("a.jsonl", rows(ASK | {"input": 3}), r'row 1: no string under "input"'),
    ("a.jsonl", rows(ASK | {"answers": "y"}), r'row 1: no list of texts under "answers"'),
    (
        "a.jsonl",
        rows(ASK | {"answers": ["y", "…"]}),
        r"row 1: the answer '…' begins with nothing; write",
    ),
    ("a.jsonl", rows(ASK | {"history": ["", "z"]}), r'row 1: no list of texts under "history"'),
    ("a.jsonl", rows(ASK | {"history": ["z"]}), r"row 1: 1 turns in history; user and assistant take turns"),
    ("a.jsonl", rows({"messages": [{"role": "user", "content": "a"}]}), r"row 1: no answer of the assistant"),
    (
        "a.jsonl",
        rows({"messages": [{"role": "tool", "content": "a"}]}),
        r"row 1: role 'tool' is not one of user",
    ),
    ("a.jsonl", rows({"conversations": [{"from": "gpt", "value": ""}]}), r"row 1: a turn of gpt without text under 'v"),
    ("a.jsonl", rows({"system": ["x"], "conversations": TALK}), r'row 1: no string under "system"'),
    ("a.json", b"[3]", r"row 1: '3' is no row with columns"),
    ("a.json", b'[{"instruction": "a",', r"row 1: not JSON"),
    ("a.json", b"[" * DEEP + b"]" * DEEP, r"row 1: .*nested too deep"),
]
HOSTILE = [
    pytest.param(dataset, *case, id=f"{case[0]} {case[2][:40]}")
    for dataset, cases in ((corpus, CORPUS), (emails, EMAILS), (instructions, INSTRUCTIONS))
    for case in cases
]


@pytest.mark.parametrize(("dataset", "name", "content", "problem"), HOSTILE)
def test_corrupt_file_is_one_problem_with_file_row_and_reason(dataset, name, content, problem, tmp_path, monkeypatch):
    for module in ("textfiles.LARGEST", "textfiles.LONGEST_LINE"):
        monkeypatch.setattr(f"tasks.data.{module}", BOUND)
    monkeypatch.setattr("tasks.data.formats.tables.LONGEST_LINE", BOUND)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with soon():
        first_rows, problems = read(dataset, tmp_path)
    assert len(first_rows) <= 1
    (reason,) = problems
    assert reason.startswith(name)
    assert re.search(problem, reason), reason
    assert "\n" not in reason
    if not reason.startswith("spam/"):  # a mail that no parser reads is left out; all else stops the stage
        with pytest.raises(UserError, match=re.escape(reason)):
            dataset.DATASET.read(tmp_path, PARAMS[dataset])


def parts(count: int) -> bytes:
    head = b"Subject: Many\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
    return head + b"".join(b"--b\nContent-Type: text/plain\n\npart %d\n" % n for n in range(count)) + b"--b--\n"


def html(content: str) -> bytes:
    return f"Subject: HTML\nTo: a\nContent-Type: text/html\n\n{content}".encode()


BOUNDARY = b"Subject: B\nContent-Type: multipart/mixed; boundary="
MAIL = {
    "many parts": (parts(1_000), "Many", "part 0"),
    "a boundary that is broken": (BOUNDARY + b'"x\n\n--x\n\nstill here', "B", "still here"),
    "a boundary that never comes": (BOUNDARY + b"x\n\nstill here", "B", "still here"),
    "a charset that is none": (b"Subject: C\nContent-Type: text/plain; charset=\xff\xfe-none\n\ncaf\xe9", "C", "café"),
    "nested cells": (html("<table><tr><td>" * 5_000 + "inside"), "HTML", "inside"),
    "nested elements": (html("<div>" * 300_000 + "inside"), "HTML", "inside"),
    "a list's address": (b"Subject: L\nTo: b\n\nbody\nhttps://" + b"/listinfo/" * 10_000 + b" x", "L", "body"),
    "closed and never opened": (html("<b>" * 3_000 + "inside" + "</p></div>" * 100_000), "HTML", "inside"),
    "attributes": (html("<p " + " ".join(f"a{n}" for n in range(100_000)) + ">inside"), "HTML", "inside"),
    "cells": (html("<table><tr>" + "<td>x</td>" * 100_000), "HTML", "xxxx"),
    "comments that don't end": (html("inside" + "<!-" * 500_000), "HTML", "inside"),
    "entities in entities": (html("&" + "amp;" * 200_000 + "lt;inside"), "HTML", "<inside"),
    "a long subject": (b"Subject: " + b"=?utf-8?q?a?= " * 70_000 + b"\nTo: b\n\nbody", "a" * 100, "body"),
    "a long type": (b"Subject: S\nContent-Type: text/plain" + b"; a=b" * 200_000 + b"\n\nbody", "S", "body"),
}


@pytest.mark.parametrize("case", MAIL)
def test_mail_of_a_megabyte_or_without_form_is_read(case):
    content, subject, body = MAIL[case]
    with soon():
        mail = parse_message(content)
    assert mail[0].startswith(subject)
    assert mail[1].startswith(body)


def test_corrupt_mails_are_dropped_and_counted(tmp_path, caplog):
    (tmp_path / "ham").mkdir()
    (tmp_path / "ham/a.eml").write_bytes(b"Subject: a\nTo: b\n\nc")
    nested = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(60))
    (tmp_path / "ham/b.eml").write_bytes(nested)
    with caplog.at_level("WARNING"):
        table = emails.read_emails(tmp_path, PARAMS[emails])
    assert table["id"].tolist() == ["ham/a.eml"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"1 rows left out, such as {tmp_path}/ham/b.eml: not readable as a mail: it is nested over 50 levels deep"
    ]


def test_field_of_a_megabyte_is_a_body(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'label,body\nham,"' + LONG + b'"\n')
    assert read(emails, tmp_path) == ([("ham", "", "word " * 8)], [])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"HEADER\n"])
@pytest.mark.parametrize(
    ("dataset", "header"),
    [(emails, b"label,subject,body"), (corpus, b"title,text"), (instructions, b"instruction,output")],
)
def test_empty_and_header_only_files_hold_no_rows(tmp_path, dataset, header, content):
    (tmp_path / "a.csv").write_bytes(content.replace(b"HEADER", header))
    assert read(dataset, tmp_path) == ([], [])


def test_columns_of_the_parameters_that_are_none_of_ours_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("label,text\nham,hello\n")
    with pytest.raises(UserError, match=r"^columns: 'boddy' is not one of label, subject, body$"):
        emails.read_emails(tmp_path, emails.Params(**SPLIT, columns={"boddy": "text"}))


def test_parquet_value_that_is_repeated_is_in_memory_for_a_few_rows(tmp_path):
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int8()), ["a" * 200_000]).cast(pa.string())
    (tmp_path / "a.parquet").write_bytes(parquet(text=texts))
    del texts
    before = pa.total_allocated_bytes()
    most = 0
    lengths: list[tuple[int, int]] = []
    for number, row in READERS["parquet"](tmp_path / "a.parquet"):
        lengths.append((number, len(row["text"])))
        most = max(most, pa.total_allocated_bytes() - before)
    assert lengths == [(number, 200_000) for number in range(1, 201)]
    assert most < 20_000_000  # of the 40 MB of all rows
