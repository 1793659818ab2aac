"""Files that mean harm or are broken: each ends soon, in bounded memory, with its place named or a row counted."""

import gzip
import io
import json
import os
import pickle
import re
import resource
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm.errors import UserError
from tasks.data import archives
from tasks.data.archives import unpack
from tasks.data.cleaning.record import Record, recorded
from tasks.data.compression import zstd
from tasks.data.formats import Problem
from tasks.data.formats.tables import READERS
from tasks.data.mail import parse_message
from tasks.data.sources import Source, fetch_source
from tasks.datasets import corpus, emails, instructions

SECONDS = 10  # of processor time, so that a busy machine changes nothing
BYTES = 1_500_000_000  # more than there are before
SPLIT = {"seed": 1, "validation": 0.1, "test": 0.1, "near_duplicate": 0.8}
PARAMS = {
    corpus: corpus.Params(**SPLIT),
    emails: emails.Params(**SPLIT),
    instructions: instructions.Params(**SPLIT, rows_a_kind=0),
}


def bounded(work: Callable[..., Any], *arguments: Any) -> Any:
    """What the work returns, or the error that it ends with, in a process that may take SECONDS and BYTES.

    Fails where it takes more.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            try:
                found = work(*arguments)
            except ValueError as error:
                found = error
            with os.fdopen(sender, "wb") as pipe:
                pickle.dump(str(found) if isinstance(found, ValueError) else found, pipe)
        finally:
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said, f"it took over {SECONDS} s or {BYTES:,} bytes"
    return pickle.loads(said)


def read(dataset: Any, folder: Path) -> tuple[list[tuple], list[str]]:
    """The first rows of a dataset and all problems."""
    problems: list[Problem] = []
    table = dataset.DATASET.check(folder, PARAMS[dataset], problems)
    kept = [column for column in ("label", "subject", "body", "text", "instruction", "output") if column in table]
    rows = [tuple(str(value)[:40] for value in row) for row in table[kept].head(3).itertuples(index=False)]
    return rows, [str(problem).replace(f"{folder}/", "") for problem in problems]


def written(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


DEEP = 200_000
HOSTILE: dict[str, tuple[Any, str, bytes | Callable[[], bytes], str]] = {
    "bad UTF-8": (corpus, "a.txt", b"fine\nbad \xe9t\xe9\n", r"a\.txt, row 2: byte 0xe9 is not UTF-8"),
    "NUL": (corpus, "a.txt", b"fine\nnot\0fine", r"a\.txt, row 2: holds NUL"),
    "NUL in a table": (emails, "a.csv", b"label,body\nham,a\0b\n", r"a\.csv, row 2: holds NUL"),
    "UTF-16 without a mark": (corpus, "a.txt", "text".encode("utf-16-le"), r"a\.txt, row 1: holds NUL.*UTF-8"),
    "a message in UTF-16 without a mark": (
        emails,
        "ham/a.eml",
        "Subject: a\n\nb".encode("utf-16-le"),
        r"a\.eml, row 1: holds NUL.*UTF-8",
    ),
    "UTF-16 that is cut": (corpus, "a.txt", "one\ntwo".encode("utf-16")[:-1], r"a\.txt, row 2: not UTF-16"),
    "a line of 200 MB": (corpus, "a.txt", lambda: b"word " * 40_000_000, r"a\.txt, row 1: a line of over 67,108,864"),
    "a row of 200 MB": (
        instructions,
        "a.jsonl",
        lambda: b'{"instruction": "a", "output": "b"}\n{"instruction": "' + b"word " * 40_000_000,
        r"a\.jsonl, row 2: a line of over 67,108,864 bytes",
    ),
    "a quote that never ends": (
        emails,
        "a.csv",
        lambda: b'label,body\nham,"' + (b"word " * 200 + b"\n") * 80_000,
        r"a\.csv, row 2: field larger than field limit",
    ),
    "a gzip of 10 GB": (
        corpus,
        "a.txt.gz",
        lambda: gzip.compress(b"\0" * 1_000_000) * 10_000,
        r"a\.txt\.gz, row 1: a line of over 67,108,864 bytes",
    ),
    "a gzip that is cut": (
        corpus,
        "a.txt.gz",
        gzip.compress(b"text" * 999)[:-20],
        r"a\.txt\.gz: not readable as a comp",
    ),
    "a gzip that is none": (corpus, "a.txt.gz", b"\x1f\x8b\x08" + b"x" * 50, r"a\.txt\.gz: not readable as a comp"),
    "a Zstandard file that is cut": (
        corpus,
        "a.txt.zst",
        zstd.compress(os.urandom(9_999).hex().encode())[:-20],
        r"a\.txt\.zst(, row 1)?: ",
    ),
    "a Parquet file that is cut": (corpus, "a.parquet", b"PAR1" + b"x" * 99, r"a\.parquet: not readable as Parquet"),
    "JSON that is cut": (instructions, "a.json", b'[{"instruction": "a",', r"a\.json, row 1: not JSON"),
    "JSON of 200,000 levels": (instructions, "a.json", b"[" * DEEP + b"]" * DEEP, r"a\.json, row 1: .*nested too deep"),
    "a row of 200,000 levels": (
        corpus,
        "a.jsonl",
        b'{"text": "fine"}\n' + b'{"text": ' * DEEP + b"}" * DEEP,
        r"a\.jsonl, row 2: .*nested too deep",
    ),
    "a number of a million digits": (
        corpus,
        "a.jsonl",
        b'{"text": ' + b"9" * 1_000_000 + b"}",
        r"a\.jsonl, row 1: .*digits",
    ),
    "a key twice": (
        emails,
        "a.jsonl",
        b'{"label": "ham", "body": "a", "label": "spam"}',
        r"row 1: .*'label' stands twice",
    ),
    "a column twice": (
        emails,
        "a.csv",
        b"label,body,label\nham,a,spam\n",
        r"a\.csv, row 1: two columns are called 'label'",
    ),
    "a row with fewer cells": (
        emails,
        "a.csv",
        b"label,subject,body\nham,a\n",
        r"a\.csv, row 2: fewer cells .*2, not 3",
    ),
    "a row with more cells": (
        emails,
        "a.csv",
        b"label,subject,body\nham,a,b,c\n",
        r"a\.csv, row 2: more cells .*4, not 3",
    ),
    "a label that is none": (
        emails,
        "a.csv",
        b"label,body\nham,a\nsmap,b\n",
        r"a\.csv, row 3: label 'smap' is not one of",
    ),
    "a header that no name of ours is in": (
        emails,
        "a.csv",
        b"message_text,spam\nyou won,spam\n",
        r"a\.csv, row 2: no text under 'body'; columns are message_text, spam",
    ),
    "a column twice in Parquet": (
        emails,
        "a.parquet",
        lambda: written(pa.table([["ham"], ["first"], ["second"]], names=["label", "body", "body"])),
        r"a\.parquet: two columns are called 'body'; rename one",
    ),
    "a time zone that there is not": (
        corpus,
        "a.parquet",
        lambda: written(pa.table({"text": ["a"], "at": pa.array([0], pa.timestamp("us", "Mars/Olympus"))})),
        r"a\.parquet: not readable as Parquet: .*Mars/Olympus",
    ),
    "a value of 100 MB in Parquet": (
        corpus,
        "a.parquet",
        lambda: written(pa.table({"text": ["word " * 20_000_000]})),
        r"a\.parquet, row 1: a row of over 67,108,864 bytes; split it",
    ),
    "a sender that is a list": (
        corpus,
        "a.json",
        b'{"c": {"messages": [[{"sender": [], "text": "Hi"}]]}}',
        r"a\.json, chat c: no messages with sender and text",
    ),
    "a system that is a list": (
        instructions,
        "a.jsonl",
        b'{"system": ["x"], "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}',
        r'a\.jsonl, row 1: no string under "system"',
    ),
    "a cut row of JSON": (emails, "a.jsonl", b'{"label": "ham", "bo', r"a\.jsonl, row 1: not JSON"),
    "a character that YAML has not": (
        instructions,
        "a.yml",
        b"conversations:\n- - a\n  - \x07\n",
        r"a\.yml: not YAML: ",
    ),
    "a day that there is not": (
        instructions,
        "a.yml",
        b"conversations: [[2024-02-31, b]]\n",
        r"a\.yml: not YAML: day is",
    ),
    "YAML of 200,000 levels": (instructions, "a.yml", b"conversations: " + b"[" * DEEP, r"a\.yml"),
    "YAML aliases that multiply": (
        instructions,
        "a.yml",
        "\n".join(
            ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
        ).encode()
        + b"\nconversations: *a29\n",
        r"a\.yml, row 2: \*a0: write out what it stands for",
    ),
    "YAML merges that multiply": (
        instructions,
        "a.yml",
        "\n".join(
            ["a0: &a0 {k: v}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30))]
        ).encode(),
        r"a\.yml, row 2: \*a0: write out what it stands for",
    ),
    "mails of 5,000 levels": (
        emails,
        "spam/a.eml",
        b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(5_000)),
        r"spam/a\.eml: not readable as a mail: it is nested over 50 levels deep",
    ),
    "a text that is cleaned without an end": (
        emails,
        "spam/a.txt",
        lambda: b"Subject: a\n" + b"<html><xmp>" * 100_000,
        r"spam/a\.txt: not readable as a mail: cleaned 20 times, there is more to clean",
    ),
    "a mail without a label": (
        emails,
        "x/a.eml",
        b"Subject: a\nTo: b\n\nc",
        r"x/a\.eml: no file or folder name says which",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_is_said_with_its_place(case, tmp_path):
    dataset, name, content, problem = HOSTILE[case]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content())
    rows, problems = bounded(read, dataset, tmp_path)
    assert len(rows) <= 1
    assert len(problems) == 1
    assert re.search(problem, problems[0]), problems[0]


def parts(count: int) -> bytes:
    head = b"Subject: Many\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
    return head + b"".join(b"--b\nContent-Type: text/plain\n\npart %d\n" % n for n in range(count)) + b"--b--\n"


def html(content: str) -> bytes:
    return f"Subject: HTML\nTo: a\nContent-Type: text/html\n\n{content}".encode()


MAIL: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "10,000 parts": (lambda: parts(10_000), "Many", "part 0"),
    "a boundary that is broken": (
        lambda: b'Subject: B\nContent-Type: multipart/mixed; boundary="x\n\n--x\n\nstill here',
        "B",
        "still here",
    ),
    "a boundary that never comes": (
        lambda: b"Subject: B\nContent-Type: multipart/mixed; boundary=x\n\nstill here",
        "B",
        "still here",
    ),
    "a charset that is none": (
        lambda: b"Subject: C\nContent-Type: text/plain; charset=\xff\xfe-none\n\ncaf\xe9",
        "C",
        "café",
    ),
    "5,000 nested cells": (lambda: html("<table><tr><td>" * 5_000 + "inside"), "HTML", "inside"),
    "20 MB of nested elements": (lambda: html("<div>" * 4_000_000 + "inside"), "HTML", "inside"),
    "100 KB of a list's address": (
        lambda: b"Subject: L\nTo: b\n\nbody\nhttps://" + b"/listinfo/" * 10_000 + b" x",
        "L",
        "body",
    ),
    "20 MB of elements that nothing opened": (
        lambda: html("<b>" * 3_000 + "inside" + "</p></div>" * 2_000_000),
        "HTML",
        "inside",
    ),
    "10 MB of attributes": (
        lambda: html("<p " + " ".join(f"a{n}" for n in range(1_200_000)) + ">inside"),
        "HTML",
        "inside",
    ),
    "20 MB of cells": (lambda: html("<table><tr>" + "<td>x</td>" * 2_000_000), "HTML", "xxxx"),
    "20 MB of comments that don't end": (lambda: html("inside" + "<!-" * 6_000_000), "HTML", "inside"),
    "10 MB of entities in entities": (lambda: html("&" + "amp;" * 2_500_000 + "lt;inside"), "HTML", "<inside"),
    "a subject of 10 MB": (lambda: b"Subject: " + b"=?utf-8?q?a?= " * 700_000 + b"\nTo: b\n\nbody", "a" * 100, "body"),
    "a type of 10 MB": (
        lambda: b"Subject: S\nContent-Type: text/plain" + b"; a=b" * 2_000_000 + b"\n\nbody",
        "S",
        "body",
    ),
}


@pytest.mark.parametrize("case", MAIL)
def test_a_mail_is_read_all_the_same(case):
    write, subject, body = MAIL[case]
    found = bounded(lambda: tuple(text[:200] for text in parse_message(write())))
    assert found[0].startswith(subject)
    assert found[1].startswith(body)


def test_mails_that_no_parser_reads_are_left_out_and_counted(tmp_path, caplog):
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


def test_a_field_of_10_mb_is_a_body(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'label,body\nham,"' + b"word " * 2_000_000 + b'"\n')
    assert bounded(read, emails, tmp_path) == ([("ham", "", "word " * 8)], [])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"HEADER\n"])
@pytest.mark.parametrize(
    ("dataset", "header"),
    [(emails, b"label,subject,body"), (corpus, b"title,text"), (instructions, b"instruction,output")],
)
def test_empty_and_header_only_files_hold_no_rows(tmp_path, dataset, header, content):
    (tmp_path / "a.csv").write_bytes(content.replace(b"HEADER", header))
    assert read(dataset, tmp_path) == ([], [])


def test_columns_of_the_parameters_that_are_none_of_ours_are_said(tmp_path):
    (tmp_path / "a.csv").write_text("label,text\nham,hello\n")
    with pytest.raises(UserError, match=r"^columns: 'boddy' is not one of label, subject, body$"):
        emails.read_emails(tmp_path, emails.Params(**SPLIT, columns={"boddy": "text"}))


def test_which_of_two_columns_is_taken_for_one_of_ours_is_said_once(tmp_path, caplog):
    rows = b'{"prompt": "Answer.", "question": "How much is 1 + 1?", "answer": "2"}\n' * 3
    (tmp_path / "a.jsonl").write_bytes(rows)
    found = instructions.read_instructions(tmp_path, instructions.Params(**SPLIT, rows_a_kind=0))
    assert set(found["instruction"]) == {"Answer."}
    said = "the instruction is taken from the column 'prompt', not from 'question': `columns` may say otherwise"
    assert caplog.messages.count(said) == 1


def rows_of_parquet(path: Path) -> tuple[int, int]:
    """How many rows there are, and by how many bytes memory grew at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(len(row["text"]) == 2_000_000 for _, row in READERS["parquet"](path))
    return count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def test_a_value_that_stands_in_each_row_of_parquet_for_a_few_bytes_is_in_memory_for_a_few_rows(tmp_path):
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int8()), ["a" * 2_000_000])
    (tmp_path / "a.parquet").write_bytes(written(pa.table({"text": rows.cast(pa.string())})))
    count, grown = bounded(rows_of_parquet, tmp_path / "a.parquet")
    assert count == 200
    assert grown < 250_000_000


def zip_bomb(path: Path, declared: int) -> Path:
    """A zip of a gigabyte of zeros that says it is of `declared` bytes."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.txt", "w") as file,
    ):
        for _ in range(1_000):
            file.write(b"\0" * 1_000_000)
    content, true = path.read_bytes(), (1_000_000_000).to_bytes(4, "little")
    path.write_bytes(content.replace(true, declared.to_bytes(4, "little")))
    return path


@pytest.mark.parametrize(
    ("declared", "reason"), [(2**31, "its files are 2,147,483,648 bytes or more"), (500, "Bad CRC-32")]
)
def test_a_zip_bomb_is_refused_by_what_it_says_and_by_what_it_is(tmp_path, declared, reason):
    bomb = zip_bomb(tmp_path / "bomb.zip", declared)
    out = tmp_path / "out"
    out.mkdir()
    assert reason in bounded(unpack, bomb, "*", out, 10**9)
    assert sum(path.stat().st_size for path in out.rglob("*")) <= 500


def test_a_tar_bomb_is_refused_at_the_member_that_is_too_large(tmp_path):
    class Zeros(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"\0" * size

    with tarfile.open(tmp_path / "bomb.tgz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 300_000_000
        archive.addfile(member, Zeros())
    said = bounded(unpack, tmp_path / "bomb.tgz", "*", tmp_path / "out", 10**8)
    assert said == "bomb.tgz: its files are 300,000,000 bytes or more, over 100,000,000"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_whose_name_is_a_bomb_is_refused(tmp_path, kind):
    header = tarfile.TarInfo("a")
    header.type, header.size = kind, 64 * 2**20
    with gzip.open(tmp_path / "bomb.tgz", "wb", compresslevel=1) as archive:
        archive.write(header.tobuf() + bytes(header.size))
    said = bounded(unpack, tmp_path / "bomb.tgz", "*", tmp_path / "out")
    assert said == "bomb.tgz: not readable as an archive: a header of 67,108,864 bytes"


def test_members_that_no_pattern_asks_for_are_counted_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "READ", 1_000)
    monkeypatch.setattr(archives, "MEMBERS", 5)
    for name, count, size in (("large", 2, 600), ("many", 6, 1)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            for number in range(count):
                member = tarfile.TarInfo(f"{number}.bin")
                member.size = size
                archive.addfile(member, io.BytesIO(bytes(size)))
    with pytest.raises(UserError, match=r"^large\.tar: its files are 1,200 bytes or more, over 1,000$"):
        unpack(tmp_path / "large.tar", "*.txt", tmp_path / "out")
    with pytest.raises(UserError, match=r"^many\.tar: it has more than 5 members$"):
        unpack(tmp_path / "many.tar", "*.txt", tmp_path / "out")


@pytest.mark.parametrize("names", [("a.txt", "a.txt"), ("a", "a/b"), ("a/b", "a")])
@pytest.mark.parametrize("suffix", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path, names, suffix):
    path = tmp_path / f"twice.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "text")
    else:
        with tarfile.open(path, "w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
    said = bounded(unpack, path, "*", tmp_path / "out")
    assert said == f"twice.{suffix}: member {names[1]!r} is there twice, as a file or as a folder"


def test_a_link_out_of_a_folder_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "mine/a.txt").symlink_to(tmp_path / "secret.txt")
    out = tmp_path / "out"
    out.mkdir()
    said = bounded(fetch_source.fn, Source(source=str(tmp_path / "mine")), out)
    assert "mine/a.txt is a link that leads out of its folder; copy " in said
    assert list(out.iterdir()) == []


def test_one_class_is_said_by_the_gate(tmp_path, monkeypatch):
    from flows.preprocess import check, read, split_rows

    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/emails/a")
    folder.mkdir(parents=True)
    rows = [json.dumps({"label": "ham", "body": f"word{n} of{n} a{n} mail{n}"}) for n in range(60)]
    (folder / "a.jsonl").write_text("\n".join(rows))
    params = PARAMS[emails]
    table = split_rows.fn(read.fn("emails", emails.DATASET, params), emails.DATASET, params)
    with pytest.raises(ValueError, match=r"rows_of_spam: .* observed 0"):
        check.fn("emails", Record(), table, emails.DATASET, params, tmp_path / "report")


EQUAL = {
    emails: {"label": "ham", "subject": "The same", "body": "again and again"},
    corpus: {"text": "the same again and again"},
    instructions: {"instruction": "Say it again.", "output": "The same."},
}


@pytest.mark.parametrize("dataset", EQUAL)
def test_rows_that_are_all_equal_are_one_and_too_few_to_split(dataset, tmp_path, monkeypatch):
    from flows.preprocess import drop_duplicates, leave_out, read, split_rows

    monkeypatch.chdir(tmp_path)
    name, params = dataset.__name__.rpartition(".")[2], PARAMS[dataset]
    folder = Path("data/raw") / name / "a"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text("\n".join([json.dumps(EQUAL[dataset])] * 5_000))
    with recorded() as record:
        table = leave_out.fn(read.fn(name, dataset.DATASET, params), dataset.DATASET, params)
        table = drop_duplicates.fn(table, dataset.DATASET, params)
    assert len(table) == 1
    assert record.counts() == {"near_duplicates": 4_999}
    with pytest.raises(ValueError, match=r"^1 rows .* are too few for train, validation and test"):
        split_rows.fn(table, dataset.DATASET, params)


def test_equal_mails_with_several_labels_are_all_in_the_quarantine(tmp_path):
    rows = [EQUAL[emails] | {"label": label} for label in ("ham", "spam")] * 500
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with recorded() as record:
        assert read(emails, tmp_path) == ([], [])
    assert record.counts() == {"contradictions": 1_000}


def test_a_dataset_without_a_row_is_said_before_anything_is_made_of_it(tmp_path, monkeypatch):
    from flows.preprocess import read

    monkeypatch.chdir(tmp_path)
    folder = Path("data/raw/emails/a")
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("label,subject,body\n")
    with pytest.raises(ValueError, match=r"^data/raw/emails: there is not one row in its files"):
        read.fn("emails", emails.DATASET, PARAMS[emails])
