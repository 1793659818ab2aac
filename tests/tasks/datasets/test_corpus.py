import json

import numpy as np
import pandas as pd
import pytest
from token_files import write_tokens

from llm.errors import UserError
from llm.tokenizer import train_bpe
from tasks.data.shingles import text_hashes
from tasks.data.splits import split
from tasks.datasets.corpus import Params, choose_encoding, read_corpus


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def chat(*messages):
    return {"messages": [[{"sender": sender, "text": text} for sender, text in messages]]}


def test_every_kind_of_file_becomes_documents_in_the_order_of_paths(tmp_path):
    chats = {"one": chat(("x", "Hi\nthere"), ("y", "Hello"), ("y", ""), ("x", "Bye")), "two": chat(("x", "Anyone?"))}
    write(tmp_path, "talk/dataset.json", json.dumps(chats))
    write(tmp_path, "notes/rows.jsonl", '{"text": "first"}\n\n{"text": "third", "more": 1}\n')
    write(tmp_path, "books/part/a.txt", "\ufeffOne.\r\n\r\n \r\n  Two.\n")
    write(tmp_path, "books/.hidden", b"\xff")
    assert read_corpus(tmp_path).to_dict("split")["data"] == [
        ["books/part/a.txt", "books", "One.\n\n  Two."],
        ["notes/rows.jsonl#1", "notes", "first"],
        ["notes/rows.jsonl#3", "notes", "third"],
        ["talk/dataset.json#one", "talk", "A: Hi there\nB: Hello\nA: Bye"],
    ]


def test_broken_characters_are_mended_and_composed(tmp_path):
    write(tmp_path, "a/a.txt", "schÃ¶n, cafe\u0301")
    assert read_corpus(tmp_path)["text"].item() == "schön, café"


def test_a_long_text_is_cut_at_blank_lines_into_even_pieces(tmp_path):
    paragraphs = [f"Paragraph {n}. " + "word " * 40 + "end\nof it" for n in range(600)]
    write(tmp_path, "a/book.txt", "\n\n".join(paragraphs))
    table = read_corpus(tmp_path)
    assert table["id"].tolist() == [f"a/book.txt#{n}" for n in range(1, 15)]
    assert table["text"].str.len().between(9_400, 9_800).all()
    assert "\n\n".join(table["text"]) == "\n\n".join(paragraphs)


@pytest.mark.parametrize("mark", ["\n", " "])
def test_a_text_without_blank_lines_is_cut_at_line_ends_and_one_without_lines_at_spaces(tmp_path, mark):
    words = [f"Word{n}" for n in range(12_000)]
    write(tmp_path, "a/book.txt", mark.join(words))
    table = read_corpus(tmp_path)
    assert len(table) == 11
    assert table["text"].str.len().between(9_850, 9_950).all()
    assert mark.join(table["text"]) == mark.join(words)


def test_a_text_without_spaces_stays_whole_for_the_expectations_to_find(tmp_path):
    write(tmp_path, "a/blob.txt", "x" * 30_000)
    assert read_corpus(tmp_path)[["id", "text"]].to_numpy().tolist() == [["a/blob.txt", "x" * 30_000]]


def test_rows_are_cut_like_files_and_what_stands_beside_them_changes_no_cut(tmp_path):
    rows = [{"text": " ".join(f"r{n}w{i}" for i in range(length))} for n, length in enumerate([2_500] * 120 + [20_000])]
    write(tmp_path, "a/rows.jsonl", "\n".join(map(json.dumps, rows)))
    write(tmp_path, "b/rows.jsonl", json.dumps(rows[0]))
    table = read_corpus(tmp_path)
    assert table["id"].tolist() == [
        *(f"a/rows.jsonl#{n}" for n in range(1, 121)),
        *(f"a/rows.jsonl#121#{n}" for n in range(1, 22)),
        "b/rows.jsonl#1",
    ]
    assert table["text"][120:141].str.len().between(9_900, 10_000).all()
    (tmp_path / "b/rows.jsonl").write_text("\n".join(map(json.dumps, rows[:100])))
    assert read_corpus(tmp_path)["text"][:141].equals(table["text"][:141])


def test_a_text_too_small_for_ten_pieces_is_cut_smaller_and_a_note_is_not(tmp_path):
    write(tmp_path, "a/book.txt", "\n\n".join(f"{n} " * 30 + "so many times." for n in range(1_000, 1_130)))  # 20 kB
    write(tmp_path / "inbox", "note.txt", "A note of one's own.\n\nIn two paragraphs.")
    assert len(read_corpus(tmp_path / "inbox")) == 1
    (tmp_path / "inbox/note.txt").unlink()
    table = read_corpus(tmp_path)
    assert len(table) == 10
    assert table["text"].str.len().between(1_900, 2_400).all()
    assert shared(table)["split"].value_counts().to_dict() == {"train": 8, "validation": 1, "test": 1}


def shared(table):
    """As the default parameters share it out."""
    params = Params(seed=1, validation=0.02, test=0.02, near_duplicate=0.8)
    return split(table, text_hashes(table["text"]), params)


@pytest.mark.parametrize("characters", [100_000, 500_000])
def test_one_book_is_a_corpus_under_the_default_shares(tmp_path, characters):
    paragraphs = (" ".join(f"w{n}" for n in range(p, p + 60)) for p in range(2_000))
    write(tmp_path, "a/book.txt", "\n\n".join(paragraphs)[:characters])
    table = read_corpus(tmp_path)
    counts = shared(table)["split"].value_counts()
    assert len(table) == pytest.approx(characters / 10_000, rel=0.05)
    assert counts[["validation", "test"]].between(1, 5).all()


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"holds no files; run `threestage fetch"):
        read_corpus(tmp_path)


def test_a_bpe_tokenizer_is_trained_on_the_texts_and_an_unknown_name_is_refused():
    params = Params(seed=1, validation=0.1, test=0.1, near_duplicate=0.8, vocabulary_size=270)
    texts = ["the cat sat on the mat and the dog ate the hat"] * 9
    assert choose_encoding(params, texts)._mergeable_ranks == train_bpe(texts, 270)._mergeable_ranks
    with pytest.raises(UserError, match=r"^'gpt3' is no tiktoken encoding; known are .*gpt2"):
        choose_encoding(params.model_copy(update={"tokenizer": "gpt3"}), texts)


@pytest.mark.parametrize(("more_tokens", "dtype", "code"), [(0, "uint16", "<u2"), (65_536, "uint32", "<u4")])
def test_tokens_are_written_in_order_with_an_end_after_each_document(tmp_path, more_tokens, dtype, code):
    texts = ["the cat sat on the mat", "émigré <|endoftext|>", "the end"]
    encoding = train_bpe(texts, 270)
    end = encoding.eot_token + more_tokens
    encoding._special_tokens["<|endoftext|>"] = end
    encoding = type(encoding)(
        "x",
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens=encoding._special_tokens,
    )
    tables = {"train": pd.DataFrame({"text": texts[:2]}), "test": pd.DataFrame({"text": texts[2:]})}
    meta = write_tokens(encoding, tables, tmp_path)
    assert json.loads((tmp_path / "meta.json").read_text()) == meta
    train, test = (np.fromfile(tmp_path / f"{split}.bin", code).tolist() for split in ("train", "test"))
    assert [encoding.decode(ids) for ids in (train[: train.index(end)], test[:-1])] == [texts[0], texts[2]]
    assert train.count(end) == 2
    assert train[-1] == test[-1] == end
    assert meta == {
        "dtype": dtype,
        "vocabulary_size": end + 1,
        "splits": {
            "train": {"documents": 2, "tokens": len(train), "bytes": sum(len(text.encode()) for text in texts[:2])},
            "test": {"documents": 1, "tokens": len(test), "bytes": 7},
        },
    }
