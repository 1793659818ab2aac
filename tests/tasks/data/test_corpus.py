import json

import pandas as pd
import pyarrow as pa
import pytest
from form_files import put

from llm.errors import UserError
from llm.tokenizer import train_bpe
from tasks.data import corpus
from tasks.data.corpus import Document, Params, choose_encoding, cut, drop_duplicates, read_clean, split, tidy_document
from tasks.data.findings import Findings

PARAMS = Params(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)


def cleaned(folder, findings=None, params=PARAMS):
    """The clean documents below `folder/raw`, and those below `folder/inbox`."""
    (folder / "work").mkdir(exist_ok=True)
    (folder / "inbox").mkdir(exist_ok=True)
    table, texts = read_clean(
        folder / "raw", folder / "inbox", params=params, findings=findings or Findings(), work=folder / "work"
    )
    return table.assign(text=list(texts))


def test_documents_of_every_form_come_in_the_order_of_paths(tmp_path):
    messages = [("x", "Hi\nthere"), ("y", "Hello"), ("y", ""), ("x", "Bye")]
    chat = [{"sender": sender, "text": text} for sender, text in messages]
    chats = {"one": {"messages": [chat]}, "two": {"messages": [chat[:1]]}}
    files = {
        "talk/dataset.json": json.dumps(chats),
        "notes/rows.jsonl": '{"text": "first"}\n\n{"text": "third", "more": 1}\n',
        "books/part/a.txt": "\ufeffOne.\r\n\r\n \r\n  Two.\n",
        "books/page.html": "<html><p>seen</p><script>hidden()</script></html>",
        "books/.hidden": b"\xff",
    }
    put(tmp_path / "raw", files)
    findings = Findings()
    assert cleaned(tmp_path, findings)[["id", "source", "text"]].to_numpy().tolist() == [
        ["books/page.html", "books", "seen"],
        ["books/part/a.txt", "books", "One.\n\n  Two."],
        ["notes/rows.jsonl#1", "notes", "first"],
        ["notes/rows.jsonl#3", "notes", "third"],
        ["talk/dataset.json#one", "talk", "A: Hi there\nB: Hello\nA: Bye"],
    ]
    assert [(row["id"], row["rule"]) for row in findings.dropped] == [("dataset.json#two", "unanswered")]


def test_rows_without_a_text_are_named_all_at_once(tmp_path):
    put(tmp_path / "raw", {"a.jsonl": '{"text": "one"}\n{"txt": "two"}\n{"text": 3}\n'})
    with pytest.raises(UserError, match=r"(?s)raw/a\.jsonl, row 2.*txt.*raw/a\.jsonl, row 3"):
        cleaned(tmp_path)


def test_unicode_is_mended_and_blank_lines_are_one():
    assert tidy_document(" schÃ¶n, cafe\u0301\n\n \n\t\nend\n") == "schön, café\n\nend"


@pytest.mark.parametrize("mark", ["\n\n", "\n", " "])
def test_long_texts_are_cut_into_even_pieces_where_they_break(mark):
    words = mark.join(f"Word{n}" for n in range(12_000))
    pieces = cut([Document("a/book.txt", "a", words), Document("a/b", "a", "x" * 60_000)], 50_000)
    assert pieces["id"].tolist() == [*(f"a/book.txt#{n}" for n in range(1, len(pieces))), "a/b"]
    book = pieces["text"][:-1]
    assert book.str.len().between(9_200, 10_000).all()
    assert mark.join(book) == words


@pytest.mark.parametrize("characters", [20_000, 500_000])
def test_corpus_of_one_book_has_all_splits(tmp_path, characters):
    words = [f"w{n}" for n in range(characters // 5)]
    paragraphs = [" ".join(words[start : start + 60]) for start in range(0, len(words), 60)]
    put(tmp_path / "raw", {"a/book.txt": "\n\n".join(paragraphs)[:characters]})
    table = cleaned(tmp_path)
    counts = split(table, table["text"].tolist(), PARAMS)["split"].value_counts()
    assert len(table) >= 10
    assert counts[["validation", "test"]].between(1, 5).all()


def numbered(count):
    """Texts of sixty words of their own."""
    return {f"a/{number:02}.txt": " ".join(f"d{number}w{n}" for n in range(60)) for number in range(count)}


def test_inbox_is_masked_and_learned_from_unless_it_is_there_already(tmp_path):
    texts = numbered(40)
    put(tmp_path / "raw", texts)
    put(tmp_path / "inbox", {"mine.txt": "A note to me@home.example", "again.txt": texts["a/07.txt"]})
    table = cleaned(tmp_path)
    texts = table["text"].tolist()
    findings = Findings()
    table = split(drop_duplicates(table, texts, params=PARAMS, findings=findings), texts, PARAMS)
    (mine,) = table[table["id"].str.startswith("inbox/")].to_dict("records")
    assert (mine["text"], mine["split"]) == ("A note to someone@example.com", "train")
    assert [(row["id"], row["reason"]) for row in findings.dropped] == [("inbox/again.txt", "as a/07.txt")]


def test_rows_are_the_same_in_any_batches_and_only_one_batch_is_in_memory(tmp_path, monkeypatch):
    put(tmp_path / "raw", numbered(30))
    whole = cleaned(tmp_path)
    monkeypatch.setattr(corpus, "BATCH", 1_000)
    pd.testing.assert_frame_equal(cleaned(tmp_path), whole)
    with pa.memory_map(str(tmp_path / "work/rows.arrow")) as file:
        assert pa.ipc.open_file(file).num_record_batches >= 10


def test_tokenizer_bpe_is_trained_on_the_texts_and_an_unknown_name_is_refused():
    params = PARAMS.model_copy(update={"vocabulary_size": 270})
    texts = ["the cat sat on the mat and the dog ate the hat"] * 9
    assert choose_encoding(params, texts)._mergeable_ranks == train_bpe(texts, 270)._mergeable_ranks
    with pytest.raises(UserError, match="gpt3"):
        choose_encoding(params.model_copy(update={"tokenizer": "gpt3"}), texts)
