import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from llm.errors import UserError
from llm.tokenizer import train_bpe
from tasks.data import corpus
from tasks.data.corpus import Document, Params, choose_encoding, cut, drop_duplicates, read_clean, split, tidy_document
from tasks.data.findings import Findings

PARAMS = Params(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)


def write(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def chat(messages: list[tuple[str, str]]) -> dict[str, object]:
    return {"messages": [[{"sender": sender, "text": text} for sender, text in messages]]}


def cleaned(folder: Path, findings: Findings | None = None, params: Params = PARAMS) -> pd.DataFrame:
    """The clean documents below `folder/raw`, and those below `folder/inbox`."""
    (folder / "work").mkdir(exist_ok=True)
    (folder / "inbox").mkdir(exist_ok=True)
    table, texts = read_clean(
        folder / "raw", folder / "inbox", params=params, findings=findings or Findings(), work=folder / "work"
    )
    return table.assign(text=list(texts))


def test_documents_of_every_form_come_in_the_order_of_paths(tmp_path: Path) -> None:
    messages = [("x", "Hi\nthere"), ("y", "Hello"), ("y", ""), ("x", "Bye")]
    raw = tmp_path / "raw"
    write(raw, "talk/dataset.json", json.dumps({"one": chat(messages), "two": chat([("x", "Anyone?")])}))
    write(raw, "notes/rows.jsonl", '{"text": "first"}\n\n{"text": "third", "more": 1}\n')
    write(raw, "books/part/a.txt", "\ufeffOne.\r\n\r\n \r\n  Two.\n")
    write(raw, "books/page.html", "<html><p>seen</p><script>hidden()</script></html>")
    write(raw, "books/.hidden", b"\xff")
    findings = Findings()
    assert cleaned(tmp_path, findings)[["id", "source", "text"]].to_numpy().tolist() == [
        ["books/page.html", "books", "seen"],
        ["books/part/a.txt", "books", "One.\n\n  Two."],
        ["notes/rows.jsonl#1", "notes", "first"],
        ["notes/rows.jsonl#3", "notes", "third"],
        ["talk/dataset.json#one", "talk", "A: Hi there\nB: Hello\nA: Bye"],
    ]
    assert [(row["id"], row["rule"]) for row in findings.dropped] == [("dataset.json#two", "unanswered")]


def test_rows_without_a_text_are_named_all_at_once(tmp_path: Path) -> None:
    write(tmp_path, "raw/a.jsonl", '{"text": "one"}\n{"txt": "two"}\n{"text": 3}\n')
    with pytest.raises(UserError, match=r"(?s)raw/a\.jsonl, row 2.*txt.*raw/a\.jsonl, row 3"):
        cleaned(tmp_path)


def test_unicode_is_mended_and_blank_lines_are_one() -> None:
    assert tidy_document(" schÃ¶n, cafe\u0301\n\n \n\t\nend\n") == "schön, café\n\nend"


@pytest.mark.parametrize("mark", ["\n\n", "\n", " "])
def test_long_texts_are_cut_into_even_pieces_where_they_break(mark: str) -> None:
    words = mark.join(f"Word{n}" for n in range(12_000))
    pieces = cut([Document("a/book.txt", "a", words), Document("a/b", "a", "x" * 60_000)], 50_000)
    assert pieces["id"].tolist() == [*(f"a/book.txt#{n}" for n in range(1, len(pieces))), "a/b"]
    book = pieces["text"][:-1]
    assert book.str.len().between(9_200, 10_000).all()
    assert mark.join(book) == words


def test_cut_depends_on_no_other_document(tmp_path: Path) -> None:
    rows: list[dict[str, str]] = []
    for number in range(40):
        rows.append({"text": " ".join(f"r{number}w{n}" for n in range(2_500))})
    rows.append({"text": " ".join(f"long{n}" for n in range(20_000))})
    write(tmp_path, "raw/a/rows.jsonl", "\n".join(map(json.dumps, rows)))
    write(tmp_path, "raw/b/rows.jsonl", json.dumps(rows[0]))
    before = cleaned(tmp_path)
    write(tmp_path, "raw/b/rows.jsonl", "\n".join(map(json.dumps, rows[:30])))
    after = cleaned(tmp_path)
    assert len(before) > 50
    assert after["text"][: len(before)].equals(before["text"])


@pytest.mark.parametrize("characters", [20_000, 100_000, 500_000])
def test_corpus_of_one_book_has_all_splits(tmp_path: Path, characters: int) -> None:
    words = [f"w{n}" for n in range(characters // 5)]
    paragraphs = [" ".join(words[start : start + 60]) for start in range(0, len(words), 60)]
    write(tmp_path, "raw/a/book.txt", "\n\n".join(paragraphs)[:characters])
    table = cleaned(tmp_path)
    counts = split(table, table["text"].tolist(), PARAMS)["split"].value_counts()
    assert len(table) >= 10
    assert counts[["validation", "test"]].between(1, 5).all()


def test_inbox_is_masked_and_learned_from_unless_it_is_there_already(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, f"raw/a/{number}.txt", " ".join(f"d{number}w{n}" for n in range(50)))
    write(tmp_path, "inbox/mine.txt", "A note to me@home.example")
    write(tmp_path, "inbox/again.txt", " ".join(f"d7w{n}" for n in range(50)))
    table = cleaned(tmp_path)
    texts = table.pop("text").tolist()
    findings = Findings()
    table = split(drop_duplicates(table, texts, params=PARAMS, findings=findings), texts, PARAMS)
    (mine,) = table.index[table["source"].astype(str).str.startswith("inbox/")]
    assert texts[mine] == "A note to someone@example.com"
    assert table["split"][mine] == "train"
    assert [(row["id"], row["reason"]) for row in findings.dropped] == [("inbox/again.txt", "as a/7.txt")]


def test_rows_are_the_same_in_any_batches_and_only_one_batch_is_in_memory(tmp_path, monkeypatch) -> None:
    for number in range(30):
        write(tmp_path, f"raw/a/{number:02}.txt", " ".join(f"d{number}w{n}" for n in range(60)))
    whole = cleaned(tmp_path)
    sizes: list[int] = []

    def counted(batch: Sequence[Document], **options: object) -> corpus.Cleaned:
        sizes.append(len(batch))
        return clean(batch, **options)

    clean = corpus.clean
    monkeypatch.setattr(corpus, "clean", counted)
    monkeypatch.setattr(corpus, "map_in_order", map)
    monkeypatch.setattr(corpus, "BATCH", 1_000)
    pd.testing.assert_frame_equal(cleaned(tmp_path), whole)
    assert max(sizes) <= 3
    with pa.memory_map(str(tmp_path / "work/rows.arrow")) as file:
        assert pa.ipc.open_file(file).num_record_batches == len(sizes)


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="raw"):
        cleaned(tmp_path)


def test_tokenizer_bpe_is_trained_on_the_texts_and_an_unknown_name_is_refused() -> None:
    params = PARAMS.model_copy(update={"vocabulary_size": 270})
    texts = ["the cat sat on the mat and the dog ate the hat"] * 9
    assert choose_encoding(params, texts)._mergeable_ranks == train_bpe(texts, 270)._mergeable_ranks
    with pytest.raises(UserError, match="gpt3"):
        choose_encoding(params.model_copy(update={"tokenizer": "gpt3"}), texts)
