"""Every form in which people have texts: a line of params.yaml, fetched and read as the stages do it."""

import gzip
import json
import lzma

import pytest
from form_files import Content, csv_table, json_lines, parquet, tarred, zipped

from tasks.data.compression import zstd
from tasks.datasets import corpus

TEXTS = ["It was the best of times.\n\nIt was the worst.", "Call me Ishmael, and don\u2019t ask “why”."]

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
    "JSON": ("rows.json", {"rows.json": json.dumps(ROWS, indent=1)}),
    "CSV": ("rows.csv", {"rows.csv": csv_table([{"id": 1, "Content": text} for text in TEXTS])}),
    "Parquet": ("rows.parquet", {"rows.parquet": parquet(ROWS)}),
    "HTML": ("site", {f"site/{n}.html": page for n, page in enumerate(PAGES)}),
    "a folder": ("texts", IN_FOLDER),
    "a glob over folders": ("texts/**/*.txt", IN_FOLDER),
    "gzip": ("rows.jsonl.gz", {"rows.jsonl.gz": gzip.compress(LINES)}),
    "Zstandard": ("rows.jsonl.zst", {"rows.jsonl.zst": zstd.compress(LINES)}),
    "xz": ("rows.jsonl.xz", {"rows.jsonl.xz": lzma.compress(LINES)}),
    "zip": ("texts.zip", {"texts.zip": zipped(FILES)}),
    "tar": ("texts.tar", {"texts.tar": tarred(FILES)}),
    "tar.gz": ("texts.tar.gz", {"texts.tar.gz": tarred(FILES, "w:gz")}),
    "tar.zst": ("texts.tar.zst", {"texts.tar.zst": zstd.compress(tarred(FILES))}),
    "an archive in a folder": ("all", {"all/part-1.zip": zipped(FILES)}),
    "a mixed folder": ("mixed", {"mixed/a.md": TEXTS[0], "mixed/b.jsonl.gz": gzip.compress(json_lines(ROWS[1:]))}),
}


@pytest.mark.parametrize("form", CORPUS)
def test_corpus_is_read_from(form, read):
    line, files = CORPUS[form]
    documents = read(corpus, line, files)["text"].tolist()
    expected = [text.replace("\u2019", "'").replace("“", '"').replace("”", '"') for text in TEXTS]
    assert "\n\n".join(documents) == "\n\n".join(expected)


def test_corpus_text_that_is_large_is_read_in_parts_that_end_with_lines(read, monkeypatch):
    monkeypatch.setattr("tasks.data.formats.documents.PART", 1000)
    text = "\n".join(f"line {n} of a long book" for n in range(100))
    table = read(corpus, "book.txt", {"book.txt": text})
    assert table["id"].tolist() == ["book/book.txt#1", "book/book.txt#2", "book/book.txt#3"]
    assert "\n".join(table["text"]) == text


def test_corpus_column_of_another_name_is_in_the_parameters(read):
    table = read(corpus, "rows.csv", {"rows.csv": "number,speech\n1,Fellow citizens\n"}, columns={"text": "speech"})
    assert table["text"].tolist() == ["Fellow citizens"]
