# ruff: noqa: RUF001 (letters of other scripts that look like Latin ones)
"""Files of every form and encoding become rows, texts and messages, and hostile ones a problem that names its place."""

import bz2
import gzip
import io
import lzma
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from form_files import put
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.errors import UserError
from tasks.data import files
from tasks.data.compression import open_plain, zstd
from tasks.data.files import (
    form_of,
    raw_files,
    read_bytes,
    read_lines,
    read_messages,
    read_rows,
    read_text,
    tidy,
)
from tasks.data.findings import Findings

SECONDS = 5  # of processor time, so that a busy machine changes nothing
BOUND = 2**20  # bytes of a line, and of a text that is read as a whole; by itself 64 MB


@contextmanager
def soon():
    """Fails where what is inside takes long."""
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def parquet(*columns, names):
    stream = io.BytesIO()
    pq.write_table(pa.table(list(columns), names=names), stream)
    return stream.getvalue()


MARK = "From anna@example.org Thu Aug 22 12:36:23 2002\n"


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.txt", "Once upon a time", "text"),
        ("a.txt", "Once".encode("utf-16"), "text"),
        ("a", "ham\tone\nspam\ttwo\n", "text"),
        ("a.NDJSON.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n', mtime=0), "jsonl"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "json"),
        ("a", f"{MARK}To: b\n\nx", "mbox"),
        ("a", "From ripley at stats.ox.ac.uk  Wed Jan  1 09:00:00 2003\nTo: b\n\nx", "mbox"),
        ("a", 'From "anna maria"@b.org\tThu Aug 22 12:36:23 +0200 (Summer Time) 2002\nTo: b\n\nx', "mbox"),
        ("a", "From 10:00 to 12:30 we meet, as in 2024\n\nx", "text"),
        ("a.txt", "Received: from x\n by y\nSubject: z\n\nx", "eml"),
        ("a.csv", " \n\n", "empty"),
        ("a.bin", b"\x7fELF\0\0", "binary"),
    ],
)
def test_form_is_that_of_the_suffix_or_of_a_text_without_one(name, content, form, tmp_path):
    assert form_of(put(tmp_path, {name: content})) == form


def test_raw_files_are_in_the_order_of_paths_without_hidden_ones(tmp_path):
    with pytest.raises(UserError, match="holds no files"):
        raw_files(tmp_path)
    put(tmp_path, {"b/1.txt": "b", "a.txt": "a", ".git/x": "x", "b/.x": "x", "b/1.txt.dvc": "x"})
    assert [path.relative_to(tmp_path).as_posix() for path in raw_files(tmp_path)] == ["a.txt", "b/1.txt"]
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    with pytest.raises(UserError, match=r"\\udcff"):
        raw_files(tmp_path)


FRENCH = "Première ligne\nDéjà vu à l'hôtel, ça coûte 5 €\n"
RUSSIAN = "Привет, как дела?\nВстретимся завтра в полдень возле станции, и мы сможем поговорить о работе.\n"
CHINESE = "你好,明天见面吧。\n我们可以讨论一下项目的进展情况,另外请把文件带来,谢谢。\n"


@pytest.mark.parametrize(
    ("text", "encoding", "is_guessed"),
    [
        (FRENCH, "utf-8-sig", False),
        (CHINESE, "utf-16", False),
        (RUSSIAN, "utf-32", False),
        (FRENCH, "cp1252", True),
        ("one\ncafé\n", "latin-1", True),
        (RUSSIAN, "koi8-r", True),
        (CHINESE, "gb18030", True),
    ],
)
def test_text_is_read_in_the_encoding_of_its_mark_or_the_likeliest_one_which_is_logged(
    text, encoding, is_guessed, tmp_path, caplog
):
    path = put(tmp_path, {"a.txt": text.encode(encoding)})
    assert read_text(path) == text
    assert list(read_lines(path)) == list(enumerate(text.splitlines(keepends=True), 1))
    assert bool(caplog.messages) == is_guessed
    assert all(str(path) in message and "row" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("\n \n    y = x + 1\n    return y \n\n", "    y = x + 1\n    return y"),
        ("  Paris. \n", "Paris."),
        ("  One.\r\nTwo.", "  One.\nTwo."),
        (" \n ", ""),
    ],
)
def test_text_loses_blank_lines_and_spaces_around_it_and_lines_stay_indented(text, tidied):
    assert tidy(text) == tidied


def test_mailbox_has_a_message_at_each_postmark_after_a_blank_line(tmp_path):
    first = f"Subject: One\n\nfirst\n{MARK}\nFrom Monday 2 Jan 10:00 on we meet\n"
    box = f"{MARK}{first}>From here it is far.\n\n{MARK}Subject: Two\n\nsecond\n"
    expected = [f"{first}From here it is far.\n\n".encode(), b"Subject: Two\n\nsecond\n"]
    assert list(read_messages(put(tmp_path, {"a.mbox": box}))) == expected
    assert list(read_messages(put(tmp_path, {"a.mbox": box.encode("utf-8-sig")}))) == expected


DEEP = 50_000
LONG = b"word " * (BOUND // 4)
ZONED = parquet(pa.array([0], pa.timestamp("us", "Mars/Olympus")), names=["at"])
TWICE = parquet(["ham"], ["a"], ["b"], names=["label", "body", "body"])
BOMB = gzip.compress(b"\0" * 1_000_000, mtime=0) * 1_000  # a gigabyte

# File, content, and what the one problem says besides the file.
HOSTILE: list[tuple[str, bytes, list[str]]] = [
    ("a.csv", b"text\nfine\nnot\0fine", ["row 3", "NUL"]),
    ("a.csv", b"text\ncaf\xc3\xa9\nbad \xe9t\xe9\n", ["row 3", "0xe9", "UTF-8"]),
    ("a.csv", b"text\n" + LONG, ["row 2", "1,048,576"]),
    ("a.csv.gz", BOMB, ["row 1", "1,048,576"]),
    ("a.csv.gz", gzip.compress(b"text" * 999, mtime=0)[:-20], ["compressed"]),
    ("a.csv", b'label,body\nham,"' + (b"word " * 200 + b"\n") * 3_000, ["row 2", "limit"]),
    ("a.csv", b'label,body\nham,b\nham,"b\n', ["row 3", "end of data"]),
    ("a.csv", b"label,body,label\nham,a,spam\n", ["row 1", "'label'", "rename"]),
    ("a.csv", b"label,body\nham,b\nham\nspam\n", ["row 3", "1 cells, not 2", "1 more"]),
    ("a.jsonl", b'{"text": "fine"}\n' + b'{"text": ' * DEEP + b"}" * DEEP, ["row 2", "recursion"]),
    ("a.jsonl", b'{"text": ' + b"9" * 100_000 + b"}", ["row 1", "digits"]),
    ("a.jsonl", b'{"text": "x"}\n{"text": "' + LONG, ["row 2", "1,048,576"]),
    ("a.json", b'{\n"a": }', ["line 2", "JSON", "Expecting value"]),
    ("a.json", b"[" * DEEP + b"]" * DEEP, ["recursion"]),
    ("a.json", b'["",\n' * (BOUND // 4), ["row", "1,048,576"]),
    ("a.parquet", b"PAR1" + b"x" * 99, ["Parquet"]),
    ("a.parquet", ZONED, ["Parquet", "Mars/Olympus"]),
    ("a.parquet", TWICE, ["'body'", "rename"]),
    ("a.yml", b"conversations:\n- [Hi, Hello]\n", ["yaml", "csv, json, jsonl, parquet"]),
    ("program", b"\x7fELF\0\0", ["binary", "csv, json, jsonl, parquet"]),
]


@pytest.fixture
def small_bounds(monkeypatch):
    for name in ("LARGEST", "LONGEST_LINE"):
        monkeypatch.setattr(files, name, BOUND)


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_hostile_table_is_one_problem_with_file_row_and_reason(case, tmp_path, small_bounds):
    name, content, parts = HOSTILE[case]
    path = put(tmp_path, {name: content})
    findings = Findings()
    with soon():
        try:
            assert len(list(read_rows(path, findings))) <= 1
        except UserError as error:
            findings.add_error(error)
    (problem,) = map(str, findings.problems)
    assert problem.startswith(str(path))
    assert all(part in problem for part in parts), problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.eml", "Subject: a\n\nb".encode("utf-16-le"), "NUL"),
        ("a.eml", LONG + LONG, "1,048,576"),
        ("a.mbox", MARK.encode() + LONG, "row 2"),
        ("a.emlx", b"Subject: a\n\nb", "row 1"),
    ],
)
def test_hostile_message_is_an_error_with_its_file(name, content, part, tmp_path, small_bounds):
    path = put(tmp_path, {name: content})
    with soon(), pytest.raises(UserError, match=part) as error:
        list(read_messages(path))
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(("content", "dropped"), [("", 1), ("\n\n", 1), ("label,text\n", 0)])
def test_empty_table_has_no_rows_and_an_empty_file_is_dropped(content, dropped, tmp_path):
    findings = Findings()
    assert list(read_rows(put(tmp_path, {"a.csv": content}), findings)) == []
    assert (len(findings.dropped), findings.problems) == (dropped, [])


def test_field_of_a_megabyte_is_a_cell(tmp_path):
    path = put(tmp_path, {"a.csv": b'label,body\nham,"' + LONG + b'"\n'})
    (row,) = read_rows(path, Findings())
    assert (row.number, row.cells) == (2, {"label": "ham", "body": LONG.decode()})


def test_parquet_value_that_is_repeated_is_in_memory_for_a_few_rows(tmp_path):
    texts: Any = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int8()), ["a" * 200_000]).cast(pa.string())
    path = put(tmp_path, {"a.parquet": parquet(texts, names=["text"])})
    del texts
    before = pa.total_allocated_bytes()
    count = 0
    for row in read_rows(path, Findings()):
        count += 1
        assert len(row.cells["text"]) == 200_000
        assert pa.total_allocated_bytes() - before < 20_000_000  # of the 40 MB of all rows
    assert count == 200


COMPRESSIONS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd.compress}


@settings(max_examples=200)
@given(
    content=st.binary(max_size=300),
    suffix=st.sampled_from([*COMPRESSIONS]),
    position=st.integers(0, 400),
    put_in=st.binary(max_size=8),
    length=st.integers(0, 800),
)
def test_corrupt_compressed_file_is_named(content, suffix, position, put_in, length):
    whole = COMPRESSIONS[suffix](content) * 2  # one behind another is one file
    spoiled = (whole[:position] + put_in + whole[position + len(put_in) :])[:length]
    with tempfile.TemporaryDirectory() as folder, soon():
        path = put(Path(folder), {f"a.txt{suffix}": spoiled})
        if spoiled == whole:
            assert read_bytes(path) == content * 2
            return
        try:
            read_bytes(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 (a few changes stay unseen)


def test_open_plain_passes_on_errors_of_the_file_store(tmp_path):
    with pytest.raises(FileNotFoundError), open_plain(tmp_path / "a.gz"):
        pass
