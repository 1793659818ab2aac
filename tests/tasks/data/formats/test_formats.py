"""The form of a file, and forms that nothing reads."""

import gzip

import pytest
from form_files import put, zipped

from llm.errors import UserError
from tasks.data.sniff import sniff
from tasks.data.sources import Source, write_source
from tasks.datasets import corpus, emails, instructions


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.txt", "Once upon a time", "text"),
        ("a.txt", "a\0b", "text"),
        ("a", "ham\tone\nspam\ttwo\n", "text"),
        ("a.NDJSON.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n', mtime=0), "jsonl"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "json"),
        ("a.htm", "<p>", "html"),
        ("a", "From a@b.org Thu Aug 22 12:36:23 2002\nTo: b\n\nx", "mbox"),
        ("a", "From ripley at stats.ox.ac.uk  Wed Jan  1 09:00:00 2003\nTo: b\n\nx", "mbox"),
        ("a", 'From "anna maria"@b.org\tThu Aug 22 12:36:23 +0200 (Summer Time) 2002\nTo: b\n\nx', "mbox"),
        ("a", "From 10:00 to 12:30 we meet, as in 2024\n\nx", "text"),
        ("a.txt", "Received: from x\n by y\nSubject: z\n\nx", "eml"),
        ("a.csv", "", "empty"),
        ("a.bin", b"\x7fELF\0\0", "binary"),
    ],
)
def test_form_is_that_of_the_suffix_or_of_a_text_without_one(name, content, form, tmp_path):
    assert sniff(put(tmp_path, {name: content})) == form


@pytest.mark.parametrize("dataset", [corpus, emails, instructions])
def test_form_that_a_dataset_does_not_read_is_named_with_those_that_it_does(dataset, read):
    with pytest.raises(UserError, match=r"program/program: no .*jsonl"):
        read(dataset, "program", {"program": b"\x7fELF\0\0"})


def test_form_of_an_office_program_is_refused_with_a_way_out(tmp_path):
    put(tmp_path, {"mails.xlsx": zipped({"[Content_Types].xml": "<Types/>"})})
    with pytest.raises(UserError, match=r"mails\.xlsx: a document of an office program; save it as \.csv"):
        write_source(Source(source=str(tmp_path / "mails.xlsx")), tmp_path)
